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
from enum import StrEnum
from importlib import resources
from pathlib import Path
from typing import NamedTuple

from ihsm.guest.kernel import GuestKernel, module_bytes, module_name
from ihsm.guest.toolchain import find_busybox

BOOT_MODULES = ("virtio_pci", "virtio_console", "9pnet_virtio", "9p", "overlay")
_APPLETS = (
    *("cat", "chroot", "cp", "dd", "dmesg", "echo", "insmod", "ln", "ls", "mkdir", "mkfifo", "mount", "poweroff"),
    *("rm", "rmmod", "sed", "setsid", "sh", "sleep", "stty", "sync", "tail", "wc"),
)
_FOLDERS = ("proc", "sys", "host", "low", "ram", "runs", "ihsm", "ihsm/boot", "ihsm/modules")
_CONSOLE = (5, 1)


@dataclass(frozen=True, slots=True)
class GuestModule:
    """A module to load after the root file system is there: `data` is its ELF file.

    `tested`: it is what the guest is for, so that each run unloads and loads it anew, and what the kernel's log says of
    it counts. `file` is where it lies on the host, if it does.
    """

    name: str
    data: bytes
    parameters: str = ""
    tested: bool = False
    file: Path | None = None

    @property
    def kernel_name(self) -> str:
        """What the kernel calls it."""
        return module_name(self.name)


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


class Mode(StrEnum):
    """What a guest does: one command, one command after the other, or a shell at our terminal."""

    EXEC = "exec"
    KEPT = "kept"
    INTERACTIVE = "interactive"


@dataclass(frozen=True, slots=True)
class Boot:
    """What init is told. `end`: what it writes to a stream of a command when that is complete.

    `shares`: host folders that are writable in the guest; `sections`: report where modules lie in memory; `size`: rows
    and columns of the terminal.
    """

    mode: Mode
    end: bytes
    shares: Sequence[Path] = ()
    sections: bool = False
    modules: Sequence[str] = ()
    """Further modules of its kernel to load at the beginning."""
    size: tuple[int, int] = (24, 80)

    @property
    def cache(self) -> str:
        """9p cache mode: a loose one would hide edits of the host's files from guests that live long."""
        return "loose" if self.mode is Mode.EXEC else "none"


def run_files(command: GuestCommand, modules: Sequence[GuestModule]) -> dict[str, bytes]:
    """What init finds in the folder of one run: path below it -> content."""
    files = {"command": os.fsencode(command.script())}
    for index, module in enumerate(modules):
        stem = f"modules/{index:03}"
        files[f"{stem}.ko"] = module.data
        files[f"{stem}.name"] = os.fsencode(module.name)
        files[f"{stem}.module"] = os.fsencode(module.kernel_name)
        files[f"{stem}.parameters"] = os.fsencode(module.parameters)
        if module.tested:
            files[f"{stem}.tested"] = b""
    return files


def build(kernel: GuestKernel, command: GuestCommand, modules: Sequence[GuestModule], boot_as: Boot) -> bytes:
    """The archive for a guest, with its first run."""
    loaded = kernel.load_order([*BOOT_MODULES, *boot_as.modules])
    boot = [(path.name.partition(".ko")[0], module_bytes(path)) for path in loaded]
    files = {
        "mode": boot_as.mode.encode(),
        "cache": boot_as.cache.encode(),
        "end": boot_as.end,
        "rows": str(boot_as.size[0]).encode(),
        "columns": str(boot_as.size[1]).encode(),
        "shares": os.fsencode("".join(f"share{i} {path}\n" for i, path in enumerate(boot_as.shares))),
        "kernel-modules": os.fsencode(kernel.modules.parent if kernel.modules else ""),
        **({"sections": b""} if boot_as.sections else {}),
        **{f"boot/{index:02}-{name}.ko": data for index, (name, data) in enumerate(boot)},
        **run_files(command, modules),
    }
    return newc(
        [
            *busybox_root(resources.files("ihsm.guest").joinpath("init.sh").read_bytes()),
            *(Entry(name, stat.S_IFDIR | 0o755) for name in _FOLDERS),
            *(_file(f"ihsm/{name}", data) for name, data in files.items()),
        ]
    )


def _file(name: str, data: bytes) -> Entry:
    return Entry(name, stat.S_IFREG | 0o644, data)
