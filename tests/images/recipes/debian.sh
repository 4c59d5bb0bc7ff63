# shellcheck shell=bash
# A small Debian in one layer: the base that most other images share.
# mmdebstrap has run before (see debian_tar in build), because as an ordinary
# user it must make its own user namespace.
recipe() {
	# mmdebstrap leaves /dev to the tool that packs; images have it empty.
	mkdir -p "$WORK/dev/dev"
	image_new
	mv "$CACHE"/debian-*.tar "$WORK/layer.tar"
	tar --append --file "$WORK/layer.tar" --owner=0 --group=0 --mtime=@"$EPOCH" -C "$WORK/dev" ./dev
	image_layer "$WORK/layer.tar" "mmdebstrap --variant=minbase $(apt_codename)"
	image_config --config.env "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin" \
		--config.cmd bash
	image_finish
}
