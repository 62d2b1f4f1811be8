# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""One program, twice: with the driver model on the host, and with a driver on Linux, in a guest. It prints the same.

A module of ours, `tests/guest/modules/devinfo`, has the node and device information alone, so it judges what programs
get of Linux itself. A driver for this device, named by IHSM_DRIVER_MODULE (a .ko file for the guest's kernel, or a
folder with its source), judges everything.
"""

from __future__ import annotations

import os
import shlex
import shutil
from pathlib import Path
from typing import Any, Final

import pytest

from programs import headers
from support.guests import MODULES, run_guest
from support.kmod_run import printed
from support.programs import HELPER, chardev_user, on_host, report

pytestmark = pytest.mark.guest
DRIVER: Final = os.environ.get("IHSM_DRIVER_MODULE")
VIA: Final = "notify"
OF_LINUX: Final = (
    "glob", "device-info", "numbers", "files", "paths", "dup", "fork", "exec", "passed", "non-dumpable", "first-thread",
)  # fmt: skip
"""Stages that need the node and device information alone."""


def in_guest(*options: str, **guest: Any) -> list[str]:
    """What the program prints there, and how it ends if not well."""
    done = run_guest(shlex.join([str(chardev_user()), *options]), devices=1, **guest)
    return [*done.out.splitlines(), *([f"status {done.status}: {done.err}"] if done.status else [])]


def test_what_programs_get_of_linux(tmp_path: Path) -> None:
    source = tmp_path / "devinfo"
    shutil.copytree(MODULES / "devinfo", source)
    headers.write_interface(source)
    options = [word for stage in OF_LINUX for word in ("--stage", stage)]
    lines = in_guest(*options, build=[source])
    assert lines == report(*OF_LINUX)
    assert printed("--via", VIA, "--", chardev_user(), *options) == on_host(VIA, lines)


@pytest.mark.skipif(DRIVER is None, reason="IHSM_DRIVER_MODULE names no driver")
def test_what_programs_get_of_a_driver() -> None:
    assert DRIVER is not None
    driver = Path(DRIVER).resolve()
    given: dict[str, Any] = {"build": [driver]} if driver.is_dir() else {"modules": [str(driver)]}
    lines = in_guest("--helper", HELPER, **given)
    assert printed("--via", VIA, "--", chardev_user(), "--helper", HELPER) == on_host(VIA, lines)
