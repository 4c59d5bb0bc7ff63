#!/usr/bin/python3
"""whiteouts.py BUSYBOX OUT NAME: layers with all that a layer may hold.

Everything is below /w. Names say what must become of an entry: "gone" ones
may not be there in the end, all others must. /w/EXPECTED lists both sorts,
one "+ PATH TYPE" or "- PATH" a line, in the escapes of walk.py.

PAX and GNU archives alternate. Left out on purpose, because respected tools
do not agree about them: a whiteout after its own file in the same layer,
entries below a name that a lower layer made a symbolic link, a name twice in
one layer and sparse files of the GNU type "S" (podman refuses both), devices.
"""

import io
import os
import re
import sys
import tarfile

from oci import EPOCH, REF_NAME, Image, Layout, Tar, layer_gzip

GNU = tarfile.GNU_FORMAT
PAX = tarfile.PAX_FORMAT

LONG = b"n" * 255
# Longer than the 100 bytes of the old header and its 155 of prefix.
LONG_PATH = b"w/long/" + b"/".join([b"p" * 60] * 8) + b"/" + b"q" * 200
BYTES = b"w/names/latin1-\xe9\xff-name"
ODD = [
    b"w/names/new\nline",
    b"w/names/back\\slash",
    b"w/names/ space ",
    b"w/names/quote\"'`$",
    b"w/names/-rf",
    b"w/names/\x01\x7f",
    "w/names/utf8-žluťoučký-🐎".encode(),
    b"w/names/...",
    b"w/names/wh.not-a-whiteout",
]


def pax_sparse(tar, name, pieces, size):
    """A sparse file as "tar --sparse --format=posix" stores it (version 1.0)."""
    table = b"%d\n" % len(pieces)
    for offset, piece in pieces:
        table += b"%d\n%d\n" % (offset, len(piece))
    table += bytes(-len(table) % 512)
    data = table + b"".join(piece for _, piece in pieces)
    head, tail = os.path.split(name)
    info = tarfile.TarInfo(head + "/GNUSparseFile.0/" + tail)
    info.mode = 0o644
    info.mtime = EPOCH
    info.size = len(data)
    info.pax_headers = {
        "GNU.sparse.major": "1",
        "GNU.sparse.minor": "0",
        "GNU.sparse.name": name,
        "GNU.sparse.realsize": str(size),
    }
    tar.tar.addfile(info, io.BytesIO(data))


def lower():
    """Layer 1, PAX: what the later layers work on."""
    t = Tar(PAX)
    t.dir("w", mtime="1234567890.123456789")
    for name in ["dir-to-file", "dir-to-link", "dir-to-fifo", "opaque", "opaque-late", "gone-dir",
                 "readd-dir", "same-layer-readd", "merged", "target", "emptied", "locked"]:
        t.dir("w/" + name)
        t.file("w/%s/gone-lower" % name if name not in ("merged", "target", "locked") else "w/%s/lower" % name, "lower\n")
    for name in ["dir-to-file", "opaque", "opaque-late", "gone-dir", "readd-dir", "same-layer-readd"]:
        t.dir("w/%s/gone-sub" % name)
        t.file("w/%s/gone-sub/gone-deep" % name, "deep\n")
        t.symlink("w/%s/gone-link" % name, "/etc/passwd")
    t.dir("w/opaque/sub")
    t.file("w/opaque/sub/gone-lower", "lower\n")
    t.file("w/file-to-dir", "a file first\n")
    t.file("w/file-to-link", "a file first\n")
    t.symlink("w/link-to-dir", "target")
    t.symlink("w/link-to-file", "target/lower")
    t.symlink("w/link-to-link", "nowhere")
    t.file("w/gone-file", "x")
    t.symlink("w/gone-symlink", "target")
    t.file("w/readd-file", "first\n", mode=0o600, uid=1)
    t.file("w/truncated", "long content\n" * 100)
    t.file("w/mode-changes", "same\n", mode=0o644)

    # One inode, several names; later layers take some of them away.
    t.dir("w/hard")
    t.file("w/hard/gone-first", "one inode\n", mode=0o640, uid=1000, gid=1000,
           xattrs={"user.foo": "on the inode"})
    t.hardlink("w/hard/second", "w/hard/gone-first", mode=0o640, uid=1000, gid=1000)
    t.hardlink("w/hard/third", "w/hard/gone-first", mode=0o640, uid=1000, gid=1000)
    t.file("w/hard/rewritten-a", "two names\n")
    t.hardlink("w/hard/rewritten-b", "w/hard/rewritten-a")
    t.symlink("w/hard/symlink", "second")
    t.hardlink("w/hard/symlink-too", "w/hard/symlink", mode=0o777)

    # Metadata.
    t.dir("w/meta")
    t.file("w/meta/xattr", "x", xattrs={"user.foo": "bar", "user.empty-not": "1", "user.utf8": "ž=\n"})
    t.dir("w/meta/xattr-dir", xattrs={"user.foo": "dir"})
    t.file("w/meta/setuid", "#!/bin/sh\n", mode=0o4755)
    t.file("w/meta/setgid", "#!/bin/sh\n", mode=0o2755, gid=1000)
    t.file("w/meta/setuid-owned", "x", mode=0o6711, uid=1000, gid=12345)
    t.dir("w/meta/sticky", 0o1777)
    t.dir("w/meta/setgid-dir", 0o2775, gid=1000)
    t.file("w/meta/setgid-dir/inside", "x", gid=1)
    t.file("w/meta/mode0000", "nobody reads this\n", mode=0)
    t.dir("w/meta/dir0000", 0)
    t.file("w/meta/dir0000/inside", "x", mode=0)
    t.dir("w/meta/readonly", 0o555)
    t.file("w/meta/readonly/inside", "x", mode=0o444)
    t.fifo("w/meta/fifo", 0o620, uid=1)
    for uid in (0, 1, 1000, 12345):
        t.dir("w/meta/owner%d" % uid, uid=uid, gid=uid)
        t.file("w/meta/owner%d/file" % uid, "x", uid=uid, gid=12345 - uid)
        t.symlink("w/meta/owner%d/link" % uid, "file", uid=uid, gid=uid)
    t.file("w/meta/before1970", "x", mtime="-86400.5")
    t.dir("w/meta/before1970-dir", mtime="-1000000000.25")
    t.file("w/meta/nanoseconds", "x", mtime="1600000000.000000001")
    t.symlink("w/meta/nanoseconds-link", "nanoseconds", mtime="1600000000.999999999")
    t.file("w/meta/epoch", "x", mtime=0)
    t.file("w/meta/far-future", "x", mtime="4294967296.5")
    t.file("w/meta/empty", "")
    return t.bytes()


