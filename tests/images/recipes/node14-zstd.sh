# shellcheck shell=bash
# node14 with zstd layers, recompressed by skopeo.
recipe() {
	recompress node14
}
