#!/usr/bin/python3
"""multi-arch.py BUSYBOX OUT: one name for several platforms.

latest: an index with linux/amd64, linux/arm64 and, as buildx writes it, an
        attestation for each under the platform unknown/unknown, and an inner
        index with linux/arm/v7 and linux/386.
nested: an index that holds nothing but the index of latest.
only-arm64: an index without the platform of the machine.

All platforms hold the same (amd64) files; /etc/platform names the platform.
"""

import sys

from oci import CREATED, INDEX, REF_NAME, Image, Layout, Tar, digest_of

PLATFORMS = {
    "linux/amd64": {"architecture": "amd64", "os": "linux"},
    "linux/arm64": {"architecture": "arm64", "os": "linux", "variant": "v8"},
    "linux/arm/v7": {"architecture": "arm", "os": "linux", "variant": "v7"},
    "linux/386": {"architecture": "386", "os": "linux"},
}
IN_TOTO = "application/vnd.in-toto+json"


def platform_image(layout, busybox, name):
    image = Image(layout, busybox)
    image.config.update(PLATFORMS[name])
    tar = Tar()
    tar.file("etc/platform", name + "\n")
    image.add_layer(tar.bytes(), "platform " + name)
    return image.write(platform=PLATFORMS[name])


def attestation(layout, subject):
    image = Image(layout)
    statement = b'{"_type":"https://in-toto.io/Statement/v0.1","predicateType":"https://slsa.dev/provenance/v0.2","subject":[],"predicate":{}}'
    image.layers.append(
        layout.add(
            statement,
            IN_TOTO,
            annotations={"in-toto.io/predicate-type": "https://slsa.dev/provenance/v0.2"},
        )
    )
    image.config = {
        "architecture": "unknown",
        "os": "unknown",
        "created": CREATED,
        "config": {},
        "rootfs": {"type": "layers", "diff_ids": [digest_of(statement)]},
    }
    return image.write(
        annotations={
            "vnd.docker.reference.digest": subject["digest"],
            "vnd.docker.reference.type": "attestation-manifest",
        },
        platform={"architecture": "unknown", "os": "unknown"},
    )


def index(layout, manifests, **more):
    return layout.add_json(
        {"schemaVersion": 2, "mediaType": INDEX, "manifests": manifests}, INDEX, **more
    )


def main(busybox, out):
    layout = Layout.create(out)
    images = {name: platform_image(layout, busybox, name) for name in PLATFORMS}
    inner = index(layout, [images["linux/arm/v7"], images["linux/386"]])
    latest = index(
        layout,
        [
            attestation(layout, images["linux/arm64"]),
            images["linux/arm64"],
            images["linux/amd64"],
            attestation(layout, images["linux/amd64"]),
            inner,
        ],
    )
    nested = index(layout, [dict(latest)])
    only_arm64 = index(layout, [images["linux/arm64"]])
    layout.set_index(
        [
            {**latest, "annotations": {REF_NAME: "latest"}},
            {**nested, "annotations": {REF_NAME: "nested"}},
            {**only_arm64, "annotations": {REF_NAME: "only-arm64"}},
        ]
    )


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
