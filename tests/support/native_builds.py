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
SANITIZERS: Final = {"address,undefined": ("libasan.so", "libubsan.so"), "thread": ("libtsan.so",)}
"""Of a build, as meson names them, and their libraries."""
_SANITIZER_OPTIONS: Final = {
    # Python frees little of what it allocated once; leaks are looked for elsewhere.
    "ASAN_OPTIONS": "detect_leaks=0:abort_on_error=0:exitcode=99",
    "UBSAN_OPTIONS": "print_stacktrace=1:halt_on_error=1:exitcode=99",
    "TSAN_OPTIONS": f"suppressions={ROOT}/tests/vfio_device/native/tsan.supp:history_size=7:exitcode=99",
}
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


def seams_build() -> Path:
    """The device's module with seams (native/seam.cdef.h)."""
    return native_build("seams", "-Dtest_seams=true", "-Dbuildtype=debugoptimized")


def sanitized_build(sanitizer: str) -> tuple[Path, dict[str, str]]:
    """The device's module with one of SANITIZERS, and the environment that a process needs to load it."""
    module = native_build(
        f"sanitize-{sanitizer.split(',')[0]}",
        f"-Db_sanitize={sanitizer}", "-Db_lundef=false", "-Dbuildtype=debugoptimized",
    )  # fmt: skip
    runtimes = [
        subprocess.run(["cc", f"-print-file-name={name}"], check=True, capture_output=True, text=True).stdout.strip()
        for name in SANITIZERS[sanitizer]
    ]
    return module, _SANITIZER_OPTIONS | {"LD_PRELOAD": " ".join(runtimes)}


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
