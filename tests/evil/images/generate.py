#!/usr/bin/env python3
"""Makes hostile images, and what hamper must do with each.

    generate.py DIRECTORY

DIRECTORY/expect.json is a list of cases:

    name    one word
    source  as in a profile, relative to DIRECTORY: oci:NAME, oci-archive:NAME.tar, docker-archive:NAME.tar, tar:NAME.tar
    about   what is hostile about it
    refused words that the error must have, all of them; nothing may be left in the store
    loaded  path in the merged tree -> what must be there: absent, file (content), link (target), dir, fifo, mode (octal),
            mtime (seconds), links (number of names), any
    user    the resolved user, where that is the point
    env     of the config, where that is the point

A case has `refused` or `loaded`. Python's standard library only; the archives are written byte by byte.
"""

import gzip
import hashlib
import io
import json
import os
import platform
import struct
import sys

ARCH = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
OUT = sys.argv[1] if len(sys.argv) == 2 else sys.exit(__doc__)
CASES = []
ZERO = bytes(512)
OCI = "application/vnd.oci.image."


# --- tar ---------------------------------------------------------------------------------------------------------------------------

def octal(value, width):
    return b"%0*o\0" % (width - 1, value)


def checksum(block):
    block = block[:148] + b" " * 8 + block[156:]
    return block[:148] + b"%06o\0 " % sum(block) + block[156:]


def header(name, kind=b"0", size=0, link=b"", mode=0o644, uid=0, gid=0, mtime=1700000000, magic=b"ustar\x0000", dev=(0, 0), prefix=b"", raw=None):
    raw = raw or {}
    fields = [
        (0, 100, name), (100, 8, octal(mode, 8)), (108, 8, octal(uid, 8)), (116, 8, octal(gid, 8)), (124, 12, octal(size, 12)),
        (136, 12, octal(mtime, 12)), (156, 1, kind), (157, 100, link), (257, 8, magic), (329, 8, octal(dev[0], 8)),
        (337, 8, octal(dev[1], 8)), (345, 155, prefix),
    ]
    block = bytearray(512)
    for at, width, value in fields:
        value = raw.get(at, value)
        block[at:at + min(width, len(value))] = value[:width]
    for at, value in raw.items():
        block[at:at + len(value)] = value
    return checksum(bytes(block))


def pad(data):
    return data + bytes(-len(data) % 512)


def entry(name, data=b"", **more):
    name = name.encode() if isinstance(name, str) else name
    more.setdefault("size", len(data))
    return header(name, **more) + pad(data)


def directory(name, **more):
    more.setdefault("mode", 0o755)
    return entry(name, kind=b"5", **more)


def symlink(name, target, **more):
    return entry(name, kind=b"2", link=target.encode() if isinstance(target, str) else target, mode=0o777, **more)


def hardlink(name, target, **more):
    return entry(name, kind=b"1", link=target.encode(), **more)


def record(key, value):
    key = key.encode() if isinstance(key, str) else key
    value = value.encode() if isinstance(value, str) else value
    body = b" " + key + b"=" + value + b"\n"
    length = len(body) + 1
    while len(str(length)) + len(body) != length:
        length += 1
    return str(length).encode() + body


def pax(*records, kind=b"x"):
    data = b"".join(one if isinstance(one, bytes) else record(*one) for one in records)
    return entry("pax", data, kind=kind)


def long_name(name, kind=b"L"):
    return entry("././@LongLink", name + b"\0", kind=kind, magic=b"ustar  \0")


END = ZERO * 2


def tar(*parts, end=END):
    return b"".join(parts) + end


# --- compression -------------------------------------------------------------------------------------------------------------------

def gz(data):
    return gzip.compress(data, 6, mtime=0)


def zstd_rle(total, byte=0):
    """A zstd frame of `total` equal bytes: blocks that say "repeat"."""
    out = io.BytesIO()
    # Magic; window of 128 KiB; no content size, no checksum.
    out.write(b"\x28\xb5\x2f\xfd\x00\x38")
    block = 128 << 10
    count = total // block
    for i in range(count):
        out.write(struct.pack("<I", (block << 3) | (1 << 1) | int(i == count - 1))[:3] + bytes([byte]))
    return out.getvalue()


def zstd_raw(data):
    """A zstd frame of blocks that are stored."""
    out = io.BytesIO()
    out.write(b"\x28\xb5\x2f\xfd\x00\x38")
    size = 64 << 10
    pieces = [data[i:i + size] for i in range(0, len(data), size)] or [b""]
    for i, piece in enumerate(pieces):
        out.write(struct.pack("<I", (len(piece) << 3) | int(i == len(pieces) - 1))[:3] + piece)
    return out.getvalue()


# --- images ------------------------------------------------------------------------------------------------------------------------

def digest(data):
    return "sha256:" + hashlib.sha256(data).hexdigest()


class Layout:
    """An image layout; every method returns a descriptor, and everything can be lied about."""

    def __init__(self):
        self.files = {"oci-layout": b'{"imageLayoutVersion":"1.0.0"}'}

    def blob(self, data, media, **lies):
        if isinstance(data, (dict, list)):
            data = json.dumps(data).encode()
        self.files["blobs/sha256/" + digest(data)[7:]] = data
        return {"mediaType": media, "digest": digest(data), "size": len(data), **lies}

    def layer(self, data, compression="", **lies):
        packed = {"": lambda d: d, "+gzip": gz, "+zstd": zstd_raw}[compression](data)
        return self.blob(packed, OCI + "layer.v1.tar" + compression, **lies), digest(data)

    def config(self, diff_ids, command=None, **more):
        value = {"architecture": ARCH, "os": "linux", "config": command or {}, "rootfs": {"type": "layers", "diff_ids": diff_ids}}
        value.update(more)
        return self.blob(value, OCI + "config.v1+json")

    def manifest(self, layers, config, **more):
        value = {"schemaVersion": 2, "mediaType": OCI + "manifest.v1+json", "config": config, "layers": layers}
        value.update(more)
        return self.blob(value, OCI + "manifest.v1+json")

    def image(self, *layers, command=None, compression=""):
        made = [self.layer(layer, compression) for layer in layers]
        return self.manifest([one for one, _ in made], self.config([diff for _, diff in made], command))

    def index(self, *descriptors, **more):
        value = {"schemaVersion": 2, "manifests": list(descriptors)}
        value.update(more)
        self.files["index.json"] = json.dumps(value).encode()
        return self

    def write(self, name):
        for path, data in self.files.items():
            path = os.path.join(OUT, name, path)
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with open(path, "wb") as file:
                file.write(data)

    def write_tar(self, name):
        with open(os.path.join(OUT, name), "wb") as file:
            file.write(tar(*(entry(path, data) for path, data in self.files.items())))


