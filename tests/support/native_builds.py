# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Further builds of the native modules, made when a test first asks for them, and programs that use one."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Mapping
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]
NATIVE: Final = ROOT / "vfio_device" / "native"
WITH_NATIVE: Final = Path(__file__).with_name("with_native.py")
_COPIED: Final = ("libvfio_user_src", "aws_lc")
"""Options that say where libraries are, taken from the build in use."""


def native_build(name: str, *options: str) -> Path:
    """The device's module, the client's beside it, built with these meson options in build/NAME, brought up to date.

    Raises:
        AssertionError: it cannot be built; the text is what meson says.
    """
    folder = ROOT / "build" / name
    folder.mkdir(parents=True, exist_ok=True)
    module = f"_native{sysconfig.get_config_var('EXT_SUFFIX')}"
    with (folder.parent / f"{name}.lock").open("w") as lock:  # other test processes want it too
        fcntl.flock(lock, fcntl.LOCK_EX)
        known = {o["name"]: o["value"] for o in json.loads(_meson("introspect", "--buildoptions", "build/native"))}
        made_with = [*(f"-D{name}={known[name]}" for name in _COPIED), *options]
        stamp = folder / "options"
        if not stamp.exists() or stamp.read_text().splitlines() != made_with:
            shutil.rmtree(folder)
            _meson("setup", str(folder), str(NATIVE), *made_with)
            stamp.write_text("\n".join(made_with))
        _meson("compile", "-C", str(folder), f"--ninja-args={module},_user{module}")
    return folder / module


def _meson(*arguments: str) -> str:
    """Output of meson from the environment of this interpreter."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["meson", *arguments], env=os.environ | {"PATH": path}, cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def run_with_native(
    module: Path, *arguments: str, environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run Python with this build of the modules: a script, or -m and a module, and their arguments."""
    path = os.pathsep.join([str(ROOT / "tests"), *filter(None, [os.environ.get("PYTHONPATH")])])
    return subprocess.run(
        [sys.executable, str(WITH_NATIVE), str(module), *arguments],
        env=os.environ | {"PYTHONPATH": path} | dict(environment or {}), cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