def changes():
    """Layer 2, GNU: replace, hide, empty."""
    t = Tar(GNU)
    t.dir("w", mtime=1234567891)
    t.file("w/dir-to-file", "a file now\n")
    t.symlink("w/dir-to-link", "target")
    t.fifo("w/dir-to-fifo")
    t.dir("w/file-to-dir", 0o750, uid=1)
    t.file("w/file-to-dir/upper", "x")
    t.symlink("w/file-to-link", "target/lower")
    t.dir("w/link-to-dir")
    t.file("w/link-to-dir/upper", "not through the link\n")
    t.file("w/link-to-file", "not through the link\n")
    t.symlink("w/link-to-link", "target/lower")
    t.dir("w/opaque", 0o711, uid=1000, gid=1000)
    t.opaque("w/opaque")
    t.file("w/opaque/upper", "x")
    t.dir("w/opaque/sub")
    t.file("w/opaque/sub/upper", "x")
    # The marker hides lower layers, wherever it stands in its own.
    t.dir("w/opaque-late")
    t.file("w/opaque-late/upper", "x")
    t.opaque("w/opaque-late")
    t.dir("w/emptied")
    t.opaque("w/emptied")
    for name in ["gone-dir", "gone-file", "gone-symlink", "readd-dir", "readd-file", "never-existed"]:
        t.whiteout("w/" + name)
    t.whiteout("w/same-layer-readd")
    t.dir("w/same-layer-readd", 0o700)
    t.file("w/same-layer-readd/upper", "x")
    t.dir("w/merged", 0o711)
    t.file("w/merged/upper", "x")
    t.file("w/truncated", "")
    t.whiteout("w/hard/gone-first")
    t.file("w/hard/rewritten-a", "content of its own\n")
    t.file("w/mode-changes", "same\n", mode=0o4711, uid=1000)
    t.dir("w/meta/readonly", 0o555)
    t.file("w/meta/readonly/from-above", "x", mode=0o400)
    t.dir("w/meta/dir0000", 0)
    t.file("w/meta/dir0000/from-above", "x", mode=0)
    return t.bytes()


def names():
    """Layer 3, PAX: names that hurt."""
    t = Tar(PAX)
    t.dir("w")
    t.dir("w/names")
    for name in ODD + [BYTES]:
        t.file(name, b"name: " + name)
    t.file(b"w/names/" + LONG, "255 bytes\n")
    t.dir(b"w/names/d" + LONG[1:])
    t.symlink(b"w/names/long-target", b"t/" * 300 + b"end")
    t.symlink(b"w/names/target-\xe9", BYTES[8:])
    t.hardlink(b"w/names/hard-\xe9", BYTES)
    t.file(b"w/names/gone-\xff", "x")
    t.file(b"w/names/gone\nline", "x")
    t.dir("w/long")
    parts = LONG_PATH.split(b"/")
    for i in range(3, len(parts)):
        t.dir(b"/".join(parts[:i]))
    t.file(LONG_PATH, "deep\n")
    t.hardlink(LONG_PATH + b"-hard", LONG_PATH)
    return t.bytes()


