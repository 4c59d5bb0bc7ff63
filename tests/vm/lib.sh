# What build, run, suite and matrix share. Sourced by bash.
# shellcheck shell=bash

vm_source=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
stage=${HAMPER_TEST_STAGE:-/var/tmp/hamper-tests-$(id -u)}
vm=${HAMPER_TEST_VM:-$stage/vm}
kernels=(6.1 6.12)

die() {
	printf 'tests/vm: %s\n' "$*" >&2
	exit 125
}

variants() {
	local file
	for file in "$vm_source"/guest/variants/*; do
		basename "$file"
	done
}

# The directory of what build makes from these inputs. What the guest reads from a share at each boot is not among them.
vm_key() {
	{
		cat "$vm_source/build" "$vm_source/guest/init"
		sed -n 's/^VERSION_CODENAME=//p' /etc/os-release
		uname -m
	} | sha256sum | cut -c 1-16
}
