# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""A QEMU that has vfio-user-pci: the distribution's own if it is new enough, else one in a private folder.

The private one is unpacked, not installed: QEMU and everything it depends on, down to the C library, lie under
one folder and run through that folder's dynamic loader, so neither a chroot nor root is needed and nothing of
the machine changes.
"""

import os
import re
import shutil
from pathlib import Path

from bootstrap.apt import PrivateApt, install, missing
from bootstrap.layout import cache_root, existing, published
from bootstrap.process import SetupError, output, run, say, step

PACKAGE = "qemu-system-x86"
PROGRAM = "qemu-system-x86_64"
MINIMUM = (10, 1)
SUITES = ("trixie", "trixie-backports")
WRAPPER = """#!/bin/sh
# Runs the QEMU unpacked in this folder with the libraries unpacked beside it.
root=$(dirname "$(dirname "$(readlink -f "$0")")")
lib=$root/usr/lib/x86_64-linux-gnu
exec "$lib/ld-linux-x86-64.so.2" --library-path "$lib" "$root/usr/bin/{program}" \\
  -L "$root/usr/share/qemu" -L "$root/usr/share/seabios" "$@"
"""


def has_vfio_user(program: Path | str) -> bool:
    """Whether this QEMU offers the device vfio-user-pci."""
    return '"vfio-user-pci"' in output([program, "-device", "help"], check=False)


def version_of(text: str) -> tuple[int, ...]:
    """Leading numbers of a Debian version or of QEMU's --version line: '1:10.0.13+ds-0' gives (10, 0, 13)."""
    found = re.search(r"(?:^|:|version )(\d+(?:\.\d+)+)", text)
    return tuple(int(part) for part in found[1].split(".")) if found else ()


def usable_on_path() -> Path | None:
    """QEMU on PATH, if it can do what a guest needs."""
    program = shutil.which(PROGRAM)
    return Path(program) if program and has_vfio_user(program) else None


def distribution_candidate() -> tuple[int, ...]:
    """Version that installing the distribution's package would give; () if there is none."""
    for line in output(["apt-cache", "policy", PACKAGE], check=False).splitlines():
        if "Candidate:" in line:
            return version_of(line.split()[-1])
    return ()


def provide() -> None:
    """Make sure there is a QEMU for guests."""
    named = os.environ.get("IHSM_QEMU")
    if named:
        if not has_vfio_user(named):
            raise SetupError(f"IHSM_QEMU={named}: this QEMU has no vfio-user-pci device; QEMU 10.1 or later has it")
        say(f"QEMU: {named}, named by IHSM_QEMU")
        return
    if found := usable_on_path():
        say(f"QEMU: {found}, which has vfio-user-pci")
        return
    if have := existing(cache_root() / "qemu", f"bin/{PROGRAM}"):
        say(f"QEMU: {have.name}, there already")
        return
    if missing([PACKAGE]) and distribution_candidate() >= MINIMUM:
        with step("QEMU: installing the distribution's own"):
            install([PACKAGE])
        return
    with step(f"QEMU: unpacking {PACKAGE} of {SUITES[-1]} with its libraries into a private folder"):
        apt = PrivateApt("qemu", [f"deb {suite} main" for suite in SUITES])
        apt.update()
        debs = apt.download_with_dependencies(PACKAGE, SUITES[-1])
        version = next(version_of(deb.name.replace("%3a", ":")) for deb in debs if deb.name.startswith(f"{PACKAGE}_"))
        if version < MINIMUM:
            raise SetupError(
                f"{SUITES[-1]} has QEMU {'.'.join(map(str, version))}, vfio-user-pci came with 10.1: "
                "install one and name it with IHSM_QEMU"
            )
        with published(cache_root() / "qemu" / ".".join(map(str, version))) as root:
            for deb in debs:
                run(["dpkg-deb", "-x", deb, root])
            wrapper = root / "bin" / PROGRAM
            wrapper.parent.mkdir(exist_ok=True)
            wrapper.write_text(WRAPPER.format(program=PROGRAM))
            wrapper.chmod(0o755)
            if not has_vfio_user(wrapper):
                raise SetupError(f"the QEMU unpacked into {root} does not run or has no vfio-user-pci")
        apt.discard()
