# shellcheck shell=bash
# The smallest useful image: a static busybox and its applets, one layer.
recipe() {
	local tree=$WORK/tree applet
	deb_extract busybox-static "$WORK/deb"
	mkdir -p "$tree"/{bin,dev,etc,home,proc,sys,tmp,var}
	install -m 755 "$WORK/deb/bin/busybox" "$tree/bin/busybox"
	for applet in $("$tree/bin/busybox" --list); do
		[ "$applet" = busybox ] || ln -s busybox "$tree/bin/$applet"
	done
	install -d -m 700 "$tree/root"
	chmod 1777 "$tree/tmp"
	printf '%s\n' 'root:x:0:0:root:/root:/bin/sh' \
		'daemon:x:1:1:daemon:/usr/sbin:/bin/false' \
		'nobody:x:65534:65534:nobody:/home:/bin/false' >"$tree/etc/passwd"
	printf '%s\n' 'root:x:0:' 'daemon:x:1:' 'nogroup:x:65534:' >"$tree/etc/group"
	tree_tar "$tree" "$WORK/layer.tar"
	image_new
	image_layer "$WORK/layer.tar" "busybox-static with its applets"
	image_config --config.env "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
	image_config --clear config.cmd --config.cmd sh
	image_finish
}
