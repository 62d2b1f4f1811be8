# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""The model does what the Linux driver was seen to do: each step of the recorded traces, access by access.

The commands' trace is played with the recorded device, whose answers are canned, so that whatever differs is the
driver's doing. Binding, and what a device that goes wrong leads to, are done with the real one too.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from ihsm.bus import VfioUserFunction
from ihsm.testing import DeviceFaults
from ihsm_abi.registers import Register
from ihsm_kmod.kernel.clock import StillClock
from ihsm_kmod.machine import Machine
from support.driver_side import Recorder
from support.fake_function import FakeFunction
from support.hsm_driver import BDF
from support.playback import Playback
from support.process import serve
from support.prototype import Event, Prototype
from support.traces import comparable
from support.waiting import HANG_S

DATA: Final = Path(__file__).parents[1] / "data"
COMMANDS: Final = DATA / "linux-driver-3.2.0-commands.jsonl"
BINDS: Final = DATA / "linux-driver-3.2.0-probe-remove-probe-remove.jsonl"
CONTENT: Final = ("prp", "sgl", "tail")


def load(path: Path) -> list[Event]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def steps_of(events: list[Event]) -> Iterator[tuple[str, list[Event]]]:
    """Name and events of each step."""
    starts = [number for number, event in enumerate(events) if event["op"] == "step"]
    for start, end in zip(starts, [*starts[1:], len(events)], strict=True):
        yield events[start]["name"], events[start + 1 : end]


def constant(events: list[Event], register: Register) -> int:
    return int(next(event["value"] for event in events if event["op"] == "read" and event["off"] == register))


def driver_side(step: str, events: list[Event], recorded: list[Event]) -> list[tuple[Any, ...]]:
    """What the driver did; of what commands lead to, what the recording has: its device did not look at all of it."""
    looked_at = {event["op"] for event in recorded if event["op"] in CONTENT}
    lines = comparable([event for event in events if event["op"] not in CONTENT or event["op"] in looked_at])
    # In the burst the threads' order is chance.
    return sorted(lines, key=repr) if step.startswith("burst") else lines


def test_every_step_of_the_recorded_commands() -> None:
    events = load(COMMANDS)
    clock = StillClock()
    fake = FakeFunction()
    prototype = Prototype(fake, constant(events, Register.CAP), constant(events, Register.VS))
    recorder = Recorder(fake)
    with Machine(clock=clock) as machine:
        playback = Playback(machine, clock, prototype)
        for step, recorded in steps_of(events):
            prototype.play(recorded)
            if step == "bind":
                machine.kernel.pci.add(recorder, BDF)
            else:
                playback.perform(step, recorded)
            assert prototype.unanswered == 0, step
            assert (step, driver_side(step, recorder.take(), recorded)) == (step, driver_side(step, recorded, recorded))


def test_two_binds_of_a_device_that_grants_two_aes_queues(socket_folder: Path) -> None:
    """The recorded device had as many queues of either kind; the second bind finds CC as the first has left it."""
    with (
        serve("--socket", str(socket_folder / "s"), "--resources", "2") as server,
        VfioUserFunction(server.paths[0], timeout_s=HANG_S) as function,
        DeviceFaults(server.paths[0]) as faults,
    ):
        hit = faults.add("grant-queues", aes=2)
        recorder = Recorder(function)
        with Machine(recorder, clock=StillClock()) as machine:
            bus = machine.kernel.pci
            bus.unbind(BDF)
            bus.bind(BDF)
            bus.unbind(BDF)
            assert hit.hits == 2
            assert bus.probe_error(BDF) == 0
        assert comparable(recorder.take()) == comparable(load(BINDS))
        assert machine.kernel.reports == []
