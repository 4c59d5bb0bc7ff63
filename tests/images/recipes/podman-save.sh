# shellcheck shell=bash
# node14 as "podman save" writes it: a docker-archive and an oci-archive.
recipe() {
	local format=docker-archive
	[ "$NAME" = podman-save.tar ] || format=oci-archive
	store_podman pull --quiet "oci:$DIR/node14:latest"
	store_podman tag "$(store_podman images --quiet --no-trunc)" localhost/node14:latest
	store_podman save --quiet --format "$format" --output "$OUT" localhost/node14:latest
}