def names_gnu():
    """Layer 4, GNU: the same with the other extension, "./" in front."""
    t = Tar(GNU)
    t.dir("./")
    t.dir("./w")
    t.dir("./w/names")
    t.file(b"./w/names/gnu-\xe9", "x")
    t.file(b"./w/names/g" + LONG[1:], "255 bytes\n")
    t.whiteout(b"./w/names/gone-\xff")
    t.whiteout(b"./w/names/gone\nline")
    t.file(b"./" + LONG_PATH + b"-gnu", "deep\n")
    t.hardlink(b"./" + LONG_PATH + b"-gnu-hard", b"./" + LONG_PATH + b"-gnu")
    t.symlink(b"./w/names/gnu-long-target", b"u/" * 300 + b"end")
    t.file("./w/no/parent/entries", "x")
    return t.bytes()


def again():
    """Layer 5, PAX, uncompressed: return what was hidden; undo replacements."""
    t = Tar(PAX)
    for name in ["", "/target", "/hard"]:
        t.dir("w" + name)
    t.dir("w/opaque", 0o711, uid=1000, gid=1000)
    t.dir("w/readd-dir", 0o770, uid=1000)
    t.file("w/readd-dir/upper", "x")
    t.file("w/readd-file", "second\n", mode=0o644)
    t.dir("w/dir-to-file")
    t.file("w/dir-to-file/a-directory-again", "x")
    t.dir("w/dir-to-link")
    t.file("w/dir-to-link/a-directory-again", "x")
    t.file("w/target/upper", "x")
    t.whiteout("w/hard/third")
    t.file("w/hard/third", "another file of that name\n")
    t.dir("w/opaque/gone-sub-returned")
    t.opaque("w/opaque/gone-sub-returned")
    t.dir("w/meta/xattr-dir", 0o700, xattrs={"user.bar": "replaced"})
    return t.bytes()


SPARSE = [(0, b"start"), (1 << 20, b"middle" * 100), (3 << 20, b"")]


def sparse():
    """Layer 6: a sparse file as PAX has them."""
    t = Tar(PAX)
    t.dir("w")
    t.dir("w/sparse")
    pax_sparse(t, "w/sparse/pax", SPARSE, 3 << 20)
    return t.bytes()


def cross_links():
    """Only in cross-links: hard links to files of a lower layer. Podman with
    overlay storage refuses them, with vfs it makes them, as umoci does."""
    t = Tar(PAX)
    t.dir("w")
    t.dir("w/hard")
    t.file("w/hard/linked-from-above", "linked by a later layer\n", uid=1)
    t.file("w/hard/gone", "removed by the layer that links to another name\n")
    t.hardlink("w/hard/kept", "w/hard/gone")
    first = t.bytes()
    t = Tar(PAX)
    t.dir("w")
    t.dir("w/hard")
    t.hardlink("w/hard/from-above", "w/hard/linked-from-above", uid=1)
    t.hardlink("w/hard/from-above-too", "w/hard/kept")
    t.whiteout("w/hard/gone")
    return [first, t.bytes()]


def last():
    """Layer 8, PAX: hide a directory for the second time."""
    t = Tar(PAX)
    t.dir("./")
    t.dir("w", mtime="1234567892.000000001")
    t.dir("w/opaque", 0o711, uid=1000, gid=1000)
    t.whiteout("w/opaque/gone-sub-returned")
    return t


def escape(name):
    return re.sub(rb"[^!-\[\]-~]", lambda m: b"\\x%02x" % m.group()[0], name)


def expected(archives):
    """Every path ever written: there in the end unless its name says gone."""
    final = {}
    types = {"5": "d", "0": "f", "2": "l", "6": "p", "S": "f"}
    for data in archives:
        with tarfile.open(fileobj=io.BytesIO(data), encoding="utf-8",
                          errors="surrogateescape") as tar:
            for member in tar:
                name = os.fsencode(os.path.normpath(member.name))
                base = os.path.basename(name)
                if base.startswith(b".wh.") or not name.startswith(b"w/"):
                    continue
                kind = types.get(member.type.decode(), "f")
                if member.type == tarfile.LNKTYPE:
                    kind = "l" if b"symlink" in name else "f"
                if any(part.startswith(b"gone") for part in name.split(b"/")):
                    final[name] = b"- " + escape(name)
                else:
                    final[name] = b"+ " + escape(name) + b" " + kind.encode()
    return b"".join(final[name] + b"\n" for name in sorted(final))


def main(busybox, out, name):
    layout = Layout.create(out)
    image = Image(layout, busybox)
    if name == "cross-links":
        for tar in cross_links():
            image.add_layer(tar, "hard links across layers")
    else:
        whiteouts(image)
    layout.set_index([image.write(annotations={REF_NAME: "latest"})])


def whiteouts(image):
    """The layers of the image "whiteouts"."""
    archives = [lower(), changes(), names(), names_gnu(), again(), sparse()]
    compressors = {1: lambda tar: layer_gzip(tar, members=5), 4: None}
    for i, tar in enumerate(archives):
        image.add_layer(tar, "layer %d" % (i + 1), compress=compressors.get(i, layer_gzip))
    image.add_layer(bytes(1024), "an empty layer")
    final = last()
    final.file("w/EXPECTED", expected(archives))
    image.add_layer(final.bytes(), "layer 8")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3])
