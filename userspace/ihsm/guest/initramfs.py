# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""The guest's initial root: busybox, our init, the modules it loads, the command it runs."""

from __future__ import annotations

import io
import os
import shlex
import stat
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import NamedTuple

from ihsm.guest.kernel import GuestKernel, module_bytes
from ihsm.guest.toolchain import find_busybox

BOOT_MODULES = ("virtio_pci", "virtio_console", "9pnet_virtio", "9p", "overlay")
_APPLETS = tuple("cat chroot dmesg echo insmod ln ls mkdir mount poweroff sed setsid sh sleep sync tail wc".split())  # noqa: SIM905
_FOLDERS = ("proc", "sys", "host", "low", "ram", "ihsm", "ihsm/boot", "ihsm/modules")
_CONSOLE = (5, 1)


@dataclass(frozen=True, slots=True)
class GuestModule:
    """A module to load after the root file system is there: `data` is its ELF file."""

    name: str
    data: bytes
    parameters: str = ""


@dataclass(frozen=True, slots=True)
class GuestCommand:
    """What runs in the guest: a shell command, or None for an interactive shell."""

    shell: str | None
    folder: Path
    environment: Mapping[str, str] = field(default_factory=dict)

    def script(self) -> str:
        """Shell script to run inside the host's tree."""
        lines = [f"export {name}={shlex.quote(value)}" for name, value in sorted(self.environment.items())]
        lines.append(f"cd {shlex.quote(str(self.folder))} || cd /")
        lines.append("exec bash -i" if self.shell is None else f"exec /bin/sh -c {shlex.quote(self.shell)}")
        return "".join(f"{line}\n" for line in lines)


class Entry(NamedTuple):
    """One member of an archive; `mode` as in stat(2), `device` is the number of a device node."""

    name: str
    mode: int
    data: bytes = b""
    device: tuple[int, int] = (0, 0)


def newc(entries: Iterable[Entry]) -> bytes:
    """A cpio archive in the "new ASCII" format, as the kernel unpacks it (driver-api/early-userspace/buffer-format)."""
    out = io.BytesIO()
    for inode, entry in enumerate([*entries, Entry("TRAILER!!!", 0)]):
        label = os.fsencode(entry.name) + b"\0"
        fields = (inode, entry.mode, 0, 0, 1, 0, len(entry.data), 0, 0, *entry.device, len(label), 0)
        out.write(b"070701" + "".join(f"{value:08x}" for value in fields).encode() + label)
        out.write(bytes(-out.tell() % 4))
        out.write(entry.data)
        out.write(bytes(-out.tell() % 4))
    return out.getvalue()


def busybox_root(init: bytes) -> list[Entry]:
    """What every archive starts with: busybox, the console and the first process."""
    return [
        *(Entry(name, stat.S_IFDIR | 0o755) for name in ("bin", "dev")),
        Entry("dev/console", stat.S_IFCHR | 0o600, device=_CONSOLE),
        Entry("bin/busybox", stat.S_IFREG | 0o755, find_busybox().read_bytes()),
        *(Entry(f"bin/{name}", stat.S_IFLNK | 0o777, b"busybox") for name in _APPLETS),
        Entry("init", stat.S_IFREG | 0o755, init),
    ]


def build(
    kernel: GuestKernel,
    command: GuestCommand,
    modules: Sequence[GuestModule],
    shares: Sequence[Path],
    cache: str,
    end: bytes,
) -> bytes:
    """The archive for one run.

    `shares`: host folders that are writable in the guest; `cache`: 9p cache mode; `end`: what init writes to a stream
    of the command when it is complete.
    """
    boot = [(path.name.partition(".ko")[0], module_bytes(path)) for path in kernel.load_order([*BOOT_MODULES])]
    entries = [
        *busybox_root(resources.files("ihsm.guest").joinpath("init.sh").read_bytes()),
        *(Entry(name, stat.S_IFDIR | 0o755) for name in _FOLDERS),
        *(_file(f"ihsm/boot/{index:02}-{name}.ko", data) for index, (name, data) in enumerate(boot)),
        _file("ihsm/command", os.fsencode(command.script())),
        _file("ihsm/mode", b"interactive" if command.shell is None else b"exec"),
        _file("ihsm/cache", cache.encode()),
        _file("ihsm/end", end),
        _file("ihsm/shares", os.fsencode("".join(f"share{i} {path}\n" for i, path in enumerate(shares)))),
        _file("ihsm/kernel-modules", os.fsencode(kernel.modules.parent if kernel.modules else "")),
    ]
    for index, module in enumerate(modules):
        entries.append(_file(f"ihsm/modules/{index:03}.ko", module.data))
        entries.append(_file(f"ihsm/modules/{index:03}.name", os.fsencode(module.name)))
        entries.append(_file(f"ihsm/modules/{index:03}.parameters", os.fsencode(module.parameters)))
    return newc(entries)


def _file(name: str, data: bytes) -> Entry:
    return Entry(name, stat.S_IFREG | 0o644, data)
