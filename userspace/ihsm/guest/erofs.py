# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Read-only file system images in the EROFS format, uncompressed, as Linux mounts them from 5.4 on.

Written here, for what every guest needs shall take no tool that a machine may lack. Layout and names are those of the
kernel's Documentation/filesystems/erofs.rst: the superblock at byte 1024, then inodes of 64 bytes, then the blocks of
folders and files, each file's in one piece.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from struct import Struct
from typing import BinaryIO, Final

BLOCK_BYTES: Final = 4096
_MAGIC: Final = 0xE0F5E1E2
_BLOCK_BITS: Final = 12
_SUPERBLOCK_OFFSET: Final = 1024
_SUPERBLOCK: Final = Struct("<IIIBBHQQIIII16s16sI44x")
"""Magic, checksum, compatible features, log2 of the block size, extra slots, number of the root's inode, number of
inodes, build time in seconds and nanoseconds, blocks, first block of inodes, first block of shared attributes, UUID,
volume's name, incompatible features."""
_INODE: Final = Struct("<HHHHQIIIIQII16x")
"""Format, size of attributes, mode, reserved, size, first block of data, number for users, owner, group, time of change
in seconds and nanoseconds, links."""
_NUMBER_BYTES: Final = 32
"""Inodes are numbered by slots of so many bytes; each of ours takes two."""
_EXTENDED_PLAIN: Final = 1
"""Format of an inode of 64 bytes whose data lies in blocks of its own, as it is."""
_ENTRY: Final = Struct("<QHBx")
"""Number of the inode, offset of the name in the block, type."""
_TYPES: Final = {stat.S_IFREG: 1, stat.S_IFDIR: 2, stat.S_IFLNK: 7}
_NO_BLOCK: Final = 0
_CHUNK: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Attributes:
    """What stat(2) tells of a file, its type in `mode` included; `mtime_ns` in nanoseconds since 1970."""

    mode: int
    uid: int = 0
    gid: int = 0
    mtime_ns: int = 0

    @classmethod
    def of(cls, status: os.stat_result) -> Attributes:
        """Those of a file that exists."""
        return cls(status.st_mode, status.st_uid, status.st_gid, status.st_mtime_ns)


@dataclass(frozen=True, slots=True)
class Node:
    """A file, folder or symbolic link of an image.

    `content` is a file's bytes, or the file to read them from, of which just `size` bytes are taken; a link's target.
    """

    attributes: Attributes
    content: bytes | Path = b""
    size: int = 0


@dataclass(slots=True)
class _Placed:
    """Where a node comes to lie."""

    node: Node
    number: int
    size: int = 0
    block: int = _NO_BLOCK
    links: int = 1
    entries: dict[bytes, _Placed] = field(default_factory=dict)


def write_image(out: BinaryIO, nodes: Mapping[bytes, Node]) -> None:
    """Write an image to a file that is empty.

    Args:
        out: where to; it can seek.
        nodes: path below the root, without a slash in front, -> what is there. b"" is the root. Every folder above a
            path is there too.

    Raises:
        OSError: the image cannot be written, or a file not be read, or has become shorter meanwhile.
        ValueError: a folder is missing, or a node is of another type than those three.
    """
    placed = _numbered(nodes)
    meta_blocks = _blocks(len(placed) * _INODE.size)
    next_block = 1 + meta_blocks
    folders: list[tuple[_Placed, bytes]] = []
    for path, each in placed.items():
        if stat.S_ISDIR(each.node.attributes.mode):
            parent = placed[os.path.dirname(path)]
            data = _folder(each, parent)
            folders.append((each, data))
            each.size = len(data)
            each.links = 2 + sum(stat.S_ISDIR(below.node.attributes.mode) for below in each.entries.values())
        else:
            content = each.node.content
            each.size = len(content) if isinstance(content, bytes) else each.node.size
        if each.size:
            each.block = next_block
            next_block += _blocks(each.size)
    # The inodes first: what is read of the image begins there.
    out.seek(BLOCK_BYTES)
    out.write(b"".join(map(_inode, placed.values())))
    data_of = {id(each): data for each, data in folders}
    for path, each in placed.items():
        if each.size:
            out.seek(each.block * BLOCK_BYTES)
            _copy(out, each, data_of.get(id(each), each.node.content), path)
    out.truncate(next_block * BLOCK_BYTES)
    out.seek(_SUPERBLOCK_OFFSET)
    out.write(
        _SUPERBLOCK.pack(
            *(_MAGIC, 0, 0, _BLOCK_BITS, 0, placed[b""].number, len(placed), 0, 0, next_block, 1, 0, b"", b"", 0)
        )
    )


def _numbered(nodes: Mapping[bytes, Node]) -> dict[bytes, _Placed]:
    """Every node with its number, the root first, those of a folder side by side; folders know what is in them."""
    ordered = sorted(nodes, key=lambda path: (path != b"", os.path.split(path)))
    step = _INODE.size // _NUMBER_BYTES
    placed = {path: _Placed(nodes[path], index * step) for index, path in enumerate(ordered)}
    for path, each in placed.items():
        if stat.S_IFMT(each.node.attributes.mode) not in _TYPES:
            raise ValueError(f"{path!r}: neither a file nor a folder nor a symbolic link")
        if path:
            parent = placed.get(os.path.dirname(path))
            if parent is None or not stat.S_ISDIR(parent.node.attributes.mode):
                raise ValueError(f"{path!r}: not in a folder of the image")
            parent.entries[os.path.basename(path)] = each
    if b"" not in placed or not stat.S_ISDIR(placed[b""].node.attributes.mode):
        raise ValueError("an image has a root, which is a folder")
    return placed


def _folder(folder: _Placed, parent: _Placed) -> bytes:
    """A folder's data: blocks of entries, sorted by name over all, with the names behind them."""
    entries = sorted({b".": folder, b"..": parent, **folder.entries}.items())
    blocks: list[bytes] = []
    held: list[tuple[bytes, _Placed]] = []
    used = 0
    for name, node in entries:
        needed = _ENTRY.size + len(name)
        if used + needed > BLOCK_BYTES:
            blocks.append(_entries(held).ljust(BLOCK_BYTES, b"\0"))
            held, used = [], 0
        held.append((name, node))
        used += needed
    return b"".join([*blocks, _entries(held)])


def _entries(held: list[tuple[bytes, _Placed]]) -> bytes:
    offset = len(held) * _ENTRY.size
    heads = []
    for name, node in held:
        heads.append(_ENTRY.pack(node.number, offset, _TYPES[stat.S_IFMT(node.node.attributes.mode)]))
        offset += len(name)
    return b"".join([*heads, *(name for name, _ in held)])


def _inode(placed: _Placed) -> bytes:
    attributes = placed.node.attributes
    seconds, nanoseconds = divmod(attributes.mtime_ns, 10**9)
    return _INODE.pack(
        *(_EXTENDED_PLAIN, 0, attributes.mode, 0, placed.size, placed.block, placed.number + 1),
        *(attributes.uid, attributes.gid, seconds & 0xFFFFFFFF_FFFFFFFF, nanoseconds, placed.links),
    )


def _copy(out: BinaryIO, placed: _Placed, content: bytes | Path, path: bytes) -> None:
    if isinstance(content, bytes):
        out.write(content)
        return
    left = placed.size
    with content.open("rb") as file:
        while left:
            data = file.read(min(left, _CHUNK))
            if not data:
                raise OSError(f"{os.fsdecode(path)}: has become shorter while it was read")
            out.write(data)
            left -= len(data)


def _blocks(size: int) -> int:
    return -(-size // BLOCK_BYTES)
