# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""What a device grants at a probe, and what a PF gives itself: answers that ours never gives (spec 01 §6.5, §6.9)."""

from __future__ import annotations

import errno
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ihsm_abi.admin import ADMIN_CQE, ADMIN_SQE, AdminOpcode, Feature, Psf, QueueCounts, QueueDw10
from support.fake_function import FakeFunction
from support.hsm_driver import Driver, commands_of, driver_on
from support.prototype import Event, Prototype

TRACE = Path(__file__).parents[2] / "data" / "linux-driver-3.2.0-commands.jsonl"
CAP = 0x30_1403_03FF
VS = 0x0001_0400

Answers = list[tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]]
"""Admin commands of the recorded bind, and their completions."""


def succeeded(opcode: AdminOpcode) -> Answers:
    """A command without fields, and its completion."""
    sqe, cqe = np.zeros(1, ADMIN_SQE), np.zeros(1, ADMIN_CQE)
    sqe["opc"], cqe["psf"] = opcode, Psf.of(phase=1)
    return [(sqe, cqe)]


DELETED = succeeded(AdminOpcode.DELETE_SQ)
"""For all commands of a teardown: what is answered is their completion alone."""


def recorded_bind() -> Answers:
    lines = [json.loads(line) for line in TRACE.read_text().splitlines()]
    end = next(number for number, line in enumerate(lines) if line["op"] == "step" and line["name"] != "bind")
    entries = [line for line in lines[:end] if line["op"] in ("sqe", "cqe")]
    return [
        (_entry(asked["bytes"], ADMIN_SQE), _entry(answered["bytes"], ADMIN_CQE))
        for asked, answered in zip(entries[::2], entries[1::2], strict=True)
    ]


def _entry(text: str, layout: np.dtype[np.void]) -> np.ndarray[Any, Any]:
    return np.frombuffer(bytearray.fromhex(text), layout)


def _events(answers: Answers) -> list[Event]:
    return [
        event
        for sqe, cqe in answers
        for event in (
            {"op": "sqe", "sqid": 0, "bytes": sqe.tobytes().hex()},
            {"op": "cqe", "cqid": 0, "bytes": cqe.tobytes().hex()},
        )
    ]


@contextmanager
def bound(answers: Answers, *, vfs: int | None = None, **parameters: int) -> Iterator[Driver]:
    """The driver on a device that answers a bind so."""
    function = FakeFunction(total_vfs=vfs, num_vfs=0)
    prototype = Prototype(function, CAP, VS)
    prototype.play(_events(answers))
    with driver_on(function, **parameters) as driver:
        assert driver.machine.kernel.crashed is None, driver.machine.kernel.dmesg()
        yield driver
        prototype.play(_events(DELETED * 6))
    assert driver.reports == []


def answer(answers: Answers, feature: Feature) -> np.ndarray[Any, Any]:
    """Completion of the SET_FEAT of a feature."""
    return next(cqe for sqe, cqe in answers if (sqe["opc"][0], sqe["dw10"][0]) == (AdminOpcode.SET_FEATURES, feature))


def created(driver: Driver) -> list[int]:
    return [QueueDw10(dw10).id for opcode, dw10 in commands_of(driver) if opcode is AdminOpcode.CREATE_SQ]


def test_the_smaller_of_both_counts_is_taken() -> None:
    answers = recorded_bind()
    answer(answers, Feature.AES_QUEUE_COUNT)["dw0"] = QueueCounts.of(sqs=7, cqs=1)
    with bound(answers) as driver:
        assert driver.probe_error == 0
        assert created(driver) == [1, 256, 257]
        assert driver.controller.aes_pool.count == 2


def test_no_aes_queues_are_no_error() -> None:
    answers = recorded_bind()
    answer(answers, Feature.AES_QUEUE_COUNT)["dw0"] = QueueCounts.of(sqs=0xFFFF, cqs=0xFFFF)
    with bound([pair for pair in answers if QueueDw10(int(pair[0]["dw10"][0])).id not in (256, 257)]) as driver:
        assert driver.probe_error == 0
        assert created(driver) == [1]
        assert driver.controller.aes_pool.count == 0
        assert driver.controller.gcm_workaround


def test_without_hsm_queues_there_is_no_node() -> None:
    answers = recorded_bind()
    answer(answers, Feature.HSM_QUEUE_COUNT)["dw0"] = QueueCounts.of(sqs=0xFFFF, cqs=0xFFFF)
    with bound(answers) as driver:
        assert driver.probe_error == errno.ENOMEM
        assert driver.machine.kernel.vfs.listdir("/dev") == []


# A PF.


def resources_answered(sc: int) -> Answers:
    """As recorded, but that SET_RES_CNT comes behind IDENT."""
    answers = recorded_bind()
    [(sqe, cqe)] = succeeded(AdminOpcode.SET_RES_CNT)
    cqe["psf"] = Psf.of(phase=1, sc=sc)
    return [answers[0], (sqe, cqe), *answers[1:]]


@pytest.mark.parametrize(("asked", "given"), [(1, 1), (7, 7), (200, 64)])
def test_a_pf_gives_itself_resources(asked: int, given: int) -> None:
    with bound(resources_answered(0), vfs=4, pf_res_cnt=asked) as driver:
        assert driver.probe_error == 0
        sqe = driver.function.admin[1]
        assert (sqe["opc"], sqe["dw10"], sqe["dw11"]) == (AdminOpcode.SET_RES_CNT, 0, given)
        assert all(sqe[name] == 0 for name in ("prp1", "prp2", "dw12", "dw13", "dw14", "dw15"))


def test_resources_that_are_refused_are_no_error_yet() -> None:
    with bound(resources_answered(1), vfs=4) as driver:
        assert driver.probe_error == 0
        assert driver.says("SET_RES_CNT failed")


@pytest.mark.parametrize(("vfs", "parameters"), [(None, {}), (4, {"pf_res_cnt": 0})], ids=["VF", "PF that wants none"])
def test_others_do_not(vfs: int | None, parameters: dict[str, int]) -> None:
    with bound(recorded_bind(), vfs=vfs, **parameters) as driver:
        assert driver.probe_error == 0
        assert AdminOpcode.SET_RES_CNT not in [opcode for opcode, _ in commands_of(driver)]
