# shellcheck shell=bash
# big500 with zstd layers, recompressed by skopeo.
recipe() {
	recompress big500
}
