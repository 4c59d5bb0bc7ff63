# shellcheck shell=bash
# Steps of "umoci repack": additions, changes, removals, and directories that
# become files or symbolic links and directories again.
#
# This umoci writes whiteouts for what was in a directory even if something
# else takes the directory's place, which podman cannot apply. In umoci-mods
# the directory therefore goes one layer earlier; umoci-swap has it at once.
recipe() {
	local root=$WORK/bundle/rootfs
	image_from busybox
	umoci unpack --image "$OUT:latest" "$WORK/bundle"

	mkdir -p "$root/m"/{keep,to-file,to-link,gone/deep/deeper,"with space"}
	echo 1 >"$root/m/keep/one"
	echo 1 >"$root/m/keep/changes"
	echo 1 >"$root/m/to-file/inside"
	echo 1 >"$root/m/to-link/inside"
	echo 1 >"$root/m/gone/deep/deeper/file"
	echo 1 >"$root/m/with space/file"
	echo 1 >"$root/m/hard-a"
	ln "$root/m/hard-a" "$root/m/hard-b"
	ln -s keep "$root/m/link-to-dir"
	ln -s nowhere "$root/m/dangling"
	chown -R 1000:1000 "$root/m/keep"
	setfattr -n user.colour -v blue "$root/m/keep/one"
	step "add"

	if [ "$NAME" = umoci-swap ]; then
		rm -r "$root/m/to-file" "$root/m/to-link"
		echo 2 >"$root/m/to-file"
		ln -s nowhere "$root/m/to-link"
		step "replace directories"
		image_finish
		return
	fi

	rm -r "$root/m/to-file" "$root/m/to-link" "$root/m/gone"
	step "remove directories"

	echo 2 >"$root/m/keep/changes"
	chmod 4755 "$root/m/keep/one"
	chown 1:1 "$root/m/keep"
	chmod 1777 "$root/m/keep"
	echo 2 >"$root/m/to-file"
	ln -s keep "$root/m/to-link"
	rm "$root/m/link-to-dir"
	mkdir "$root/m/link-to-dir"
	echo 2 >"$root/m/link-to-dir/inside"
	step "change, put others in their place"

	rm "$root/m/to-file" "$root/m/to-link" "$root/m/hard-a"
	mkdir "$root/m/to-file" "$root/m/to-link"
	echo 3 >"$root/m/to-file/again"
	echo 3 >"$root/m/to-link/again"
	rm -r "$root/m/link-to-dir"
	step "and back again"

	ln -s "with space" "$root/m/link-to-dir"
	mkdir "$root/m/gone"
	echo 4 >"$root/m/gone/new"
	rm -r "$root/m/with space"
	rm "$root/bin/vi"
	step "return what was gone"

	touch -d 2001-02-03T04:05:06 "$root/m/keep/one"
	setfattr -x user.colour "$root/m/keep/one"
	setfattr -n user.shape -v round "$root/m/keep"
	step "only metadata"
	image_finish
}

step() {
	find "$root" -newermt @"$EPOCH" -exec touch -h -d @"$EPOCH" {} +
	image_repack "$1"
}