def case(name, source, about, **expected):
    assert all(known["name"] != name for known in CASES), name
    assert ("refused" in expected) != ("loaded" in expected), name
    CASES.append({"name": name, "source": source, "about": about, **expected})


def layout(name, made, about, **expected):
    made.write(name)
    case(name, "oci:" + name, about, **expected)


def layers(name, about, *parts, command=None, **expected):
    """An image of layers, each given as bytes of a whole tar."""
    made = Layout()
    made.index(made.image(*parts, command=command))
    layout(name, made, about, **expected)


def refuse(name, about, parts, *words):
    layers(name, about, tar(*parts), refused=list(words))


def write(name, data):
    with open(os.path.join(OUT, name), "wb") as file:
        file.write(data)


# --- the cases ---------------------------------------------------------------------------------------------------------------------

FILE = entry("ok", b"fine")


def traversal():
    refuse("dotdot", "a path climbs out", [FILE, entry("../evil", b"x")], "`../evil`", "`..`")
    refuse("dotdot-inside", "a path climbs, and would stay inside", [entry("a/../evil", b"x")], "`..`")
    refuse("dotdot-deep", "a path climbs out behind directories", [directory("a/"), entry("a/../../evil", b"x")], "`..`")
    refuse("dotdot-pax", "a PAX path climbs out", [pax(("path", "../../evil")), entry("harmless", b"x")], "`..`")
    refuse("dotdot-longname", "a GNU long name climbs out", [long_name(b"../" * 60 + b"evil"), entry("harmless", b"x", magic=b"ustar  \0")], "`..`")
    refuse("dotdot-prefix", "a ustar prefix climbs out", [entry("evil", b"x", prefix=b"../..")], "`..`")
    layers("absolute", "an absolute path", tar(entry("/evil-absolute", b"x")), loaded={"evil-absolute": {"file": "x"}})
    layers("absolute-slashes", "slashes and dots", tar(entry("//.//./a//./b", b"x")), loaded={"a/b": {"file": "x"}})
    layers("via-symlink", "a file behind a link to the host's /tmp", tar(symlink("out", "/tmp"), entry("out/hamper-evil", b"x")),
           loaded={"tmp/hamper-evil": {"file": "x"}, "out": {"link": "/tmp"}})
    layers("via-symlink-up", "a file behind a link that climbs", tar(symlink("out", "../../../../../../../../tmp"), entry("out/hamper-evil", b"x")),
           loaded={"tmp/hamper-evil": {"file": "x"}})
    layers("via-symlink-proc", "a file behind a magic link", tar(symlink("cwd", "/proc/self/cwd"), entry("cwd/hamper-evil", b"x")),
           loaded={"proc/self/cwd/hamper-evil": {"file": "x"}})
    layers("via-two-symlinks", "links in a row", tar(symlink("a", "b"), symlink("b", "/etc"), entry("a/hamper-evil", b"x")),
           loaded={"etc/hamper-evil": {"file": "x"}})
    layers("symlink-below-symlink", "a directory link that is replaced between entries",
           tar(directory("d"), entry("d/one", b"1"), symlink("d", "/etc"), entry("d/two", b"2")), loaded={"etc/two": {"file": "2"}, "d": {"link": "/etc"}})
    layers("directory-over-symlink", "a directory entry over a link must replace it, not chmod its target",
           tar(symlink("d", "/tmp"), directory("d", mode=0o700), entry("d/x", b"1")), loaded={"d": {"dir": True, "mode": "700"}, "d/x": {"file": "1"}})
    layers("file-over-symlink", "a file over a link replaces the link", tar(symlink("passwd", "/etc/passwd"), entry("passwd", b"mine")),
           loaded={"passwd": {"file": "mine"}})
    layers("symlink-dev", "/dev, /proc, /etc are links", tar(symlink("dev", "/"), symlink("proc", "/tmp"), symlink("etc", "../..")),
           loaded={"dev": {"link": "/"}, "proc": {"link": "/tmp"}})
    refuse("symlink-loop", "a file behind a link to itself", [symlink("loop", "loop"), entry("loop/x", b"x")], "`loop/x`", "os error 40")
    refuse("symlink-loop-two", "a file behind two links in a circle", [symlink("a", "b"), symlink("b", "a"), entry("a/x", b"x")], "`a/x`")
    refuse("symlink-empty", "a link to nothing", [symlink("l", "")], "link to nothing")
    refuse("below-file", "a file below a file", [entry("f", b"x"), entry("f/x", b"y")], "`f/x`")


def roots():
    for name, path in [("root-symlink", "."), ("root-symlink-slash", "./"), ("root-symlink-absolute", "/")]:
        refuse(name, "the root is a link", [symlink(path, "/etc"), entry("evil", b"x")], "root")
    refuse("root-file", "the root is a file", [entry(".", b"x")], "root")
    refuse("root-hardlink", "the root is a hard link", [FILE, hardlink(".", "ok")], "root")
    refuse("root-device", "the root is a device", [entry("./", kind=b"3", dev=(1, 3))], "root")
    layers("root-closed", "the root is a directory that nobody may enter", tar(directory("./", mode=0), FILE), loaded={"ok": {"any": True}})


def hard_links():
    refuse("hardlink-out", "a hard link climbs out", [hardlink("x", "../../../../etc/passwd")], "`..`")
    refuse("hardlink-host", "a hard link to a file of the host", [hardlink("x", "/etc/passwd")], "not in this layer")
    refuse("hardlink-via-symlink", "a hard link behind a link", [symlink("e", "/etc"), hardlink("x", "e/passwd")], "not in this layer")
    refuse("hardlink-self", "a hard link to itself", [entry("x", b"1"), hardlink("x", "x")], "itself")
    refuse("hardlink-directory", "a hard link to a directory", [directory("d"), hardlink("x", "d")], "directory")
    refuse("hardlink-root", "a hard link to the root", [hardlink("x", "/")], "root")
    refuse("hardlink-whiteout", "a hard link to a whiteout", [entry(".wh.w"), hardlink("x", "w")], "whiteout")
    refuse("hardlink-content", "a hard link with content", [FILE, header(b"x", kind=b"1", link=b"ok", size=512) + bytes(512)], "content")
    layers("hardlink-symlink", "a hard link to a link is another name of the link", tar(symlink("l", "/etc/passwd"), hardlink("h", "l")),
           loaded={"h": {"link": "/etc/passwd"}})
    layers("hardlink-then-write", "a file over one of two names leaves the other",
           tar(entry("a", b"1"), hardlink("b", "a"), entry("b", b"2")), loaded={"a": {"file": "1"}, "b": {"file": "2"}})


