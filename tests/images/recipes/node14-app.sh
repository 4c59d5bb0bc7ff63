# shellcheck shell=bash
# A small application on node14, built by buildah as a user would build it.
recipe() {
	local context=$WORK/context
	cp -a "$HERE/context/app" "$context"
	mkdir -p "$context/node_modules/ms"
	tar -xzf "$(npm_tarball ms "$MS_VERSION")" -C "$context/node_modules/ms" \
		--no-same-owner --strip-components=1
	chmod -R a+rX "$context"
	store_import node14
	store_build "$context"
}
