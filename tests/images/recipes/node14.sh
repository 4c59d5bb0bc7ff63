# shellcheck shell=bash
# Node 14 as the official image has it, from the npm registry: see lib.sh.
recipe() {
	node_image "$NODE14_VERSION" "$NPM6_VERSION"
}
