# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Reader of EROFS images, made from the kernel's description of the format and from nothing of the product."""

from __future__ import annotations

import stat
import struct
from dataclasses import dataclass

BLOCK = 4096


@dataclass(frozen=True)
class Found:
    """A file, folder or link of an image."""

    mode: int
    uid: int
    gid: int
    mtime_ns: int
    links: int
    content: bytes
    """A file's bytes, a link's target; nothing for a folder."""


class Reader:
    """One image, uncompressed and with whole inodes (64 bytes)."""

    def __init__(self, image: bytes) -> None:
        self.image = image
        magic, _, _, bits, slots, root, inodes = struct.unpack_from("<IIIBBHQ", image, 1024)
        assert (magic, bits, slots) == (0xE0F5E1E2, 12, 0)
        blocks, first = struct.unpack_from("<II", image, 1024 + 36)
        assert len(image) == blocks * BLOCK
        assert struct.unpack_from("<I", image, 1024 + 80) == (0,)  # features that a kernel would have to know
        self.inodes = inodes
        self._first = first * BLOCK
        self._root = root

    def _inode(self, number: int) -> Found:
        offset = self._first + number * 32
        assert offset // BLOCK == (offset + 63) // BLOCK, "an inode lies in one block"
        format_, attributes, mode, _, size, block = struct.unpack_from("<HHHHQI", self.image, offset)
        assert (format_, attributes) == (1, 0)
        uid, gid, seconds, nanoseconds, links = struct.unpack_from("<IIQII", self.image, offset + 24)
        data = self.image[block * BLOCK :][:size] if size else b""
        assert len(data) == size
        return Found(mode, uid, gid, seconds * 10**9 + nanoseconds, links, data)

    def _names(self, data: bytes) -> list[tuple[bytes, int, int]]:
        names = []
        for start in range(0, len(data), BLOCK):
            block = data[start : start + BLOCK]
            (first_name,) = struct.unpack_from("<H", block, 8)
            heads = [struct.unpack_from("<QHB", block, at) for at in range(0, first_name, 12)]
            ends = [offset for _, offset, _ in heads[1:]] + [len(block)]
            for (number, offset, kind), end in zip(heads, ends, strict=True):
                names.append((block[offset:end].rstrip(b"\0"), number, kind))
        # The kernel looks a name up by halving.
        assert [name for name, _, _ in names] == sorted({name for name, _, _ in names})
        return names

    def walk(self) -> dict[bytes, Found]:
        """Everything: path below the root -> what is there."""
        found: dict[bytes, Found] = {}

        def folder(number: int, path: bytes, parent: int) -> None:
            each = self._inode(number)
            assert stat.S_ISDIR(each.mode)
            names = self._names(each.content)
            entries = {name: (below, kind) for name, below, kind in names}
            assert entries.pop(b".") == (number, 2)
            assert entries.pop(b"..") == (parent, 2)
            assert each.links == 2 + sum(kind == 2 for _, kind in entries.values())
            found[path] = Found(each.mode, each.uid, each.gid, each.mtime_ns, each.links, b"")
            for name, (below, kind) in entries.items():
                whole = path + b"/" + name if path else name
                node = self._inode(below)
                assert kind == {stat.S_IFREG: 1, stat.S_IFDIR: 2, stat.S_IFLNK: 7}[stat.S_IFMT(node.mode)]
                if kind == 2:
                    folder(below, whole, number)
                else:
                    found[whole] = node

        folder(self._root, b"", self._root)
        assert len(found) == self.inodes
        return found
