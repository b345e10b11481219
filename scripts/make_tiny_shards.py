#!/usr/bin/env python3
"""Makes a data set of many tiny images in tar shards, to see how training starts on a million: docs/scaling.md.

    python3 scripts/make_tiny_shards.py FOLDER --train 1281167 --validation 50000
"""

import argparse
import io
import struct
import tarfile
import zlib
from pathlib import Path

SIDE = 16
CLASSES = 3


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(number: int) -> bytes:
    """A PNG of one colour with stripes, that no other number has."""
    stripe = number.to_bytes(3, "big")
    colour = bytes(200 if channel == number % CLASSES else 40 for channel in range(3))
    rows = b"".join(b"\0" + (stripe if y == 0 else colour) * SIDE for y in range(SIDE))
    header = struct.pack(">IIBBBBB", SIDE, SIDE, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows, 1)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--train", type=int, default=1_281_167)
    parser.add_argument("--validation", type=int, default=50_000)
    parser.add_argument("--shard", type=int, default=10_000, help="images in a shard")
    given = parser.parse_args()
    number = 0
    for split, count in [("train", given.train), ("validation", given.validation)]:
        folder = given.folder / split
        folder.mkdir(parents=True, exist_ok=True)
        for shard, first in enumerate(range(0, count, given.shard)):
            with tarfile.open(folder / f"{shard:05}.tar", "w", format=tarfile.USTAR_FORMAT) as tar:
                for _ in range(min(given.shard, count - first)):
                    for suffix, content in [("png", png(number)), ("cls", str(number % CLASSES).encode())]:
                        member = tarfile.TarInfo(f"{number:08}.{suffix}")
                        member.size = len(content)
                        tar.addfile(member, io.BytesIO(content))
                    number += 1


if __name__ == "__main__":
    main()
