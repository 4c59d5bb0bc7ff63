#!/bin/sh
# Runs a command of the image; anything that is no command is for node:
# an option, a script, or a file that cannot be executed.
set -e

for_node() {
	case $1 in
		-*) return 0 ;;
	esac
	found=$(command -v "$1") || return 0
	# A script in the current directory has no need to be executable.
	[ -f "$1" ] && [ ! -x "$1" ] && return 0
	[ -z "$found" ]
}

if for_node "${1-}"; then
	exec node "$@"
fi
exec "$@"
