# shellcheck shell=bash
# Compilers, git and node 22: what reproducible builds are tried on.
recipe() {
	image_from node22
	image_apt "apt-get install gcc make libc6-dev git" gcc make libc6-dev git
	image_config --config.user root
	image_config --clear config.entrypoint --clear config.cmd --config.cmd bash
	image_finish
}
