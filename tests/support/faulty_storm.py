# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""A storm (`support.storm`) at a device that is told to do all kinds of things wrong meanwhile; also under sanitizers.

Run as a script: `python faulty_storm.py ROUNDS [page]`.
"""

from __future__ import annotations

import contextlib
import sys
from collections import Counter
from typing import Any, Final

from ihsm_abi.fault_actions import DmaPart, FaultAction
from ihsm_abi.faults import Fault, Match, When
from ihsm_device.commands import Command
from ihsm_device.engine import QueueError
from ihsm_device.faults import FaultSet
from ihsm_device.hsm.keystore import KeyStore
from support.storm import ENTRIES, QUEUES, Storm
from support.waiting import until

COMMANDS: Final[dict[FaultAction, dict[str, Any]]] = {
    FaultAction.DROP_COMPLETION: {},
    FaultAction.DELAY_COMPLETION: {"ms": 1},
    FaultAction.DUPLICATE_COMPLETION: {},
    FaultAction.WRONG_CID: {"cid": 0xFFFF},
    FaultAction.WRONG_PHASE: {},
    FaultAction.WRONG_SQHD: {"sqhd": 0},
    FaultAction.WRONG_STATUS: {"status": 7},
    FaultAction.REORDER_COMPLETIONS: {"behind": 2},
    FaultAction.CORRUPT_RESPONSE: {},
    FaultAction.CUT_RESPONSE: {"bytes": 3, "told": 0xFFFF},
    FaultAction.HOLD_COMMAND: {},
    FaultAction.FAIL_DMA: {"part": DmaPart.ENTRY},
    FaultAction.RESET_FUNCTION: {},
    FaultAction.NEVER: {},
}
VECTORS: Final[dict[FaultAction, dict[str, Any]]] = {
    FaultAction.LOSE_INTERRUPT: {},
    FaultAction.DELAY_INTERRUPT: {"ms": 1},
}
TIMES: Final[dict[FaultAction, dict[str, Any]]] = {
    FaultAction.SPURIOUS_INTERRUPT: {},
    FaultAction.STORM_INTERRUPT: {"us": 10},
    FaultAction.REMOVE_FUNCTION: {},
}
"""By the clock; a pause would stop the storm as well."""
STORMY_VECTOR: Final = 31
"""Raised whenever a fault wants it."""
MOST_FAULTS: Final = 4


class FaultyStorm(Storm):
    """Each round begins with some faults and ends with none, and with queues made anew."""

    silent_vectors = range(STORMY_VECTOR)

    def __init__(self, store: KeyStore, seed: int, *, doorbell_page: bool = False) -> None:
        super().__init__(store, seed, doorbell_page=doorbell_page)
        self.faults = FaultSet(self.rig.engine, execute=self.answer, reset=self.rig.engine.reset)
        self.hits: Counter[FaultAction] = Counter()
        self.told = 0
        self.faults.on_hit(self.count)

    def count(self) -> None:
        self.told += 1

    def end_faults(self) -> None:
        """Afterwards no reset is on its way: the set tells of a change after what it had to do before."""
        told = self.told
        self.faults.clear()
        until(lambda: self.told > told, "a first change")
        self.faults.clear(self.faults.add(Fault(FaultAction.HOLD_COMMAND)))
        until(lambda: self.told > told + 1, "a second change")

    @staticmethod
    def answer(command: Command) -> None:
        command.engine.complete_hsm(command, b"")

    def fault(self) -> Fault:
        """Any, for any queue or vector."""
        choice = self.random.choice
        if self.random.random() < 0.15:
            action = choice(list(TIMES))
            takes_vector = action is not FaultAction.REMOVE_FUNCTION
            return Fault(action, parameters=TIMES[action] | ({"vector": STORMY_VECTOR} if takes_vector else {}))
        when = When(
            nth=choice([1, 2, 5]),
            count=choice([None, 1, 3]),
            for_ms=choice([None, None, 1]),
            per_mille=choice([None, None, 500]),
            seed=self.random.randrange(1 << 32),
        )
        if self.random.random() < 0.2:
            action = choice(list(VECTORS))
            return Fault(action, Match(vector=choice([None, *QUEUES.values()])), when, VECTORS[action])
        action = choice(list(COMMANDS))
        parameters = COMMANDS[action]
        if action is FaultAction.NEVER:
            when = When(nth=when.nth)
        if action is FaultAction.FAIL_DMA:
            parameters = {"part": choice(list(DmaPart))}
        return Fault(action, Match(queue=choice([None, *QUEUES])), when, parameters)

    def submit(self) -> None:
        for _ in range(self.random.randrange(1, MOST_FAULTS)):
            self.faults.add(self.fault())
        super().submit()

    def drain(self) -> None:
        """Whatever has become of the commands: nothing comes of them after the queues' end."""
        for standing in self.faults.list():
            self.hits[standing.fault.action] += standing.hits
        self.end_faults()
        for queue in self.queues.values():
            for _ in range(ENTRIES):
                if queue.reap() is None:
                    break
        self.end_all(self.rig.engine.disable)

    def restart_queue(self) -> None:
        with contextlib.suppress(QueueError):  # the function has been reset
            self.rig.engine.delete_sq(self.random.choice(list(QUEUES)), timeout_s=0)

    def run(self, rounds: int) -> None:
        super().run(rounds)
        missing = [action for action in (*COMMANDS, *VECTORS, *TIMES) if not self.hits[action]]
        assert not missing, f"never hit: {missing}"

    def close(self) -> None:
        self.faults.close()
        super().close()


def main(rounds: int, doorbell_page: bool) -> None:
    """A storm of `rounds` rounds; prints what was hit."""
    store = KeyStore()
    storm = FaultyStorm(store, seed=rounds, doorbell_page=doorbell_page)
    storm.run(rounds)
    storm.close()
    store.close()
    print({str(action): count for action, count in storm.hits.items()})


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:] == ["page"])
