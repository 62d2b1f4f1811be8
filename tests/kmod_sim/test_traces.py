# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""The model does what the Linux driver was seen to do: each step of the recorded traces, access by access.

The commands' trace is played with the recorded device, whose answers are canned, so that whatever differs is the
driver's doing. Binding, and what a device that goes wrong leads to, are done with the real one too.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ihsm.bus import VfioUserFunction
from ihsm.testing import DeviceFaults
from ihsm.trace.diff import differences
from ihsm.trace.files import numbered
from ihsm.trace.rules import judge
from ihsm_abi.registers import Register
from ihsm_kmod.kernel.clock import StillClock
from ihsm_kmod.machine import Machine
from support.driver_side import Recorder
from support.fake_function import FakeFunction
from support.hsm_driver import BDF
from support.live_recording import LiveRecording
from support.playback import Playback
from support.process import serve
from support.prototype import Event, Prototype
from support.traces import BINDS, COMMANDS, load, records_of
from support.waiting import HANG_S


def steps_of(events: list[Event]) -> Iterator[tuple[str, list[Event]]]:
    """Name and events of each step."""
    starts = [number for number, event in enumerate(events) if event["op"] == "step"]
    for start, end in zip(starts, [*starts[1:], len(events)], strict=True):
        yield events[start]["name"], events[start + 1 : end]


def constant(events: list[Event], register: Register) -> int:
    return int(next(event["value"] for event in events if event["op"] == "read" and event["off"] == register))


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
            assert (step, differences(records_of(recorded), records_of(recorder.take()))) == (step, [])


def test_two_binds_of_a_device_that_grants_two_aes_queues(socket_folder: Path) -> None:
    """The recorded device had as many queues of either kind; the second bind finds CC as the first has left it."""
    with (
        serve("--socket", str(socket_folder / "s"), "--resources", "2") as server,
        LiveRecording(server.paths[0]) as recording,
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
        assert differences(records_of(load(BINDS)), records_of(recorder.take())) == []
        assert machine.kernel.reports == []
    # The device has seen the same.
    live = numbered(recording.records)
    assert differences(records_of(load(BINDS)), live) == []
    assert judge(live).breaches == []