def whiteouts():
    lower = tar(entry("a", b"1"), entry("d/x", b"1"), entry("d/y", b"1"))
    refuse("whiteout-nothing", "`.wh.` alone", [entry(".wh.")], "whiteout of nothing")
    refuse("whiteout-dot", "a whiteout of the directory itself", [entry("d/.wh..")], "whiteout")
    refuse("whiteout-dotdot", "a whiteout of the directory above", [entry("d/.wh...")], "whiteout")
    refuse("whiteout-nested", "a whiteout of a whiteout", [entry(".wh..wh.x")], "whiteout")
    refuse("whiteout-below", "a file below a whiteout", [entry(".wh.d/x", b"1")], "below a whiteout")
    refuse("whiteout-content", "a whiteout with content", [entry(".wh.x", b"1")], "empty")
    refuse("whiteout-directory", "a whiteout that is a directory", [directory(".wh.x")], "empty")
    refuse("whiteout-climbs", "a whiteout climbs out", [entry("../.wh.etc")], "`..`")
    layers("whiteout-plain", "a whiteout", lower, tar(entry(".wh.a"), entry("d/.wh.x")), loaded={"a": {"absent": True}, "d/x": {"absent": True}, "d/y": {"file": "1"}})
    layers("whiteout-own-before", "a whiteout before the layer's own file", lower, tar(entry(".wh.a"), entry("a", b"2")), loaded={"a": {"file": "2"}})
    layers("whiteout-own-after", "a whiteout after the layer's own file", lower, tar(entry("a", b"2"), entry(".wh.a")), loaded={"a": {"file": "2"}})
    layers("whiteout-own-directory", "a directory that is hidden and made anew", lower, tar(directory("d"), entry("d/z", b"2"), entry(".wh.d")),
           loaded={"d/x": {"absent": True}, "d/z": {"file": "2"}})
    layers("opaque", "an opaque directory, after its own files", lower, tar(entry("d/z", b"2"), entry("d/.wh..wh..opq")),
           loaded={"d/x": {"absent": True}, "d/z": {"file": "2"}})
    layers("opaque-root", "an opaque root", lower, tar(entry(".wh..wh..opq"), entry("z", b"2")), loaded={"a": {"absent": True}, "d": {"absent": True}, "z": {"file": "2"}})
    layers("whiteout-device", "a whiteout as overlayfs writes it", lower, tar(entry("a", kind=b"3", dev=(0, 0))), loaded={"a": {"absent": True}})
    layers("whiteout-link", "a whiteout behind a link of its own layer", lower, tar(symlink("l", "d"), entry("l/.wh.x")), loaded={"d/x": {"file": "1"}})
    layers("aufs", "what AUFS left", tar(FILE, directory(".wh..wh.plnk"), entry(".wh..wh.aufs"), entry(".wh..wh.plnk/1.2", b"x")), loaded={"ok": {"file": "fine"}})
    layers("xattr-opaque", "a layer's own overlay attributes are not obeyed", lower,
           tar(pax(("SCHILY.xattr.user.overlay.opaque", "y"), ("SCHILY.xattr.trusted.overlay.opaque", "y")), directory("d"), entry("d/z", b"2")),
           loaded={"d/x": {"file": "1"}, "d/z": {"file": "2"}})
    layers("xattr-redirect", "nor its redirects", lower,
           tar(pax(("SCHILY.xattr.user.overlay.redirect", "/d"), ("SCHILY.xattr.user.overlay.metacopy", "")), directory("e")),
           loaded={"e/x": {"absent": True}})


def devices_and_modes():
    layers("devices", "device nodes", tar(FILE, entry("sda", kind=b"4", dev=(8, 0)), entry("mem", kind=b"3", dev=(1, 1))),
           loaded={"sda": {"absent": True}, "mem": {"absent": True}, "ok": {"file": "fine"}})
    layers("fifo", "a fifo", tar(entry("pipe", kind=b"6", mode=0o600)), loaded={"pipe": {"fifo": True}})
    layers("setuid", "setuid and setgid files", tar(entry("su", b"x", mode=0o6755)), loaded={"su": {"mode": "6755"}})
    layers("closed", "directories and files of mode 0", tar(directory("d", mode=0), directory("d/e", mode=0), entry("d/e/f", b"x", mode=0)), loaded={"d": {"mode": "0"}})
    for flag in b"8", b"D", b"M", b"N", b"V", b"X", b"A", b"\xff":
        refuse("type-%02x" % flag[0], "an entry of a type that is not supported", [FILE, entry("x", kind=flag)], "not supported")
    layers("old-directory", "a directory as before ustar", tar(entry("d/", kind=b"\0", mode=0o755), entry("d/x", b"1")), loaded={"d/x": {"file": "1"}})
    refuse("file-slash", "a file whose name ends in a slash", [entry("d/", b"1")], "slash")
    refuse("directory-content", "a directory with content", [directory("d", size=512) + bytes(512)], "content")


