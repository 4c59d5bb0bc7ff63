# shellcheck shell=bash
# Node 22 as the official image has it, from the npm registry: see lib.sh.
recipe() {
	node_image "$NODE22_VERSION" "$NPM10_VERSION"
}
