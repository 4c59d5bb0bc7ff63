"""Writes image layouts by hand, for images that no tool would make.

Python 3 standard library only. A library for the scripts beside it.
"""

import gzip
import hashlib
import io
import json
import os
import shutil
import tarfile

EPOCH = 1700000000
CREATED = "2023-11-14T22:13:20Z"

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar"
REF_NAME = "org.opencontainers.image.ref.name"


def digest_of(data):
    return "sha256:" + hashlib.sha256(data).hexdigest()


class Layout:
    """An image layout directory."""

    def __init__(self, path):
        self.path = path

    @classmethod
    def create(cls, path):
        os.makedirs(os.path.join(path, "blobs", "sha256"))
        with open(os.path.join(path, "oci-layout"), "w") as f:
            f.write('{"imageLayoutVersion":"1.0.0"}')
        return cls(path)

    def blob_path(self, digest):
        return os.path.join(self.path, "blobs", *digest.split(":"))

    def read(self, digest):
        with open(self.blob_path(digest), "rb") as f:
            return f.read()

    def read_json(self, digest):
        return json.loads(self.read(digest))

    def add(self, data, media_type, **more):
        """Store a blob and return its descriptor."""
        digest = digest_of(data)
        with open(self.blob_path(digest), "wb") as f:
            f.write(data)
        return {"mediaType": media_type, "digest": digest, "size": len(data), **more}

    def add_json(self, value, media_type, **more):
        return self.add(json.dumps(value, separators=(",", ":")).encode(), media_type, **more)

    def set_index(self, descriptors):
        with open(os.path.join(self.path, "index.json"), "w") as f:
            json.dump(
                {"schemaVersion": 2, "mediaType": INDEX, "manifests": descriptors},
                f,
                separators=(",", ":"),
            )

    def index(self):
        with open(os.path.join(self.path, "index.json")) as f:
            return json.load(f)


def layer_gzip(tar, members=1):
    """Compress a layer, on demand as several gzip members in a row."""
    step = -(-len(tar) // members)
    return b"".join(
        gzip.compress(tar[i : i + step], 6, mtime=0) for i in range(0, len(tar), step)
    )


class Image:
    """The layers and configuration of one image, begun as another image."""

    def __init__(self, layout, base=None):
        self.layout = layout
        self.layers = []
        self.config = {
            "created": CREATED,
            "architecture": "amd64",
            "os": "linux",
            "config": {},
            "rootfs": {"type": "layers", "diff_ids": []},
            "history": [],
        }
        if base is not None:
            source = Layout(base)
            manifest = source.read_json(source.index()["manifests"][0]["digest"])
            self.config = source.read_json(manifest["config"]["digest"])
            for layer in manifest["layers"]:
                shutil.copyfile(
                    source.blob_path(layer["digest"]), layout.blob_path(layer["digest"])
                )
                self.layers.append(layer)

    def add_layer(self, tar, comment, compress=layer_gzip):
        """Add an uncompressed tar archive (bytes) as a layer."""
        if compress is None:
            descriptor = self.layout.add(tar, LAYER)
        else:
            descriptor = self.layout.add(compress(tar), LAYER + "+gzip")
        self.layers.append(descriptor)
        self.config["rootfs"]["diff_ids"].append(digest_of(tar))
        self.config["history"].append({"created": CREATED, "created_by": comment})

    def write(self, **more):
        """Store configuration and manifest, return the manifest's descriptor."""
        config = self.layout.add_json(self.config, CONFIG)
        manifest = {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": config,
            "layers": self.layers,
        }
        return self.layout.add_json(manifest, MANIFEST, **more)


class Tar:
    """A tar archive in memory with names and metadata given to the byte."""

    def __init__(self, format=tarfile.PAX_FORMAT):
        self.buffer = io.BytesIO()
        self.tar = tarfile.open(
            fileobj=self.buffer,
            mode="w",
            format=format,
            encoding="utf-8",
            errors="surrogateescape",
        )

    def entry(self, name, type, mode, data=None, link="", uid=0, gid=0, mtime=EPOCH, xattrs=None):
        info = tarfile.TarInfo(os.fsdecode(name))
        info.type = type
        info.mode = mode
        info.uid = uid
        info.gid = gid
        info.linkname = os.fsdecode(link)
        if isinstance(mtime, str):
            # A string goes into the extended header as it is: no float between.
            info.pax_headers["mtime"] = mtime
            info.mtime = 0
        else:
            info.mtime = mtime
        for key, value in (xattrs or {}).items():
            info.pax_headers["SCHILY.xattr." + key] = value
        if data is None:
            self.tar.addfile(info)
        else:
            info.size = len(data)
            self.tar.addfile(info, io.BytesIO(data))

    def dir(self, name, mode=0o755, **more):
        self.entry(name, tarfile.DIRTYPE, mode, **more)

    def file(self, name, data=b"", mode=0o644, **more):
        if isinstance(data, str):
            data = data.encode()
        self.entry(name, tarfile.REGTYPE, mode, data=data, **more)

    def symlink(self, name, target, **more):
        self.entry(name, tarfile.SYMTYPE, 0o777, link=target, **more)

    def hardlink(self, name, target, mode=0o644, **more):
        self.entry(name, tarfile.LNKTYPE, mode, link=target, **more)

    def fifo(self, name, mode=0o644, **more):
        self.entry(name, tarfile.FIFOTYPE, mode, **more)

    def whiteout(self, name):
        head, tail = os.path.split(os.fsencode(name))
        self.file(os.path.join(head, b".wh." + tail), mode=0)

    def opaque(self, name):
        self.file(os.path.join(os.fsencode(name), b".wh..wh..opq"), mode=0)

    def bytes(self):
        self.tar.close()
        return self.buffer.getvalue()