def pax_tricks():
    hidden = b"x\n22 linkpath=/etc/evil\n"
    layers("pax-newline", "a link target hidden behind a newline in an attribute",
           tar(pax(("SCHILY.xattr.user.x", hidden)), symlink("l", "harmless")), loaded={"l": {"link": "harmless"}})
    inner = tar(entry("smuggled", b"evil"))
    refuse("pax-size-smaller", "a PAX size that turns content into entries", [pax(("size", "0")), entry("outer", inner)], "different sizes")
    layers("pax-size-larger", "a PAX size that turns entries into content",
           tar(pax(("size", str(len(inner)))), header(b"outer", size=0), inner, end=b"") + END, loaded={"outer": {"any": True}, "smuggled": {"absent": True}})
    refuse("pax-size-negative", "a negative PAX size", [pax(("size", "-1")), entry("x", b"1")], "`size`")
    refuse("pax-size-huge", "a PAX size beyond 64 bits", [pax(("size", "99999999999999999999")), entry("x", b"1")], "`size`")
    refuse("pax-size-max", "a PAX size of 2^63-1", [pax(("size", str(2**63 - 1))), entry("x", b"1")], "beyond bounds")
    refuse("pax-size-plus", "a PAX size with a sign", [pax(("size", "+1")), entry("x", b"1")], "`size`")
    refuse("pax-uid-text", "a PAX uid that is no number", [pax(("uid", "root")), entry("x", b"1")], "`uid`")
    refuse("pax-mtime-text", "a PAX time that is no number", [pax(("mtime", "1e9")), entry("x", b"1")], "`mtime`")
    refuse("pax-length-short", "a record that is shorter than it says", [pax(b"99 path=x\n"), entry("x", b"1")], "length")
    refuse("pax-length-zero", "a record of length 0", [pax(b"0 path=x\n"), entry("x", b"1")], "length")
    refuse("pax-length-text", "a record without a length", [pax(b"path=/etc/passwd\n"), entry("x", b"1")], "length")
    refuse("pax-length-huge", "a record of a length beyond all bounds", [pax(b"18446744073709551615 path=x\n"), entry("x", b"1")], "length")
    refuse("pax-no-newline", "a record without its newline", [pax(b"9 path=xx"), entry("x", b"1")], "newline")
    refuse("pax-no-equals", "a record without `=`", [pax(b"8 pathx\n"), entry("x", b"1")], "`=`")
    refuse("pax-trailing", "bytes behind the last record", [pax(("path", "a"), b"\0\0\0"), entry("x", b"1")], "length")
    refuse("pax-no-key", "a record without a key", [pax(b"5 =x\n"), entry("x", b"1")], "key")
    refuse("pax-nul-path", "a NUL in a PAX path", [pax(("path", b"a\0b")), entry("x", b"1")], "NUL")
    refuse("pax-nul-link", "a NUL in a PAX link target", [pax(("linkpath", b"a\0b")), symlink("x", "y")], "NUL")
    refuse("pax-twice", "two PAX headers for one entry", [pax(("path", "a")), pax(("path", "b")), entry("x", b"1")], "two PAX")
    refuse("pax-orphan", "a PAX header at the end", [FILE, pax(("path", "a"))], "not followed")
    refuse("pax-global-between", "a global header behind a PAX header", [pax(("path", "a")), pax(("comment", "b"), kind=b"g"), entry("x", b"1")], "not followed")
    refuse("pax-global-path", "a global header that renames", [pax(("path", "/evil"), kind=b"g"), entry("x", b"1")], "global")
    layers("pax-global-comment", "a global header as git writes it", tar(pax(("comment", "0123"), kind=b"g"), FILE), loaded={"ok": {"file": "fine"}})
    refuse("pax-claims-gigabytes", "a PAX header of 4.5 GB", [header(b"pax", kind=b"x", size=4831838208)], "1048576")
    refuse("pax-claims-more", "a PAX header of 1 MiB and a byte", [entry("pax", bytes((1 << 20) + 1), kind=b"x"), FILE], "1048576")
    refuse("longname-claims-gigabytes", "a long name of 8 GB", [header(b"l", kind=b"L", size=8**11 - 1, magic=b"ustar  \0")], "1048576")
    refuse("longname-long", "a name of 5000 bytes", [long_name(b"a/" * 2500), entry("x", b"1", magic=b"ustar  \0")], "4095")
    refuse("longname-nul", "a long name with a NUL and more behind it", [long_name(b"good\0evil"), entry("x", b"1", magic=b"ustar  \0")], "NUL")
    refuse("longname-twice", "two long names", [long_name(b"a"), long_name(b"b"), entry("x", b"1", magic=b"ustar  \0")], "two long name")
    refuse("component-long", "a name of 256 bytes in a path", [pax(("path", "d/" + "n" * 256)), entry("x", b"1")], "255")
    refuse("deep", "2000 directories above one another", [pax(("path", "d/" * 2000 + "x")), entry("x", b"1")], "deeper")
    refuse("path-empty", "an empty path", [entry("", b"1")], "empty")
    refuse("xattr-large", "an attribute of 100 kB", [pax(("SCHILY.xattr.user.x", "y" * 100000)), entry("x", b"1")], "attributes")
    refuse("xattr-many", "a thousand attributes", [pax(*[("SCHILY.xattr.user.x%d" % i, "y") for i in range(1000)]), entry("x", b"1")], "attributes")
    layers("xattr-privileged", "attributes that need privileges",
           tar(pax(("SCHILY.xattr.security.capability", b"\x01\0\0\x02\0\x20\0\0\0\0\0\0\0\0\0\0\0\0\0\n"), ("SCHILY.xattr.security.selinux", "x")), entry("x", b"1")),
           loaded={"x": {"file": "1"}})
    layers("names-odd", "newlines, escapes and other bytes in names", tar(entry(b"new\nline", b"1"), entry(b"\x1b[31mred", b"2"), entry(b"\xff\xfe", b"3")),
           loaded={"new\nline": {"file": "1"}, "\x1b[31mred": {"file": "2"}})
    layers("mtime-negative", "a time before 1970", tar(pax(("mtime", "-1.5")), entry("x", b"1")), loaded={"x": {"mtime": -2}})
    refuse("uid-absurd", "the owner that means no change", [pax(("uid", "4294967295")), entry("x", b"1")], "owner")
    refuse("uid-huge", "an owner beyond 32 bits", [entry("x", b"1", raw={108: b"\x80\0\0\1\0\0\0\0"})], "owner")
    layers("uid-large", "an owner outside of every range", tar(pax(("uid", "2000000000")), entry("x", b"1")), loaded={"x": {"file": "1"}})


def headers():
    good = header(b"x", size=1)
    refuse("checksum", "a wrong checksum", [b"y" + good[1:], pad(b"1")], "checksum")
    refuse("garbage", "no tar at all", [b"this is not a tar" * 64], "checksum")
    refuse("size-negative", "a size of -1 in base 256", [entry("x", raw={124: b"\xff" * 12})], "size")
    refuse("size-beyond", "a size beyond 63 bits in base 256", [entry("x", raw={124: b"\x80" + b"\xff" * 11})], "size")
    refuse("size-text", "a size that is no number", [entry("x", raw={124: b"00000000o12\0"})], "size")
    refuse("size-hidden", "a size behind a NUL", [entry("x", raw={124: b"\0" + b"00000001000"})], "size")
    refuse("lone-zero-block", "a zero block between entries", [FILE, ZERO, entry("evil", b"x")], "zero block")
    layers("no-end", "no end of archive", tar(FILE, end=b""), loaded={"ok": {"file": "fine"}})
    layers("one-end", "half an end of archive", tar(FILE, end=ZERO), loaded={"ok": {"file": "fine"}})
    layers("tar-trailing", "an entry behind the end", tar(FILE) + entry("evil", b"x"), refused=["follow the end"])
    layers("tar-truncated", "a tar that ends within content", entry("x", b"y" * 5000)[:1024], refused=["in the middle"])
    layers("tar-truncated-header", "a tar that ends within a header", FILE + good[:100], refused=["in the middle"])
    layers("star-prefix", "times in the prefix of a star header", tar(entry("x", b"1", raw={476: b"00000000000\0" * 2, 508: b"tar\0"})), loaded={"x": {"file": "1"}})


