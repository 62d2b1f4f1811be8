# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Where QEMU, the guest's kernel and busybox are found."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from ihsm.guest.errors import QemuNotFoundError, ToolchainError

QEMU_PROGRAM = "qemu-system-x86_64"
QEMU_VARIABLE = "IHSM_QEMU"
VFIO_USER_DEVICE = "vfio-user-pci"
QEMU_MINIMUM = (10, 1)
BUSYBOX = Path("/bin/busybox")
MEND = "scripts/setup provides one"


def cache_root() -> Path:
    """Folder that set-up fills: `$XDG_CACHE_HOME/ihsm`, or `~/.cache/ihsm`.

    Raises:
        ToolchainError: neither is known. A relative path counts as none (XDG Base Directory Specification).
    """
    # Said again in scripts/bootstrap/layout.py: set-up runs before this package is there, and this one without a
    # checkout. A test keeps them equal.
    named = os.environ.get("XDG_CACHE_HOME", "")
    if os.path.isabs(named):
        return Path(named, "ihsm")
    # "~" stays as it is for a user without an entry in passwd; an empty HOME would be the root.
    home = os.environ["HOME"] if "HOME" in os.environ else os.path.expanduser("~")
    if not os.path.isabs(home):
        raise ToolchainError(f"no cache folder: user {os.getuid()} has no home; set HOME or XDG_CACHE_HOME")
    return Path(home, ".cache", "ihsm")


def keep(file: Path, data: bytes) -> bool:
    """Put a file into the cache, whole or not at all; False if the cache takes nothing (read-only, full).

    What is kept saves time only, so that nothing fails without it.
    """
    part = file.with_name(f"{file.name}.{os.getpid()}")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        part.write_bytes(data)
        part.replace(file)
    except OSError:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
        return False
    return True


@dataclass(frozen=True, slots=True)
class Qemu:
    """A QEMU that can attach vfio-user devices."""

    program: Path
    version: tuple[int, ...]

    @property
    def version_text(self) -> str:
        """E.g. '11.1.3'."""
        return ".".join(map(str, self.version))


def candidates() -> list[Path]:
    """QEMU programs in the order they are tried: the one named, those on PATH, those in the cache (newest first)."""
    if named := os.environ.get(QEMU_VARIABLE):
        return [Path(named)]
    on_path = shutil.which(QEMU_PROGRAM)
    try:
        private = list((cache_root() / "qemu").glob(f"[!.]*/bin/{QEMU_PROGRAM}"))
    except (ToolchainError, OSError):
        private = []  # no cache, or a closed one: the one on PATH may do
    newest_first = sorted(private, key=lambda path: _numbers(path.parts[-3]), reverse=True)
    return [*([Path(on_path)] if on_path else []), *newest_first]


def inspect_qemu(program: Path) -> Qemu:
    """Ask a QEMU what it is; raises QemuNotFoundError if it does not run or cannot attach vfio-user devices."""
    version = _numbers(_output(program, "--version"))
    if f'"{VFIO_USER_DEVICE}"' not in _output(program, "-device", "help"):
        minimum = ".".join(map(str, QEMU_MINIMUM))
        raise QemuNotFoundError(
            f"{program}: version {'.'.join(map(str, version))} has no device {VFIO_USER_DEVICE}, which came with "
            f"QEMU {minimum}; {MEND}, or name another with {QEMU_VARIABLE}"
        )
    return Qemu(program, version)


def find_qemu() -> Qemu:
    """The first candidate that has vfio-user-pci; raises QemuNotFoundError with the reason each one is unfit."""
    reasons = []
    for program in candidates():
        try:
            return inspect_qemu(program)
        except QemuNotFoundError as error:
            reasons.append(str(error))
    raise QemuNotFoundError(
        "; ".join(reasons) or f"{QEMU_PROGRAM}: not found; {MEND}, or name one with {QEMU_VARIABLE}"
    )


def find_busybox() -> Path:
    """A statically linked busybox, the guest's first process."""
    if not BUSYBOX.exists():
        raise ToolchainError(f"{BUSYBOX}: not found; install the package busybox-static")
    if _has_interpreter(BUSYBOX):
        raise ToolchainError(f"{BUSYBOX}: is dynamically linked; install the package busybox-static")
    return BUSYBOX


def _has_interpreter(program: Path) -> bool:
    """Whether an ELF64 file asks for a dynamic loader (PT_INTERP, type 3)."""
    data = program.read_bytes()
    offset, size, count = (int.from_bytes(data[at : at + n], "little") for at, n in ((32, 8), (54, 2), (56, 2)))
    return any(int.from_bytes(data[offset + i * size :][:4], "little") == 3 for i in range(count))


def _numbers(text: str) -> tuple[int, ...]:
    found = re.search(r"\d+(?:\.\d+)+", text)
    return tuple(map(int, found[0].split("."))) if found else ()


def _output(program: Path, *words: str) -> str:
    try:
        done = subprocess.run(
            [program, *words],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
            timeout=60,
        )
    except OSError as error:
        raise QemuNotFoundError(f"{program}: {error.strerror}; {MEND}") from None
    except subprocess.TimeoutExpired:
        raise QemuNotFoundError(f"{program} {words[0]}: no answer within 60 s; {MEND}") from None
    if done.returncode != 0:
        raise QemuNotFoundError(f"{program} {words[0]}: {done.stderr.strip() or done.returncode}; {MEND}")
    return done.stdout
