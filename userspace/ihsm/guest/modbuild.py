# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Building an external kernel module against the guest kernel's headers."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from ihsm.guest.errors import GuestError, ModuleBuildError
from ihsm.guest.kernel import GuestKernel

TAIL_LINES = 25
_MAKEFILES = ("Kbuild", "Makefile")


def build_modules(source: Path, kernel: GuestKernel, work: Path) -> list[Path]:
    """Build a copy of `source` in `work` and return its modules (.ko), with debug information that names `source`.

    Raises ModuleBuildError with the end of make's output.
    """
    if not any((source / name).is_file() for name in _MAKEFILES):
        raise GuestError(f"{source}: no Kbuild or Makefile there, so this is no module's source")
    headers = kernel.headers
    copy = work / source.resolve().name
    ignore = shutil.ignore_patterns(
        ".git", "*.o", "*.ko", "*.cmd", "*.mod", "*.mod.c", "Module.symvers", "modules.order"
    )
    shutil.copytree(source, copy, symlinks=True, ignore=ignore)
    environment = {
        name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "ARCH", "CROSS_COMPILE")
    }
    done = subprocess.run(
        ["make", "-C", str(headers), f"M={copy}", f"KCFLAGS=-g -ffile-prefix-map={copy}={source.resolve()}", "modules"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        env={**environment, "LC_ALL": "C.UTF-8"},
        check=False,
    )
    modules = sorted(copy.rglob("*.ko"))
    if done.returncode != 0 or not modules:
        lines = done.stdout.replace(str(copy), str(source)).splitlines()
        raise ModuleBuildError(str(source), lines[-TAIL_LINES:] or ["make built no .ko file"])
    return modules
