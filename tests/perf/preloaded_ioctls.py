# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""What an ioctl of a program with the preload library costs: CPU time of both sides, with a driver that does nothing.

Usage: preloaded_ioctls.py [--count 100000] [--threads 1]. Prints microseconds per ioctl.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import tempfile
import time
from pathlib import Path

from support.host_driver import Command
from support.preloaded import Preloaded

PROGRAM = Path(__file__).parents[1] / "kmod_host" / "many.c"


def cpu_s(who: int) -> float:
    used = resource.getrusage(who)
    return used.ru_utime + used.ru_stime


def main() -> None:
    """Build the program, run it, and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, Preloaded(Path(name)) as host:
        program = Path(name, "many")
        subprocess.run(["cc", "-D_GNU_SOURCE", "-O2", "-pthread", "-o", program, PROGRAM], check=True)
        before = time.perf_counter(), cpu_s(resource.RUSAGE_SELF), cpu_s(resource.RUSAGE_CHILDREN)
        host.run(program, str(options.count), str(options.threads))
        after = time.perf_counter(), cpu_s(resource.RUSAGE_SELF), cpu_s(resource.RUSAGE_CHILDREN)
        done = host.driver.commands[Command.COUNT]
    wall, server, client = ((end - begin) / done * 1e6 for begin, end in zip(before, after, strict=True))
    print(f"{done} ioctls of {options.threads} threads: CPU {server + client:.1f} us each,", end=" ")
    print(f"server {server:.1f}, program {client:.1f}; {wall:.1f} us from one to the next")


if __name__ == "__main__":
    main()