def sparse():
    def gnu(name, pieces, real, data, extended=0):
        block = b"".join(octal(offset, 12) + octal(length, 12) for offset, length in pieces)
        return entry(name, data, kind=b"S", magic=b"ustar  \0", raw={386: block, 482: bytes([extended]), 483: octal(real, 12)})

    layers("sparse-gnu", "a sparse file, GNU's old form", tar(gnu("s", [(4096, 4)], 8192, b"data")), loaded={"s": {"size": 8192}})
    layers("sparse-huge", "10 GB of hole", tar(gnu("s", [(0, 4)], 10 * 10**9 // 8, b"data")), loaded={"s": {"size": 10 * 10**9 // 8}})
    refuse("sparse-overlap", "pieces overlap", [gnu("s", [(0, 4), (2, 4)], 8192, b"datadata")], "overlap")
    refuse("sparse-beyond", "a piece behind the end", [gnu("s", [(8190, 4)], 8192, b"data")], "beyond")
    refuse("sparse-short", "less content than the map says", [gnu("s", [(0, 100)], 8192, b"data")], "content")
    refuse("sparse-endless", "extension blocks without end", [gnu("s", [(0, 4)], 8192, b"", extended=1)[:512] + (b"\0" * 504 + b"\1" + b"\0" * 7) * 40], "")
    refuse("sparse-exabytes", "a hole of 8 EB", [pax(("GNU.sparse.major", "1"), ("GNU.sparse.minor", "0"), ("GNU.sparse.name", "s"), ("GNU.sparse.realsize", str(2**63 - 1))),
                                               entry("x", b"1\n0\n0\n".ljust(512, b"\0"))], "beyond bounds")
    one = b"1\n4096\n4\n".ljust(512, b"\0") + b"data"
    layers("sparse-pax-1", "a sparse file, PAX 1.0",
           tar(pax(("GNU.sparse.major", "1"), ("GNU.sparse.minor", "0"), ("GNU.sparse.name", "s"), ("GNU.sparse.realsize", "8192")), entry("x", one)), loaded={"s": {"size": 8192}})
    layers("sparse-pax-size", "PAX 1.0 with a PAX size",
           tar(pax(("GNU.sparse.major", "1"), ("GNU.sparse.minor", "0"), ("GNU.sparse.name", "s"), ("GNU.sparse.realsize", "8192"), ("size", str(len(one)))), entry("x", one), FILE),
           loaded={"s": {"size": 8192}, "ok": {"file": "fine"}})
    layers("sparse-pax-01", "PAX 0.1", tar(pax(("GNU.sparse.size", "8192"), ("GNU.sparse.numblocks", "1"), ("GNU.sparse.map", "4096,4"), ("GNU.sparse.name", "s")), entry("x", b"data")),
           loaded={"s": {"size": 8192}})
    layers("sparse-pax-00", "PAX 0.0", tar(pax(("GNU.sparse.size", "8192"), ("GNU.sparse.numblocks", "1"), ("GNU.sparse.offset", "4096"), ("GNU.sparse.numbytes", "4")), entry("s", b"data")),
           loaded={"s": {"size": 8192}})
    refuse("sparse-name-climbs", "a sparse name climbs out",
           [pax(("GNU.sparse.major", "1"), ("GNU.sparse.minor", "0"), ("GNU.sparse.name", "../../evil"), ("GNU.sparse.realsize", "8192")), entry("x", one)], "`..`")
    refuse("sparse-million", "a map that says it has a million pieces",
           [pax(("GNU.sparse.major", "1"), ("GNU.sparse.minor", "0"), ("GNU.sparse.realsize", "8192")), entry("x", b"1000000\n".ljust(512, b"\0"))], "pieces")


def bombs():
    chunk = gz(bytes(64 << 20))
    made = Layout()
    blob = gz(header(b"zeros", size=10 * 10**9 // 8)) + chunk * 160
    # The diff ID is a lie: nobody gets that far.
    made.index(made.manifest([made.blob(blob, OCI + "layer.v1.tar+gzip")], made.config([digest(b"")])))
    layout("bomb-gzip", made, "10 GB of zeros under gzip", refused=["beyond bounds"])
    made = Layout()
    blob = zstd_rle(10 * 2**30)
    made.index(made.manifest([made.blob(blob, OCI + "layer.v1.tar+zstd")], made.config([digest(b"")])))
    layout("bomb-zstd", made, "10 GB of zeros under zstd", refused=["beyond bounds"])
    made = Layout()
    blob = gz(entry("same", b"") * 65536) * 40
    made.index(made.manifest([made.blob(blob, OCI + "layer.v1.tar+gzip")], made.config([digest(b"")])))
    layout("bomb-entries", made, "2.6 million entries", refused=["beyond bounds"])
    refuse("bomb-directories", "directories within directories, each an entry", [directory("/".join(["d"] * n)) for n in range(1, 49)] + [pax(("path", "e/" * 300 + "x")), FILE], "deeper")
    made = Layout()
    window = b"\x28\xb5\x2f\xfd\x00" + bytes([(31 - 10) << 3]) + struct.pack("<I", (1024 << 3) | 1)[:3] + bytes(1024)
    made.index(made.manifest([made.blob(window, OCI + "layer.v1.tar+zstd")], made.config([digest(bytes(1024))])))
    layout("zstd-window", made, "a zstd frame that wants a window of 2 GB", refused=["zstd"])


def compression():
    data = tar(FILE)

    def packed(name, about, blob, media="+gzip", diff=data, **expected):
        made = Layout()
        made.index(made.manifest([made.blob(blob, OCI + "layer.v1.tar" + media)], made.config([digest(diff)])))
        layout(name, made, about, **expected)

    packed("gzip-members", "gzip of several members", gz(data[:100]) + gz(data[100:700]) + gz(b"") + gz(data[700:]), loaded={"ok": {"file": "fine"}})
    packed("gzip-truncated", "gzip cut off", gz(data)[:-20], refused=["decompressed"])
    packed("gzip-truncated-trailer", "gzip without its length", gz(data)[:-4], refused=["decompressed"])
    packed("gzip-crc", "gzip with a wrong checksum", gz(data)[:-8] + b"\0" * 8, refused=["decompressed"])
    packed("gzip-trailing", "bytes behind gzip", gz(data) + b"garbage", refused=["gzip"])
    packed("gzip-trailing-zeros", "zeros behind gzip", gz(data) + bytes(512), refused=["gzip"])
    packed("gzip-as-plain", "gzip that says it is plain", gz(data), "", refused=["media type"])
    packed("plain-as-gzip", "plain that says it is gzip", data, refused=["media type"])
    packed("gzip-as-zstd", "gzip that says it is zstd", gz(data), "+zstd", refused=["media type"])
    packed("zstd-truncated", "zstd cut off", zstd_raw(data)[:-10], "+zstd", refused=["zstd"])
    packed("zstd-trailing", "bytes behind zstd", zstd_raw(data) + b"garbage!", "+zstd", refused=["zstd"])
    packed("zstd-frames", "zstd of several frames", zstd_raw(data[:600]) + b"\x50\x2a\x4d\x18\x04\0\0\0skip" + zstd_raw(data[600:]), "+zstd", loaded={"ok": {"file": "fine"}})
    packed("empty-blob", "a layer of no bytes", b"", "", b"", loaded={"ok": {"absent": True}})
    packed("unknown-media", "a layer of an unknown type", data, "+xz", refused=["not supported"])
    packed("diff-id", "a wrong diff ID", gz(data), diff=b"other", refused=["diff ID"])


def documents():
    good = tar(FILE)

    def lie(name, about, words, **lies):
        made = Layout()
        descriptor, diff = made.layer(good)
        made.index(made.manifest([{**descriptor, **lies}], made.config([diff])))
        layout(name, made, about, refused=words)

    other = digest(b"other")
    lie("blob-missing", "a layer that is not there", ["missing"], digest=other)
    lie("blob-size", "a wrong size of a layer", ["descriptor says 7"], size=7)
    lie("blob-size-text", "a size that is text", ["`layers[0].size`", "whole number"], size="7")
    lie("blob-size-negative", "a negative size", ["`layers[0].size`"], size=-1)
    lie("blob-size-float", "a size with a point", ["`layers[0].size`"], size=1.5)
    lie("blob-digest-path", "a digest that is a path", ["digest"], digest="sha256:../../../../../../etc/passwd")
    lie("blob-digest-upper", "a digest in capitals", ["digest"], digest=other.upper().replace("SHA256", "sha256"))
    lie("blob-digest-md5", "a digest that is none", ["digest"], digest="md5:d41d8cd98f00b204e9800998ecf8427e")

    made = Layout()
    descriptor, diff = made.layer(good)
    path = "blobs/sha256/" + descriptor["digest"][7:]
    made.files[path] = made.files[path][:-1] + b"!"
    made.index(made.manifest([descriptor], made.config([diff])))
    layout("blob-digest", made, "a layer that is not what its digest says", refused=["malformed"])

    made = Layout()
    descriptor, diff = made.layer(tar(entry("a", b"1")))
    changed = tar(entry("a", b"2"))
    made.files["blobs/sha256/" + descriptor["digest"][7:]] = changed
    made.index(made.manifest([descriptor], made.config([digest(changed)])))
    layout("blob-digest-well-formed", made, "a layer with a wrong digest and the right diff ID", refused=["has digest", "expected"])

    for name, about, change in [
        ("manifest-digest", "a manifest that is not what its digest says", lambda data: data.replace(b"schema", b"Schema", 1)),
        ("manifest-size", "a manifest that is longer than its descriptor says", lambda data: data + b" "),
    ]:
        made = Layout()
        descriptor = made.image(good)
        path = "blobs/sha256/" + descriptor["digest"][7:]
        made.files[path] = change(made.files[path])
        layout(name, made.index(descriptor), about, refused=[descriptor["digest"]])

    def manifest(name, about, words, change):
        made = Layout()
        descriptor, diff = made.layer(good)
        value = {"schemaVersion": 2, "config": made.config([diff]), "layers": [descriptor]}
        made.index(made.blob(change(value), OCI + "manifest.v1+json"))
        layout(name, made, about, refused=words)

    manifest("both", "a document that is index and manifest", ["at once"], lambda m: {**m, "manifests": []})
    manifest("schema-1", "schema version 1", ["schemaVersion"], lambda m: {**m, "schemaVersion": 1})
    manifest("schema-text", "a schema version that is text", ["schemaVersion"], lambda m: {**m, "schemaVersion": "2"})
    manifest("media-contradicts", "a manifest that says it is an index", ["mediaType"], lambda m: {**m, "mediaType": OCI + "index.v1+json"})
    manifest("layers-object", "layers that are no list", ["`layers`"], lambda m: {**m, "layers": {}})
    manifest("layers-missing-diff", "more layers than diff IDs", ["diff IDs"], lambda m: {**m, "layers": m["layers"] * 2})
    manifest("layers-600", "600 layers", ["600"], lambda m: {**m, "layers": m["layers"] * 600})
    manifest("artifact", "an artifact that is no image", ["not an image"], lambda m: {**m, "config": {**m["config"], "mediaType": "application/vnd.cncf.helm.config.v1+json"}})
    manifest("key-case", "keys that differ in case only", ["case"], lambda m: {**m, "Layers": []})
    manifest("duplicate-key", "a key that is there twice", ["duplicate"], lambda m: (json.dumps(m)[:-1] + ',"layers":[]}').encode())
    manifest("json-deep", "JSON within JSON", ["JSON"], lambda m: (json.dumps(m)[:-1] + ',"x":' + "[" * 100000 + "]" * 100000 + "}").encode())
    manifest("json-trailing", "bytes behind the document", ["JSON"], lambda m: json.dumps(m).encode() + b"{}")
    manifest("json-values", "a million values", ["JSON"], lambda m: (json.dumps(m)[:-1] + ',"x":[' + "0," * 1000000 + "0]}").encode())
    manifest("manifest-large", "a manifest of 5 MiB", ["4194304"], lambda m: {**m, "annotations": {"x": "y" * (5 << 20)}})

    made = Layout()
    made.files["index.json"] = b'{"schemaVersion":2,"manifests":[' + b" " * (5 << 20) + b"]}"
    layout("index-large", made, "an index of 5 MiB", refused=["index.json"])
    layout("index-empty", Layout().index(), "an index without images", refused=["index.json"])
    made = Layout()
    layout("index-claims-huge", made.index({**made.image(good), "size": 2**62}), "an index that says that a manifest has 4 EB", refused=["descriptor says"])

    made = Layout()
    descriptor = made.image(good)
    for _ in range(12):
        descriptor = made.blob({"schemaVersion": 2, "manifests": [descriptor]}, OCI + "index.v1+json")
    layout("index-nested", made.index(descriptor), "indexes within indexes", refused=["nested"])

    made = Layout()
    blob = made.blob({"schemaVersion": 2, "manifests": []}, OCI + "index.v1+json")
    path = "blobs/sha256/" + blob["digest"][7:]
    cyclic = json.dumps({"schemaVersion": 2, "manifests": [blob]}).encode()
    made.files[path] = cyclic
    layout("index-cyclic", made.index({**blob, "size": len(cyclic)}), "an index that holds itself", refused=[blob["digest"]])

    made = Layout()
    image = made.image(good)
    unknown = {**made.image(tar(entry("attestation", b"x"))), "platform": {"os": "unknown", "architecture": "unknown"}}
    foreign = {**made.image(tar(entry("foreign", b"x"))), "platform": {"os": "windows", "architecture": ARCH}}
    native = {**image, "platform": {"os": "linux", "architecture": ARCH}}
    layout("index-platforms", made.index(unknown, foreign, native), "attestations and other systems before the image", loaded={"ok": {"file": "fine"}, "attestation": {"absent": True}})

    made = Layout()
    foreign = {**made.image(good), "platform": {"os": "linux", "architecture": "s390x"}}
    layout("index-foreign", made.index(foreign), "no image for this machine", refused=["no image for", "s390x"])

    made = Layout()
    made.index(made.image(good)).files["oci-layout"] = b'{"imageLayoutVersion":"9.9.9"}'
    layout("layout-version", made, "a layout of the future", refused=["imageLayoutVersion"])
    made = Layout()
    made.index(made.image(good)).write("layout-symlink")
    path = os.path.join(OUT, "layout-symlink/blobs/sha256", sorted(os.listdir(os.path.join(OUT, "layout-symlink/blobs/sha256")))[0])
    os.unlink(path)
    os.symlink("/etc/passwd", path)
    case("layout-symlink", "oci:layout-symlink", "a blob that is a link out of the layout", refused=["cannot open"])
    made = Layout()
    made.index(made.image(good)).write("layout-fifo")
    path = os.path.join(OUT, "layout-fifo/blobs/sha256", sorted(os.listdir(os.path.join(OUT, "layout-fifo/blobs/sha256")))[0])
    os.unlink(path)
    os.mkfifo(path)
    case("layout-fifo", "oci:layout-fifo", "a blob that is a fifo", refused=["not a regular file"])


def configs():
    passwd = tar(entry("etc/passwd", b"root:x:0:0::/root:/bin/sh\nnode:x:1000:1000::/home/node:/bin/sh\n1000:x:0:0::/evil:/bin/sh\nwrap:x:4294967296:0::/:\n"),
                 entry("etc/group", b"root:x:0:\nnode:x:1000:\naudio:x:29:node\n"))

    def config(name, about, command, **expected):
        layers(name, about, passwd, command=command, **expected)

    config("user-name", "a user by name", {"User": "node"}, loaded={}, user={"uid": 1000, "gid": 1000, "groups": [29], "home": "/home/node"})
    config("user-number-name", "a user whose number is also a name", {"User": "1000"}, loaded={}, user={"uid": 1000, "gid": 1000, "home": "/home/node"})
    config("user-unknown-number", "a number that passwd does not know", {"User": "4242"}, loaded={}, user={"uid": 4242, "gid": 0, "home": "/"})
    for name, user in [("user-wrap", "4294967296"), ("user-minus-one", "4294967295"), ("user-negative", "-1"), ("user-plus", "+0"), ("user-space", " 0"),
                       ("user-huge", "9" * 40), ("user-group-wrap", "0:4294967296"), ("user-newline", "node\n"), ("user-path", "../root"), ("user-two-colons", "0:0:0")]:
        config(name, "a user that is neither a number that fits nor a name", {"User": user}, refused=["user"])
    config("user-missing", "a user that passwd does not know", {"User": "nosuch"}, refused=["no user"])
    config("user-passwd-wrap", "a user whose number does not fit", {"User": "wrap"}, refused=["no user"])
    config("user-number-type", "a user that is a JSON number", {"User": 0}, refused=["`config.User`", "string"])
    config("env-no-equals", "a variable without a value", {"Env": ["HOME"]}, refused=["`config.Env[0]`", "`=`"])
    config("env-star", "a variable that stands for all", {"Env": ["*=1"]}, refused=["`config.Env[0]`"])
    config("env-no-name", "a variable without a name", {"Env": ["=1"]}, refused=["`config.Env[0]`"])
    config("env-nul", "a variable with a NUL", {"Env": ["A=1\0B=2"]}, refused=["NUL"])
    config("env-text", "variables that are no list", {"Env": "A=1"}, refused=["`config.Env`"])
    config("env-twice", "a variable twice", {"Env": ["A=1", "A=2"]}, loaded={}, env=[["A", "2"]])
    config("cmd-text", "a command that is text", {"Cmd": "sh"}, refused=["`config.Cmd`"])
    config("cmd-nul", "an argument with a NUL", {"Cmd": ["sh\0-c"]}, refused=["NUL"])
    config("labels-list", "labels that are a list", {"Labels": []}, refused=["`config.Labels`"])
    config("labels-hooks", "labels that would steer a careless host", {"Labels": {"io.containers.autoupdate": "registry", "run": "podman run --privileged"}}, loaded={})
    config("volumes-root", "volumes on /proc and /", {"Volumes": {"/proc": {}, "/": {}}}, loaded={})
    config("workdir-fd", "a working directory that is a descriptor", {"WorkingDir": "/proc/self/fd/8"}, loaded={})
    config("workdir-climbs", "a working directory that climbs", {"WorkingDir": "../../../etc"}, loaded={})
    config("workdir-nul", "a working directory with a NUL", {"WorkingDir": "/a\0b"}, refused=["NUL"])
    layers("passwd-fifo", "passwd is a fifo", tar(entry("etc/passwd", kind=b"6")), command={"User": "node"}, refused=["etc/passwd", "not a regular file"])
    layers("passwd-fifo-link", "passwd is a link to a fifo", tar(symlink("etc/passwd", "/pipe"), entry("pipe", kind=b"6")), command={"User": "node"}, refused=["not a regular file"])
    layers("passwd-link-out", "passwd is a link out of the image", tar(symlink("etc/passwd", "../../../../../../../etc/passwd")), command={"User": "root"}, refused=["etc/passwd"])
    layers("passwd-link-host", "passwd is a link to another file", tar(symlink("etc/passwd", "/proc/self/environ")), command={"User": "node"}, refused=["no user"])
    layers("passwd-huge", "passwd of 2 MiB", tar(entry("etc/passwd", b"x" * (2 << 20))), command={"User": "node"}, refused=["etc/passwd", "larger"])
    layers("passwd-fifo-number", "passwd is a fifo, and nobody needs it", tar(entry("etc/passwd", kind=b"6")), command={"User": "7"}, loaded={}, user={"uid": 7, "gid": 0, "home": "/"})

    def whole(name, about, words, **more):
        made = Layout()
        descriptor, diff = made.layer(passwd)
        made.index(made.manifest([descriptor], made.config([diff], **more)))
        layout(name, made, about, refused=words)

    whole("config-os", "an image for another system", ["no image for"], os="windows")
    whole("config-arch", "an image for another processor", ["no image for"], architecture="s390x")
    whole("config-rootfs", "a root file system of another type", ["rootfs.type"], rootfs={"type": "zip", "diff_ids": [digest(b"")]})
    whole("config-diff-ids", "diff IDs that are numbers", ["rootfs.diff_ids[0]"], rootfs={"type": "layers", "diff_ids": [1]})
    whole("config-list", "a config that is a list", ["`config`"], config=[])
    whole("config-large", "a config of 9 MiB", ["8388608"], author="x" * (9 << 20))
    whole("config-history", "a history that is an object", ["`history`"], history={})
    layers("no-layers", "an image without layers", refused=["no layers"])


def archives():
    good = tar(FILE)
    made = Layout()
    made.index(made.image(good)).write_tar("oci-good.tar")
    case("oci-archive", "oci-archive:oci-good.tar", "a layout in a tar", loaded={"ok": {"file": "fine"}})
    with open(os.path.join(OUT, "oci-good.tar"), "rb") as file:
        whole = file.read()
    write("oci-gz.tar", gz(whole))
    case("oci-archive-gzip", "oci-archive:oci-gz.tar", "an archive that is compressed as a whole", refused=["compressed"])
    write("oci-cut.tar", whole[:-3000])
    case("oci-archive-cut", "oci-archive:oci-cut.tar", "an archive that is cut off", refused=[])

    config = json.dumps({"architecture": ARCH, "os": "linux", "rootfs": {"type": "layers", "diff_ids": [digest(good)]}}).encode()
    name = digest(config)[7:] + ".json"

    def docker(case_name, about, files, manifest=None, **expected):
        value = manifest if manifest is not None else [{"Config": name, "RepoTags": ["evil:1"], "Layers": ["a/layer.tar"]}]
        write(case_name + ".tar", tar(*files, entry("manifest.json", json.dumps(value).encode())))
        case(case_name, f"docker-archive:{case_name}.tar", about, **expected)

    docker("docker-good", "as docker save writes it", [entry(name, config), entry("a/layer.tar", good)], loaded={"ok": {"file": "fine"}})
    docker("docker-link", "a layer that is a link within the archive", [entry(name, config), entry("b/layer.tar", good), symlink("a/layer.tar", "../b/layer.tar")], loaded={"ok": {"file": "fine"}})
    docker("docker-link-out", "a layer that is a link out of the archive", [entry(name, config), symlink("a/layer.tar", "../../../../etc/passwd")], refused=["leads out"])
    docker("docker-link-host", "a layer that is a link to a file of the host", [entry(name, config), symlink("a/layer.tar", "/etc/passwd")], refused=["missing"])
    docker("docker-link-loop", "a layer that is a link to itself", [entry(name, config), symlink("a/layer.tar", "layer.tar")], refused=["too many links"])
    docker("docker-layer-climbs", "a layer's path climbs", [entry(name, config)], [{"Config": name, "Layers": ["../../etc/passwd"]}], refused=["leads out"])
    docker("docker-config-missing", "no config", [entry("a/layer.tar", good)], refused=["missing"])
    docker("docker-config-digest", "a config that is not what its name says", [entry(name, config + b" "), entry("a/layer.tar", good)], refused=["has digest"])
    docker("docker-diff-id", "a layer that is not what the config says", [entry(name, config), entry("a/layer.tar", tar(entry("evil", b"x")))], refused=["diff ID"])
    docker("docker-two", "two images", [entry(name, config), entry("a/layer.tar", good)],
           [{"Config": name, "RepoTags": ["a:1"], "Layers": ["a/layer.tar"]}, {"Config": name, "RepoTags": ["b:1"], "Layers": ["a/layer.tar"]}], refused=["several images"])
    docker("docker-none", "no image", [entry(name, config)], [], refused=["no image"])
    docker("docker-object", "a manifest that is no list", [entry(name, config)], {}, refused=["not a list"])
    docker("docker-layers-text", "layers that are text", [entry(name, config)], [{"Config": name, "Layers": "a"}], refused=["`Layers`"])
    docker("docker-device", "a device in the archive", [entry(name, config), entry("a/layer.tar", kind=b"4", dev=(8, 0))], refused=["neither a file"])
    docker("docker-climbs", "an entry of the archive climbs out", [entry("../../evil", b"x"), entry(name, config), entry("a/layer.tar", good)], refused=["leads out"])

    write("plain.tar", good)
    case("tar-plain", "tar:plain.tar", "a plain tar", loaded={"ok": {"file": "fine"}})
    write("plain.tgz", gz(good))
    case("tar-gzip", "tar:plain.tgz", "a tar under gzip", loaded={"ok": {"file": "fine"}})
    write("plain-climbs.tar", tar(entry("../x", b"1")))
    case("tar-climbs", "tar:plain-climbs.tar", "a plain tar climbs out", refused=["`..`"])
    write("plain-xz.tar", b"\xfd7zXZ\0" + bytes(600))
    case("tar-xz", "tar:plain-xz.tar", "a tar under xz", refused=["checksum"])
    os.symlink("/dev/zero", os.path.join(OUT, "zero.tar"))
    case("tar-device", "tar:zero.tar", "a device for an archive", refused=["not a regular file"])
    case("tar-missing", "tar:none.tar", "no archive", refused=["none.tar"])


def main():
    os.makedirs(OUT, exist_ok=True)
    for make in (traversal, roots, hard_links, whiteouts, devices_and_modes, pax_tricks, headers, sparse, bombs, compression, documents, configs, archives):
        make()
    with open(os.path.join(OUT, "expect.json"), "w") as file:
        json.dump(CASES, file, indent=1)
    print(f"{len(CASES)} cases in {OUT}")


main()
