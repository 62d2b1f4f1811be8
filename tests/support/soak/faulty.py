# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Faults that are added and cleared: each changes just what it says, and nothing of it stays when it is cleared."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any, Final

from ihsm.bus import VfioUserFunction
from ihsm.control import ControlClient
from ihsm_abi.admin import Psf
from ihsm_abi.ddi import GetApiRevReq, encode_request
from ihsm_abi.doorbells import cq_head_offset
from ihsm_abi.fault_actions import DmaPart, FaultAction
from ihsm_abi.faults import Fault, Match, When
from ihsm_abi.pci import Bar
from support.polled import PolledDriver, Ring, hsm_sqe
from support.waiting import HANG_S, until

QUEUE: Final = 1
BURST: Final = 8
WRONG_CID: Final = 0xFFFF
BEHIND: Final = 2
"""Answers that come before one that is put off."""
PARAMETERS: Final[dict[FaultAction, dict[str, Any]]] = {
    FaultAction.DROP_COMPLETION: {},
    FaultAction.DELAY_COMPLETION: {"ms": 2},
    FaultAction.DUPLICATE_COMPLETION: {},
    FaultAction.WRONG_CID: {"cid": WRONG_CID},
    FaultAction.WRONG_STATUS: {"status": 7},
    FaultAction.REORDER_COMPLETIONS: {"behind": BEHIND},
    FaultAction.CORRUPT_RESPONSE: {},
    FaultAction.CUT_RESPONSE: {"bytes": 3},
    FaultAction.HOLD_COMMAND: {},
    FaultAction.FAIL_DMA: {"part": DmaPart.SOURCE},
}


def comes_late(action: FaultAction, nth: int) -> bool:
    """Whether a completion waits until the fault is cleared."""
    return action is FaultAction.HOLD_COMMAND or (action is FaultAction.REORDER_COMPLETIONS and nth > BURST - BEHIND)


class MiscountError(AssertionError):
    """A completion was lost or doubled that should not have been."""


def completions(ring: Ring, wanted: int) -> list[tuple[int, int]]:
    """So many completions as they come, command id and status, whether they belong to a command or not."""
    found: list[tuple[int, int]] = []

    def look() -> bool:
        while Psf((entry := ring.cq[ring.head])["psf"]).phase == ring.phase:
            found.append((int(entry["cid"]), Psf(entry["psf"]).status))
            ring.head = (ring.head + 1) % ring.entries
            ring.phase ^= ring.head == 0
            ring.function.write_bar(Bar.DOORBELLS, cq_head_offset(ring.queue_id, ring.dstrd), 4, ring.head)
        return len(found) >= wanted

    until(look, f"{wanted} completions", every_s=0)
    return found


class FaultyFunction:
    """A driver on a function that is told to do something wrong."""

    def __init__(self, path: str, function: VfioUserFunction, control: ControlClient) -> None:
        """Bring the function up, with a queue for the HSM."""
        self._control = control
        self._driver = PolledDriver(function)
        self._driver.enable()
        self._ring = self._driver.create_pair(QUEUE, entries=4 * BURST)
        message = encode_request(GetApiRevReq())
        self._driver.page.view[: len(message)] = memoryview(message)
        self._bytes = len(message)

    def _submit(self) -> list[int]:
        driver, cids = self._driver, []
        for _ in range(BURST):
            cids.append(driver.next_cid())
            sqe = hsm_sqe(
                cids[-1],
                source=driver.page.iova,
                source_bytes=self._bytes,
                destination=driver.answer_page.iova,
                destination_bytes=driver.answer_page.size_bytes,
            )
            self._ring.put(sqe)
        self._ring.ring()
        return cids

    def clean(self, what: str) -> None:
        """A burst without a fault: each command is answered once, with success."""
        cids = self._submit()
        got = completions(self._ring, BURST)
        self._ring.forget_outstanding()
        if Counter(got) != Counter((cid, 0) for cid in cids):
            raise MiscountError(f"{what}: sent {cids}, answered {got}")

    def with_fault(self, action: FaultAction, nth: int) -> None:
        """A burst of which the `nth` command meets a fault, and one after the fault was cleared."""
        fault = Fault(action, Match(queue=QUEUE), When(nth=nth, count=1), PARAMETERS[action])
        number = self._control.add_fault(fault)
        cids = self._submit()
        late = comes_late(action, nth)
        wanted = BURST - late - (action is FaultAction.DROP_COMPLETION) + (action is FaultAction.DUPLICATE_COMPLETION)
        got = Counter(cid for cid, _ in completions(self._ring, wanted))
        until(lambda: self._control.faults()[0].hits, f"a hit of {action}")
        self._control.clear_fault(number)
        if late:
            got += Counter(cid for cid, _ in completions(self._ring, 1))
        self._ring.forget_outstanding()
        missing, surplus = Counter(cids) - got, got - Counter(cids)
        expected = {
            FaultAction.DROP_COMPLETION: (1, 0),
            FaultAction.DUPLICATE_COMPLETION: (0, 1),
            FaultAction.WRONG_CID: (1, 1),
        }.get(action, (0, 0))
        if (missing.total(), surplus.total()) != expected:
            raise MiscountError(f"{action} of the {nth}th of {cids}: answered {sorted(got.elements())}")
        self.clean(f"after {action}")

    def close(self) -> None:
        """Give the memory back; the function is closed by whoever opened it."""
        self._driver.close()


def faults_added_and_cleared(path: str, rng: random.Random) -> None:
    """Every fault of one command, at any command; then a reset in mid-command, and a function that is gone."""
    with VfioUserFunction(path, timeout_s=HANG_S) as function, ControlClient(path, HANG_S) as control:
        faulty = FaultyFunction(path, function, control)
        faulty.clean("without a fault")
        for action in rng.sample(list(PARAMETERS), len(PARAMETERS)):
            faulty.with_fault(action, rng.randrange(1, BURST + 1))
        faulty.close()
    for action in (FaultAction.RESET_FUNCTION, FaultAction.REMOVE_FUNCTION):
        _end_of_function(path, action)


def _end_of_function(path: str, action: FaultAction) -> None:
    """The function is as new for the next client."""
    with VfioUserFunction(path, timeout_s=HANG_S) as function, ControlClient(path, HANG_S) as control:
        faulty = FaultyFunction(path, function, control)
        match = Match(queue=QUEUE) if action is FaultAction.RESET_FUNCTION else Match()
        number = control.add_fault(Fault(action, match, When(count=1) if match.queue else When()))
        faulty._submit()
        until(lambda: control.faults()[0].hits, f"a hit of {action}")
        control.clear_fault(number)
    with VfioUserFunction(path, timeout_s=HANG_S) as function, ControlClient(path, HANG_S) as control:
        faulty = FaultyFunction(path, function, control)
        faulty.clean(f"after {action}")
        faulty.close()
