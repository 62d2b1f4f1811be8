# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""The project's Python environment and its native module."""

import hashlib
import json
import os
import shutil
from pathlib import Path

from bootstrap.layout import CHECKOUT, cache_root
from bootstrap.process import output, run, say, step

PYTHON = "/usr/bin/python3"
LOCK = CHECKOUT / "requirements" / "lock.txt"
PACKAGE_ROOTS = ("abi", "vfio_device", "userspace", "kmod_sim")
# What decides how the project is installed; sources themselves need no new installation.
INSTALL_INPUTS = (
    "pyproject.toml",
    "requirements/lock.txt",
    *(f"vfio_device/native/{name}" for name in ("hatch_build.py", "lock_file.py", "meson.options", "sbom.py")),
)


def pip(venv: Path) -> list[str]:
    """First words of a pip command for `venv`."""
    return [f"{venv}/bin/python", "-m", "pip", "--disable-pip-version-check"]


def provide_environment(venv: Path) -> None:
    """Make `venv` from the system's Python with exactly the locked packages (every file checked by hash)."""
    wanted = output([PYTHON, "-c", "import sys; print(sys.version)"]) + LOCK.read_text()
    stamp = venv / ".ihsm-requirements"
    if stamp.exists() and stamp.read_text() == wanted:
        say("Python environment: there already")
        return
    with step("Python environment: installing the locked packages"):
        stamp.unlink(missing_ok=True)
        if not (venv / "bin" / "pip").exists() or output([venv / "bin/python", "-V"], check=False) != output(
            [PYTHON, "-V"]
        ):
            run([PYTHON, "-m", "venv", "--clear", venv])
        run([*pip(venv), "install", "--require-hashes", "--only-binary", ":all:", "-r", LOCK])
        stamp.write_text(wanted)


def provide_project(venv: Path, libvfio_user: Path, aws_lc: Path) -> None:
    """Install the project editable, native module included, or only rebuild what changed in the module."""
    libraries = {"IHSM_LIBVFIO_USER": str(libvfio_user), "IHSM_AWS_LC": str(aws_lc)}
    env = {"PATH": f"{venv / 'bin'}:{os.environ['PATH']}"} | libraries
    (cache_root() / "libraries.json").write_text(json.dumps(libraries))  # for builds by others: hatch_build.py
    inputs = b"".join((CHECKOUT / name).read_bytes() for name in INSTALL_INPUTS)
    wanted = f"{libvfio_user}\n{aws_lc}\n{hashlib.sha256(inputs).hexdigest()}\n"
    stamp = venv / ".ihsm-project"
    build = CHECKOUT / "build" / "native"
    if stamp.exists() and stamp.read_text() == wanted and (build / "build.ninja").exists():
        with step("native module: building what changed"):
            run(["meson", "compile", "-C", build], env=env)
    else:
        with step("project: building the native module and installing it editable"):
            stamp.unlink(missing_ok=True)
            shutil.rmtree(build, ignore_errors=True)
            run([*pip(venv), "install", "--no-build-isolation", "--no-deps", "--no-index", "-e", CHECKOUT], env=env)
            stamp.write_text(wanted)
    # Guests import the same files, cannot keep byte code, and compile slowly.
    run([f"{venv}/bin/python", "-m", "compileall", "-q", *(CHECKOUT / name for name in PACKAGE_ROOTS)])
