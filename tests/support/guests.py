# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Guests for tests: run a shell command in one and look at what came of it."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ihsm.guest import Accelerator, GuestConfig, Streams
from ihsm.guest.session import Session
from support.waiting import GUEST_HANG_S

MODULES = Path(__file__).parents[1] / "guest" / "modules"


@dataclass(frozen=True)
class Outcome:
    """What a guest's command left behind."""

    status: int
    out: str
    err: str


def run_guest(
    shell: str,
    *,
    stdin: io.BufferedReader | None = None,
    modules: Sequence[str] = (),
    build: Sequence[Path] = (),
    devices: int = 0,
    device_arguments: Sequence[str] = (),
    **config: Any,
) -> Outcome:
    """Run `shell` in a guest under TCG; `config` are fields of GuestConfig, without time limits if it has none."""
    config = {"accelerator": Accelerator.TCG, "boot_limit_s": None, "command_limit_s": None, **config}
    config.setdefault("silence_limit_s", GUEST_HANG_S)
    out, err = io.BytesIO(), io.BytesIO()
    session = Session(
        config=GuestConfig(**config),
        shell=shell,
        modules=modules,
        build=build,
        devices=devices,
        device_arguments=device_arguments,
    )
    status = session.run(Streams(stdin, out, err))
    return Outcome(status, out.getvalue().decode(), err.getvalue().decode())
