# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Kernel images, their modules and the archive a guest starts from."""

from __future__ import annotations

import gzip
import lzma
import os
import stat
import struct
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ihsm.guest import bzimage
from ihsm.guest.errors import GuestError, KernelNotFoundError
from ihsm.guest.initramfs import Entry, GuestCommand, newc
from ihsm.guest.kernel import GuestKernel, find_kernel, module_bytes, module_name
from ihsm.guest.session import read_module
from ihsm.guest.toolchain import BUSYBOX


def bz_image(payload: bytes, release: str = "6.6.6-test", setup_sectors: int = 7) -> bytes:
    """A bzImage (boot protocol 2.15) with this payload."""
    start = (setup_sectors + 1) * 512
    image = bytearray(start + 64) + payload
    image[0x1F1] = setup_sectors
    image[0x202:0x206] = b"HdrS"
    struct.pack_into("<H", image, 0x20E, 0x300 - 0x200)
    text = f"{release} (builder) #1".encode() + b"\0"
    image[0x300 : 0x300 + len(text)] = text
    struct.pack_into("<II", image, 0x248, 64, len(payload))
    return bytes(image)


ELF = b"\x7fELF" + os.urandom(5000)


@pytest.mark.parametrize("pack", [lzma.compress, gzip.compress])
def test_the_elf_kernel_comes_out_of_a_bzimage(pack: object) -> None:
    assert callable(pack)
    image = bz_image(pack(ELF) + struct.pack("<I", len(ELF)))
    assert bzimage.release(image) == "6.6.6-test"
    assert bzimage.elf_kernel(image) == ELF


def test_other_images_are_left_as_they_are() -> None:
    assert bzimage.elf_kernel(bz_image(b"\x28\xb5\x2f\xfd" + ELF)) is None  # zstd
    assert bzimage.elf_kernel(bz_image(lzma.compress(b"no ELF file"))) is None
    assert bzimage.elf_kernel(ELF) is None
    assert bzimage.release(ELF) is None
    assert bzimage.release(b"") is None


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An unpacked kernel package."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    root = tmp_path / "kernel"
    modules = root / "lib/modules/6.6.6-test"
    modules.mkdir(parents=True)
    (root / "boot").mkdir()
    (root / "boot/vmlinuz-6.6.6-test").write_bytes(bz_image(lzma.compress(ELF)))
    (modules / "modules.dep").write_text(
        "kernel/a/top-one.ko.xz: kernel/a/middle.ko kernel/a/base.ko\nkernel/a/middle.ko: kernel/a/base.ko\n"
        "kernel/a/base.ko:\nkernel/b/other.ko.gz: kernel/a/base.ko\n"
    )
    (modules / "modules.builtin").write_text("kernel/c/built-in.ko\n")
    (modules / "kernel/a").mkdir(parents=True)
    (modules / "kernel/b").mkdir()
    (modules / "kernel/a/base.ko").write_bytes(b"base")
    (modules / "kernel/a/middle.ko").write_bytes(b"middle")
    (modules / "kernel/a/top-one.ko.xz").write_bytes(lzma.compress(b"top"))
    (modules / "kernel/b/other.ko.gz").write_bytes(gzip.compress(b"other"))
    return root


def test_modules_are_loaded_after_what_they_need_and_once(tree: Path) -> None:
    kernel = find_kernel(tree)
    assert kernel.release == "6.6.6-test"
    files = kernel.load_order(["top_one", "built_in", "other", "base"])
    assert [file.name for file in files] == ["base.ko", "middle.ko", "top-one.ko.xz", "other.ko.gz"]
    assert [module_bytes(file) for file in files] == [b"base", b"middle", b"top", b"other"]
    with pytest.raises(KernelNotFoundError, match="no module absent"):
        kernel.load_order(["absent"])
    assert module_name("kernel/a/top-one.ko.xz") == "top_one"


def test_modules_named_for_a_guest(tree: Path, tmp_path: Path) -> None:
    kernel = find_kernel(tree)
    modules = read_module("top-one debug=1 name='a b'", kernel)
    assert [(module.data, module.parameters) for module in modules] == [
        (b"base", ""),
        (b"middle", ""),
        (b"top", "debug=1 name=a b"),
    ]
    with pytest.raises(GuestError, match=r"absent\.ko: no such module file"):
        read_module(str(tmp_path / "absent.ko"), kernel)
    junk = tmp_path / "junk.ko"
    junk.write_text("junk")
    with pytest.raises(GuestError, match="not a kernel module"):
        read_module(str(junk), kernel)
    with pytest.raises(GuestError, match="empty"):
        read_module(" ", kernel)


def test_the_uncompressed_kernel_is_kept_and_made_anew_for_another_image(tree: Path) -> None:
    kernel = find_kernel(tree)
    first = kernel.bootable()
    assert first.read_bytes() == ELF
    assert kernel.bootable() == first
    other = b"\x7fELF another"
    kernel.image.write_bytes(bz_image(lzma.compress(other)))
    assert find_kernel(tree).bootable().read_bytes() == other


def test_a_kernel_without_modules_has_everything_built_in(tmp_path: Path) -> None:
    image = tmp_path / "bzImage"
    image.write_bytes(bz_image(b"\x28\xb5\x2f\xfd", release="6.6.7-own"))
    kernel = find_kernel(image)
    assert kernel == GuestKernel("6.6.7-own", image, None)
    assert kernel.load_order(["virtio_pci"]) == []
    assert kernel.bootable() == image
    with pytest.raises(KernelNotFoundError, match="no headers"):
        _ = kernel.headers


NAMES = st.lists(st.text("abcdefgh", min_size=1, max_size=12), unique=True, max_size=6)


@given(NAMES, st.data())
def test_an_archive_is_what_another_reader_unpacks(names: list[str], data: st.DataObject) -> None:
    contents = {name: data.draw(st.binary(max_size=40)) for name in names}
    archive = newc(Entry(name, stat.S_IFREG | 0o640, content) for name, content in contents.items())
    listing = subprocess.run([BUSYBOX, "cpio", "-t"], input=archive, capture_output=True, check=True).stdout
    assert listing.decode().split() == names
    assert len(archive) % 4 == 0
    for name, content in contents.items():
        command = [BUSYBOX, "cpio", "-i", "--to-stdout", name]
        assert subprocess.run(command, input=archive, capture_output=True, check=True).stdout == content


def test_a_device_node_keeps_its_number(tmp_path: Path) -> None:
    archive = newc([Entry("console", stat.S_IFCHR | 0o600, device=(5, 1))])
    listing = subprocess.run([BUSYBOX, "cpio", "-tv"], input=archive, capture_output=True, check=True).stdout
    assert listing.decode().startswith("crw-------")
    rdev = [archive[6 + 8 * index : 14 + 8 * index] for index in (9, 10)]
    assert rdev == [b"00000005", b"00000001"]


def test_a_command_survives_quoting() -> None:
    command = GuestCommand("echo \"$GREETING\" 'a b'", Path("/tmp"), {"GREETING": "it's me; $HOME"})
    done = subprocess.run(["/bin/sh"], input=command.script(), capture_output=True, text=True, check=True)
    assert done.stdout == "it's me; $HOME a b\n"
