#!/usr/bin/python3
"""layers.py BUSYBOX OUT N: an image of N layers.

The first layer is busybox. Every further one adds a small file and removes
or replaces one that an earlier layer added, and changes a file that all of
them change.
"""

import sys

from oci import REF_NAME, Image, Layout, Tar


def main(busybox, out, count):
    layout = Layout.create(out)
    image = Image(layout, busybox)
    for i in range(1, count):
        tar = Tar()
        tar.dir("layers")
        tar.file("layers/top", "%d\n" % i)
        tar.file("layers/%03d" % i, "layer %d\n" % i * (1 + i % 7), uid=i % 3, mode=0o600 + i % 64)
        victim = i - 1 - i % 5
        if victim > 0 and victim % 7:
            if i % 2:
                tar.whiteout("layers/%03d" % victim)
            else:
                tar.file("layers/%03d" % victim, "replaced by %d\n" % i)
        if i % 16 == 0:
            tar.dir("layers/d%03d" % i)
            tar.file("layers/d%03d/file" % i, "in a directory\n")
        if i % 16 == 8 and i > 16:
            tar.whiteout("layers/d%03d" % (i - 8))
        image.add_layer(tar.bytes(), "layer %d" % i)
    layout.set_index([image.write(annotations={REF_NAME: "latest"})])


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
