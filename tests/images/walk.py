#!/usr/bin/python3
"""walk.py [OPTION...] DIR: print a canonical listing of a tree.

One line for each path, sorted by the bytes of the path, to be compared with
diff. Python 3 standard library only, and one file, so that it can be run
inside a sandbox, too.

    ./etc/passwd  f 0644 0:0 mtime=1700000000.000000000 size=123 sha256=...

Columns: path, type (d directory, f file, l link, p fifo, s socket), mode,
uid:gid, then as far as they apply mtime, size, sha256 or "unreadable",
target of a symbolic link, hard=FIRST for a file with several names in the
tree (FIRST sorts first among them), xattr:NAME=HEX. Whatever is no printable
ASCII character, and space and backslash, stands as \\xNN.

Devices are left out, since an ordinary user cannot make them. Other file
systems mounted below DIR are not entered.

    --no-mtime       without times
    --no-dir-mtime   without times of directories: a layer that changes what
                     is in a directory need not say what the time shall be
    --no-content     without sha256
    --exclude PATH   without PATH (as printed, "./proc") and what is below it;
                     "." stands for the line of the top directory alone
"""

import argparse
import hashlib
import os
import re
import stat
import sys

# Not the image's: overlays' own notes, labels of the system.
FOREIGN = re.compile(
    r"trusted\.|user\.(overlay|fuseoverlayfs|containers)\.|security\.(selinux|ima|evm|apparmor)$"
)

TYPES = {
    stat.S_IFDIR: "d",
    stat.S_IFREG: "f",
    stat.S_IFLNK: "l",
    stat.S_IFIFO: "p",
    stat.S_IFSOCK: "s",
}


def escape(name):
    name = os.fsencode(name)
    return re.sub(rb"[^!-\[\]-~]", lambda m: b"\\x%02x" % m.group()[0], name).decode()


def nanoseconds(ns):
    return "%s%d.%09d" % ("-" if ns < 0 else "", *divmod(abs(ns), 1000000000))


def content(path):
    try:
        with open(path, "rb") as f:
            digest = hashlib.sha256()
            while chunk := f.read(1 << 20):
                digest.update(chunk)
            return "sha256=" + digest.hexdigest()
    except PermissionError:
        return "unreadable"


def xattrs(path):
    try:
        names = sorted(os.listxattr(path, follow_symlinks=False))
    except OSError:
        return
    for name in names:
        if not FOREIGN.match(name):
            value = os.getxattr(path, name, follow_symlinks=False)
            yield "xattr:%s=%s" % (escape(name), value.hex())


def paths(top, exclude):
    """Yield (path, status) for everything below top, in no special order."""
    device = os.lstat(top).st_dev
    todo = [b"."]
    while todo:
        path = todo.pop()
        if path != b"." and escape(path) in exclude:
            continue
        full = os.path.join(top, path)
        status = os.lstat(full)
        if path != b"." and stat.S_ISDIR(status.st_mode) and status.st_dev != device:
            continue
        if path != b"." or "." not in exclude:
            yield path, status
        if stat.S_ISDIR(status.st_mode):
            try:
                names = os.listdir(full)
            except PermissionError:
                print("walk.py: cannot read " + escape(path), file=sys.stderr)
                continue
            todo.extend(path + b"/" + name for name in names)


def main():
    parser = argparse.ArgumentParser(add_help=False, usage=__doc__)
    parser.add_argument("dir")
    parser.add_argument("--no-mtime", action="store_true")
    parser.add_argument("--no-dir-mtime", action="store_true")
    parser.add_argument("--no-content", action="store_true")
    parser.add_argument("--exclude", action="append", default=[])
    options = parser.parse_args()

    top = os.fsencode(options.dir)
    entries = sorted(paths(top, set(options.exclude)))
    first = {}
    names = {}
    for path, status in entries:
        if not stat.S_ISDIR(status.st_mode):
            inode = (status.st_dev, status.st_ino)
            first.setdefault(inode, path)
            names[inode] = names.get(inode, 0) + 1

    for path, status in entries:
        kind = TYPES.get(stat.S_IFMT(status.st_mode))
        if kind is None:
            continue
        full = os.path.join(top, path)
        line = [
            escape(path),
            "%s %04o %d:%d" % (kind, stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid),
        ]
        if not (options.no_mtime or (options.no_dir_mtime and kind == "d")):
            line.append("mtime=" + nanoseconds(status.st_mtime_ns))
        if kind == "f":
            line.append("size=%d" % status.st_size)
            if not options.no_content:
                line.append(content(full))
        if kind == "l":
            line.append("target=" + escape(os.readlink(full)))
        inode = (status.st_dev, status.st_ino)
        if names.get(inode, 0) > 1:
            line.append("hard=" + escape(first[inode]))
        line.extend(xattrs(full))
        print(" ".join(line))


if __name__ == "__main__":
    main()
