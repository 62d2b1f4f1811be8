# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""What who works with a guest waits for: a command in one that runs, and a signature from nothing. Under TCG.

The images of the environment are there, as they are for every guest but the first after a change.
"""

from __future__ import annotations

import itertools
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from ihsm.bench.in_guest import GuestBenchError
from ihsm.bench.results import WALL, Result
from ihsm.bench.sample import Sample
from ihsm.guest import images
from ihsm.kept import MODULE_OPTIONS

REPEATED: Final = 4
"""Runs of `ihsm info` in one guest; the first, which reads every file, does not count."""
SIGNATURES: Final = 3
TIMEOUT_S: Final = 900.0
SIGN: Final = """\
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from ihsm import Hsm

with Hsm.create() as hsm:
    key = hsm.generate("first", "p256", usage="sign")
    signature = key.sign(b"message", ec.ECDSA(hashes.SHA256()))
key.public_key().verify(signature, b"message", ec.ECDSA(hashes.SHA256()))
print("signed")
"""
_CLOCK: Final = "cut -d' ' -f1 /proc/uptime"


def guest_loop_records() -> list[dict[str, Any]]:
    """JSON forms of `guest-info` and `guest-first-signature`, in seconds of wall time."""
    images.provide()
    return [result.to_json() for result in (_info(), _first_signature())]


def _info() -> Result:
    """The second `ihsm info` and those after it in one guest, each from its start to its end by the guest's clock."""
    once = f"ihsm info >/dev/null && {_CLOCK}"
    lines = _guest(" && ".join([_CLOCK, *[once] * REPEATED])).split()
    times = [float(line) for line in lines]
    if len(times) != REPEATED + 1:
        raise GuestBenchError(f"the guest's clock said {lines}")
    first, *later = [after - before for before, after in itertools.pairwise(times)]
    return _result("guest-info", later, first_s=first)


def _first_signature() -> Result:
    """`ihsm guest --exec 'python sign.py'`: device, guest, store, key and signature, and the end of all of it."""
    taken = []
    with tempfile.TemporaryDirectory(prefix="ihsm-bench-") as folder:
        program = Path(folder, "sign.py")
        program.write_text(SIGN)
        for _ in range(SIGNATURES):
            began = time.monotonic()
            # The guest sees this user's stores, and none of them is to be in the way.
            said = _guest(f"XDG_DATA_HOME=$(mktemp -d) python {program}")
            taken.append(time.monotonic() - began)
            if said != "signed\n":
                raise GuestBenchError(f"the guest's program said {said!r}")
    return _result("guest-first-signature", taken)


def _result(name: str, seconds: Sequence[float], **more: Any) -> Result:
    samples = [Sample(operations=1, wall_s=each, client_cpu_s=0.0) for each in seconds]
    return Result(name, statistics.median(seconds), "s", clock=WALL, ratio_clock=WALL, runs={"tcg": samples}, more=more)


def _guest(shell: str) -> str:
    """Standard output of a command in a guest.

    Raises:
        GuestBenchError: it failed, or took too long.
    """
    command = [sys.executable, *MODULE_OPTIONS, "ihsm", "guest", "--quiet", "--accel", "tcg", "--exec", shell]
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired:
        raise GuestBenchError(f"the guest did not end within {TIMEOUT_S:.0f} s") from None
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1:]
        raise GuestBenchError(f"the guest ended with status {done.returncode}: {' '.join(last)}")
    return done.stdout
