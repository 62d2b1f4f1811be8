# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Whatever a device is told to do wrong, and whatever its client does meanwhile: when that has ended, it works."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from abi.test_faults import faults_of
from ihsm.errors import ProtocolError
from ihsm_abi.fault_actions import FaultAction
from ihsm_abi.fault_table import ACTIONS
from ihsm_abi.faults import Fault, Match, When
from ihsm_abi.pci import Bar
from ihsm_abi.registers import NSSR_MAGIC, Cc, Register
from support.devices import DeviceUnderTest
from support.polled import PolledDriver
from support.shown import QUEUES, Sender
from support.waiting import until

FREE = 6
"""Places of each queue that stay free: nobody looks at completions while faults stand."""
SPECS = [spec for spec in ACTIONS.values() if not spec.at_start_only and spec.action is not FaultAction.PAUSE_PROCESS]
"""All but a pause, which would stop this process."""

queues = st.sampled_from([None, *QUEUES])
whens = st.builds(
    When,
    nth=st.integers(1, 3),
    count=st.none() | st.integers(1, 3),
    for_ms=st.none() | st.integers(1, 3),
    per_mille=st.none() | st.integers(1, 1000),
    seed=st.integers(0, 9),
)


@st.composite
def likely(draw: st.DrawFn) -> Fault:
    """A fault that something of what happens here may hit."""
    spec = draw(st.sampled_from(SPECS))
    fault = draw(faults_of(spec))
    when = {name: getattr(draw(whens), name) for name in spec.whens if name != "after_ms"}
    return replace(fault, match=Match(queue=draw(queues)) if "queue" in spec.matches else Match(), when=When(**when))


class Careless:
    """A client that goes on, whatever it gets."""

    def __init__(self, device: DeviceUnderTest, driver: PolledDriver) -> None:
        self.device, self.driver = device, driver

    def begin(self) -> None:
        """Three queues, on a device that does everything right."""
        self.device.level_reset()
        self.driver.enable()
        self.driver.create_pair(1, vector=3)
        self.driver.create_pair(256, vector=20)

    def send(self, queue: int) -> None:
        sender = Sender(self.driver, queue)
        if len(sender.ring.outstanding) < sender.ring.entries - FREE:
            sender.ring.put(sender.entry(self.driver.next_cid()))
        sender.ring.ring()

    def acts(self) -> dict[str, Callable[[], object]]:
        function = self.device.function
        cc = Register.CC, Register.CC.width
        return {
            "admin": lambda: self.send(0),
            "hsm": lambda: self.send(1),
            "aes": lambda: self.send(256),
            "csts": lambda: function.read_bar(Bar.REGISTERS, Register.CSTS, 4),
            "cap": lambda: function.read_bar(Bar.REGISTERS, Register.CAP, 8),
            "pending": lambda: function.read_bar(Bar.MSIX, 0x800, 4),
            "enable": lambda: function.write_bar(Bar.REGISTERS, *cc, Cc.of(en=1)),
            "disable": lambda: function.write_bar(Bar.REGISTERS, *cc, 0),
            "nssr": lambda: function.write_bar(Bar.REGISTERS, Register.NSSR, 4, NSSR_MAGIC),
            "reset": self.reset,
        }

    def reset(self) -> None:
        """What is gone has no capability to be reset by."""
        with contextlib.suppress(ProtocolError):
            self.device.level_reset()

    def end_faults(self) -> None:
        """No reset of theirs is on its way, and the function is there: the set tells of a change after what it does."""
        faults = self.device.device.faults
        told = [0]

        def tell() -> None:
            told[0] += 1

        faults.on_hit(tell)
        faults.clear()
        for _ in range(2):
            before = told[0]
            faults.clear(faults.add(Fault(FaultAction.HOLD_COMMAND)))
            until(lambda before=before: told[0] > before, "a change")
        faults._callbacks.remove(tell)
        assert not faults.removed


ACTS = ("admin", "hsm", "aes", "csts", "cap", "pending", "enable", "disable", "nssr", "reset")


@pytest.mark.parametrize("device", ["loopback", "vfio-user"], indirect=True)
@settings(max_examples=80)
@example(some=[Fault(FaultAction.REMOVE_FUNCTION)], acts=4 * ["csts", "hsm", "reset"])
@given(some=st.lists(likely(), min_size=1, max_size=4), acts=st.lists(st.sampled_from(ACTS), min_size=4, max_size=20))
def test_it_works_when_all_has_ended(
    device: DeviceUnderTest, driver: PolledDriver, some: list[Fault], acts: list[str]
) -> None:
    client = Careless(device, driver)
    client.begin()
    for fault in some:
        device.device.faults.add(fault)
    doing = client.acts()
    assert doing.keys() == set(ACTS)
    for act in acts:
        doing[act]()
    client.end_faults()
    client.begin()
    for queue in QUEUES:
        Sender(driver, queue).run()
    driver.delete_pair(1)
    driver.delete_pair(256)
    driver.disable()
