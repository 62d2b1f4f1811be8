# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Guests for tests: run a shell command in one and look at what came of it."""

from __future__ import annotations

import io
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ihsm.guest import Accelerator, GuestConfig, Streams
from ihsm.guest.session import Finding, Session
from support.waiting import GUEST_HANG_S

MODULES = Path(__file__).parents[1] / "guest" / "modules"


@dataclass(frozen=True)
class Outcome:
    """What a guest's command left behind."""

    status: int
    out: str
    err: str
    findings: tuple[Finding, ...] = ()


def run_guest(
    shell: str,
    *,
    stdin: io.BufferedReader | None = None,
    modules: Sequence[str] = (),
    build: Sequence[Path] = (),
    devices: int = 0,
    device_arguments: Sequence[str] = (),
    report: Callable[[Finding], None] | None = None,
    **config: Any,
) -> Outcome:
    """Run `shell` in a guest under TCG; `config` are fields of GuestConfig, without time limits if it has none."""
    config = {"accelerator": Accelerator.TCG, "boot_limit_s": None, "command_limit_s": None, **config}
    config.setdefault("silence_limit_s", GUEST_HANG_S)
    out, err = io.BytesIO(), io.BytesIO()
    findings: list[Finding] = []
    session = Session(
        config=GuestConfig(**config),
        shell=shell,
        modules=modules,
        build=build,
        devices=devices,
        device_arguments=device_arguments,
        report=report or findings.append,
    )
    status = session.run(Streams(stdin, out, err))
    return Outcome(status, out.getvalue().decode(), err.getvalue().decode(), tuple(findings))


def broken_driver(name: str, folder: Path) -> Path:
    """A folder with the source of `bench_NAME` alone, of tests/guest/modules/broken, below `folder`."""
    source = folder / name
    source.mkdir()
    for file in ("bench.h", f"bench_{name}.c"):
        shutil.copy(MODULES / "broken" / file, source)
    (source / "Kbuild").write_text(f"obj-m := bench_{name}.o\n")
    return source


EXERCISE = "echo 1 | tee /sys/bus/pci/devices/*/exercise"
"""Shell command that has one of those drivers do what it does."""
