# shellcheck shell=bash
# A multi-stage build by buildah, one layer per instruction.
recipe() {
	store_import debian
	store_import busybox
	store_build "$HERE/context/multistage" --layers
}
