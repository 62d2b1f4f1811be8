# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Images: what is read of one, by a reader of its own and by the kernel where it can, is what went into it."""

from __future__ import annotations

import os
import stat
import subprocess
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ihsm.guest.erofs import BLOCK_BYTES, Attributes, Node, write_image
from support.erofs import Reader

NAME = st.binary(min_size=1, max_size=255).filter(
    lambda name: not set(name) & set(b"/\0") and name not in (b".", b"..")
)
TIME_NS = st.integers(0, 2**63)
FOLDER = st.builds(
    lambda mode, time_ns: Node(Attributes(stat.S_IFDIR | mode, 7, 8, time_ns)), st.integers(0, 0o7777), TIME_NS
)
FILE = st.builds(
    lambda mode, time_ns, data: Node(Attributes(stat.S_IFREG | mode, 0, 2**32 - 1, time_ns), data),
    st.integers(0, 0o7777),
    TIME_NS,
    st.binary(max_size=64) | st.integers(0, 3 * BLOCK_BYTES).map(lambda size: b"x" * size),
)
LINK = st.builds(lambda target: Node(Attributes(stat.S_IFLNK | 0o777), target), st.binary(min_size=1, max_size=300))


def image(nodes: dict[bytes, Node]) -> bytes:
    with tempfile.TemporaryFile() as out:
        write_image(out, nodes)
        out.seek(0)
        return out.read()


def check(nodes: dict[bytes, Node]) -> None:
    found = Reader(image(nodes)).walk()
    assert found.keys() == nodes.keys()
    for path, node in nodes.items():
        each, wanted = found[path], node.attributes
        assert (each.mode, each.uid, each.gid, each.mtime_ns) == (wanted.mode, wanted.uid, wanted.gid, wanted.mtime_ns)
        assert each.content == node.content


@st.composite
def trees(draw: st.DrawFn) -> dict[bytes, Node]:
    nodes = {b"": draw(FOLDER)}
    folders = [b""]
    for name, node in draw(st.lists(st.tuples(NAME, FOLDER | FILE | LINK), max_size=30)):
        parent = draw(st.sampled_from(folders))
        path = parent + b"/" + name if parent else name
        if path not in nodes:
            nodes[path] = node
            if stat.S_ISDIR(node.attributes.mode):
                folders.append(path)
    return nodes


@given(trees())
def test_what_goes_in_is_read_back(nodes: dict[bytes, Node]) -> None:
    check(nodes)


@pytest.mark.parametrize("count", [1, 254, 255, 256, 3000])
def test_a_folder_of_many_blocks_and_names_around_the_dots(count: int) -> None:
    nodes = {b"": Node(Attributes(stat.S_IFDIR | 0o755))}
    for index in range(count):
        nodes[b"%05d" % index] = Node(Attributes(stat.S_IFREG | 0o644), b"%d" % index)
    for odd in (b"+", b"-", b".a", b"...", b"\xff"):
        nodes[odd] = Node(Attributes(stat.S_IFREG | 0o644), odd)
    check(nodes)


def test_no_tree_is_refused() -> None:
    folder, file = Node(Attributes(stat.S_IFDIR | 0o755)), Node(Attributes(stat.S_IFREG | 0o644))
    for nodes in (
        {b"a": file},
        {b"": file},
        {b"": folder, b"a/b": file},
        {b"": folder, b"a": file, b"a/b": file},
        {b"": folder, b"a": Node(Attributes(stat.S_IFCHR | 0o600))},
    ):
        with pytest.raises(ValueError, match=r"image|symbolic link"):
            image(nodes)


def test_a_file_that_grows_is_cut_and_one_that_shrinks_is_told(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"y" * 100)
    attributes = Attributes.of(file.stat())
    root = Node(Attributes(stat.S_IFDIR | 0o755))
    assert Reader(image({b"": root, b"f": Node(attributes, file, 60)})).walk()[b"f"].content == b"y" * 60
    with pytest.raises(OSError, match="shorter"):
        image({b"": root, b"f": Node(attributes, file, 101)})


def test_the_kernel_mounts_it(tmp_path: Path) -> None:
    if os.geteuid() != 0 or "\terofs\n" not in Path("/proc/filesystems").read_text():
        pytest.skip("needs root, and a kernel that has EROFS; a guest mounts one in tests/guest/test_images.py")
    nodes = {b"": Node(Attributes(stat.S_IFDIR | 0o755))}
    nodes[b"deep"] = Node(Attributes(stat.S_IFDIR | 0o750, 1, 2, 10**18 + 5))
    nodes |= {
        b"deep/%04d" % index: Node(Attributes(stat.S_IFREG | 0o640), b"%d" % index * index) for index in range(900)
    }
    nodes[b"link"] = Node(Attributes(stat.S_IFLNK | 0o777), b"deep/0007")
    (tmp_path / "image").write_bytes(image(nodes))
    folder = tmp_path / "mounted"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "erofs", "-o", "ro,loop", tmp_path / "image", folder], capture_output=True)
    if mounted.returncode != 0:
        pytest.skip(f"no loop device: {mounted.stderr.decode()}")
    try:
        assert sorted(os.listdir(folder / "deep")) == [f"{index:04}" for index in range(900)]
        for index in range(900):
            assert (folder / "deep" / f"{index:04}").read_bytes() == b"%d" % index * index
        assert (folder / "link").read_bytes() == b"7" * 7
        status = (folder / "deep").stat()
        assert (status.st_mode, status.st_uid, status.st_gid) == (stat.S_IFDIR | 0o750, 1, 2)
        assert status.st_mtime_ns == 10**18 + 5
    finally:
        subprocess.run(["umount", folder], check=True)
