# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""A guest kernel: its image, modules and headers."""

from __future__ import annotations

import gzip
import lzma
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from ihsm.guest import bzimage
from ihsm.guest.errors import KernelNotFoundError, ToolchainError
from ihsm.guest.toolchain import cache_root, keep


@dataclass(frozen=True)
class GuestKernel:
    """One kernel. `modules` is its lib/modules/RELEASE folder, None for a kernel that has all it needs built in."""

    release: str
    image: Path
    modules: Path | None
    arguments: str = ""
    """Words that its command line needs."""
    unpacks: bool = False
    """Whether only the image boots, which unpacks itself: the other entry point ends a kernel with KASAN."""

    @property
    def headers(self) -> Path:
        """Folder to build external modules against; raises KernelNotFoundError."""
        for folder in (self.modules / "build" if self.modules else None, self._build_tree()):
            if folder and (folder / "Makefile").exists():
                return folder
        raise KernelNotFoundError(f"kernel {self.release}: no headers to build modules against ({self.image})")

    def _build_tree(self) -> Path | None:
        """Top of the kernel tree the image was built in, if it lies in arch/x86/boot."""
        tail = ("arch", "x86", "boot")
        return self.image.parents[3] if self.image.parent.parts[-3:] == tail else None

    @cached_property
    def _index(self) -> dict[str, tuple[str, ...]]:
        """Module name -> files to load in order, the module itself last (from modules.dep)."""
        index = {}
        if self.modules and (self.modules / "modules.dep").exists():
            for line in (self.modules / "modules.dep").read_text().splitlines():
                path, _, dependencies = line.partition(":")
                index[module_name(path)] = (*reversed(dependencies.split()), path)
        return index

    @cached_property
    def _builtin(self) -> frozenset[str]:
        file = self.modules / "modules.builtin" if self.modules else None
        return frozenset(map(module_name, file.read_text().split())) if file and file.exists() else frozenset()

    def has(self, name: str) -> bool:
        """Whether it has a module, built in or to be loaded; a kernel without modules is taken to have all."""
        key = module_name(name)
        return not self.modules or key in self._index or key in self._builtin

    def load_order(self, names: list[str]) -> list[Path]:
        """Files of the named modules and all they depend on, in loading order; built-in ones are left out."""
        files: dict[str, None] = {}
        for name in names:
            key = module_name(name)
            if key in self._index:
                files.update(dict.fromkeys(self._index[key]))
            elif key not in self._builtin and self.modules:
                raise KernelNotFoundError(f"kernel {self.release}: no module {name} in {self.modules}")
        assert self.modules or not files
        return [self.modules / file for file in files] if self.modules else []

    def bootable(self) -> Path:
        """What QEMU is given: the ELF kernel out of the image (kept in the cache), or the image itself."""
        if self.unpacks:
            return self.image
        stat = self.image.stat()
        try:
            target = cache_root() / "vmlinux" / f"{self.release}-{stat.st_size:x}-{stat.st_mtime_ns:x}"
            if target.exists():
                return target
        except (ToolchainError, OSError):
            return self.image
        elf = bzimage.elf_kernel(self.image.read_bytes())
        return target if elf is not None and keep(target, elf) else self.image


def module_name(file: str) -> str:
    """Kernel's name of a module file: 'drivers/vfio/pci/vfio-pci.ko.xz' gives 'vfio_pci'."""
    return Path(file).name.partition(".ko")[0].replace("-", "_")


def module_bytes(file: Path) -> bytes:
    """A module's ELF bytes, uncompressed."""
    data = file.read_bytes()
    if file.suffix == ".xz":
        return lzma.decompress(data)
    if file.suffix == ".gz":
        return gzip.decompress(data)
    return data


def find_kernel(named: Path | None = None) -> GuestKernel:
    """The kernel image (or unpacked kernel package) that `named` is, else the newest one that set-up unpacked.

    Raises KernelNotFoundError.
    """
    if named is None:
        images = [path for path in (cache_root() / "kernel").glob("[!.]*/boot/vmlinuz-*")]
        if not images:
            raise KernelNotFoundError(
                f"no guest kernel below {cache_root()}/kernel; scripts/setup provides one, or name one with --kernel"
            )
        return _describe(max(images, key=lambda path: path.stat().st_mtime))
    if named.is_dir():
        images = sorted(named.glob("boot/vmlinuz-*"))
        if len(images) != 1:
            raise KernelNotFoundError(f"{named}: expected one boot/vmlinuz-RELEASE below it, found {len(images)}")
        return _describe(images[0])
    if not named.is_file():
        raise KernelNotFoundError(f"{named}: no such kernel image")
    return _describe(named)


def _describe(image: Path) -> GuestKernel:
    image = image.resolve()
    with image.open("rb") as file:
        release = bzimage.release(file.read(1 << 16))
    if release is None:
        raise KernelNotFoundError(f"{image}: not a Linux kernel image for x86 (bzImage)")
    for root in (image.parent.parent, Path("/")):
        modules = root / "lib" / "modules" / release
        if modules.is_dir():
            return GuestKernel(release, image, modules)
    return GuestKernel(release, image, None)
