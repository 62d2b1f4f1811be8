# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""A guest asks the device who it is, through configuration space."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from support.guests import run_guest

pytestmark = pytest.mark.guest
TESTS = Path(__file__).parents[1]


def test_two_functions_attest_over_sysfs() -> None:
    done = run_guest(f"PYTHONPATH={TESTS} {sys.executable} {TESTS / 'guest' / 'attesting.py'}", devices=2)
    assert done.status == 0, done.err
    lines = done.out.splitlines()
    assert len(lines) == 2
    assert all(line.startswith("attested ") for line in lines)
    assert lines[0] == lines[1], "one device has one chain"


def test_the_command_in_a_guest_and_under_lockdown() -> None:
    shell = (
        'for n in 1 2 3; do ihsm attest --wait 600 --json >/dev/null & jobs="$jobs $!"; done;'
        "for job in $jobs; do wait $job; echo at once $?; done;"
        "setpriv --reuid 65534 ihsm attest; echo user $?;"
        "mount -t securityfs none /sys/kernel/security; echo integrity >/sys/kernel/security/lockdown;"
        "ihsm attest; echo lockdown $?"
    )
    done = run_guest(f"export PATH={Path(sys.executable).parent}:$PATH; {shell}", devices=1)
    assert done.out.splitlines() == [*3 * ["at once 0"], "user 4", "lockdown 4"], done.err
    refused = [line for line in done.err.splitlines() if line.startswith("Error: ")]
    assert len(refused) == 2
    assert "root is needed" in refused[0]
    assert "it is in lockdown" in refused[1]
