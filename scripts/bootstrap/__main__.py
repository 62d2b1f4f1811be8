# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""`scripts/setup`: every step in order, each skipped when its result is there."""

import sys
import time

from bootstrap import apt, aws_lc, kernel, libvfio_user, python_env, qemu
from bootstrap.layout import CHECKOUT, cache_root, locked
from bootstrap.process import SetupError, output, say, step

PACKAGES = (
    "build-essential",
    "busybox-static",
    "ca-certificates",
    "cpio",
    "kmod",
    "libelf-dev",
    "libjson-c-dev",
    "pciutils",
    "python3-dev",
    "python3-venv",
)


def main() -> None:
    """Run the steps; exits with a message and a status when one cannot be done."""
    start = time.monotonic()
    try:
        if (architecture := output(["dpkg", "--print-architecture"]).strip()) != "amd64":
            raise SetupError(f"this machine is {architecture}; guests and their tool chain are for amd64 only")
        lock = cache_root() / "setup.lock"
        try:
            lock.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise SetupError(f"{lock.parent}: {error.strerror}; name another cache with XDG_CACHE_HOME") from None
        with locked(lock):
            run_steps()
    except SetupError as error:
        print(f"setup: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    say(f"ready after {time.monotonic() - start:.0f} s")


def run_steps() -> None:
    """All of set-up, cheap checks first."""
    if wanted := apt.missing(PACKAGES):
        with step(f"system packages: installing {' '.join(wanted)}"):
            apt.install(wanted)
    else:
        say("system packages: there already")
    venv = CHECKOUT / ".venv"
    python_env.provide_environment(venv)
    lists = apt.PrivateApt("distribution", [f"{kind} {apt.suite()} main" for kind in ("deb", "deb-src")])
    source = libvfio_user.provide(lists)
    crypto = aws_lc.provide(venv)
    kernel.provide(lists)
    lists.discard()
    qemu.provide()
    python_env.provide_project(venv, source, crypto)


if __name__ == "__main__":
    main()
