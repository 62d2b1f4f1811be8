# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""What is in C goes with its Python object, and stays where the process ends first."""

from __future__ import annotations

import subprocess
import sys
import textwrap

from ihsm_device.lifetimes import free_with


class Owner:
    """Something in Python."""


def test_it_is_freed_with_its_owner() -> None:
    freed: list[int] = []
    owner = Owner()
    free_with(owner, freed.append, 7)
    assert freed == []
    del owner
    assert freed == [7]


def test_nothing_is_freed_when_the_interpreter_ends() -> None:
    """A thread may be in C with it until the process is gone."""
    program = """
        from ihsm_device.lifetimes import free_with

        class Owner:
            pass

        owner = Owner()
        free_with(owner, print, "freed")
        print("made")
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "made\n", "")


def test_a_program_that_forgets_to_close_its_devices_ends_all_the_same() -> None:
    """Each engine here has a thread that looks at it after the interpreter has ended."""
    program = """
        from ihsm_abi.fault_actions import FaultAction
        from ihsm_abi.faults import Fault
        from ihsm_device.engine import Engine
        from ihsm_device.faults import FaultSet
        from ihsm_device.hosts import LoopbackHost
        from ihsm_device.scheduler import Scheduler

        scheduler = Scheduler()
        kept = []
        for _ in range(16):
            faults = FaultSet(Engine(scheduler, LoopbackHost()))
            faults.add(Fault(FaultAction.RESET_FUNCTION))
            kept.append(faults)
        print("made")
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "made\n", "")
