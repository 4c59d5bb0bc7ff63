# shellcheck shell=bash
# About half a gigabyte in eight layers and some 40,000 files, for benchmarks:
# node22 and what a developer might put on it.
recipe() {
	image_from node22
	image_apt "apt-get install python3 with pip" python3 python3-pip python3-venv python3-numpy
	image_apt "apt-get install build-essential git" build-essential git
	image_apt "apt-get install cmake gdb emacs" cmake ninja-build gdb emacs-nox
	image_apt "apt-get install golang" golang-go
	image_finish
}
