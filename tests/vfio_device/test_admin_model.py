# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Random legal and illegal admin sequences: the device and a small independent model agree on every answer."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st

from support.admin_model import AdminModel
from support.devices import HOSTS, DeviceUnderTest, open_device
from support.polled import PolledDriver

RESOURCES: Final = 2
IDS: Final = st.sampled_from([0, 1, 1, 1, 2, 2, 3, 65, 66, 255, 256, 256, 257, 259, 260, 385, 386, 0xFFFF])
UNMAPPED: Final = 0x7777_0000_0000


@dataclass(frozen=True)
class Step:
    """An admin command, or with `opcode` None what happens to the controller."""

    opcode: int | None
    dw10: int = 0
    dw11: int = 0
    prp1: int | None = None
    event: str = ""


def words(low: st.SearchStrategy[int], high: st.SearchStrategy[int]) -> st.SearchStrategy[int]:
    return st.builds(lambda lower, upper: upper << 16 | lower, low, high)


SIZES: Final = st.sampled_from([0, 1, 3, 15, 15, 15, 4095, 0xFFFF])
FLAGS: Final = st.sampled_from([0, 1, 1, 1, 2, 3, 3, 3, 3, 0xFFF8, 0xFFFF])
VECTORS: Final = st.sampled_from([0, 1, 1, 2, 15, 16, 16, 17, 31, 32, 0xFFFF])
PRP1: Final = st.sampled_from([None, None, None, 0, UNMAPPED])
QUEUE_STEPS: Final = st.one_of(
    st.builds(Step, st.just(0x05), words(IDS, SIZES), words(FLAGS, VECTORS)),
    st.builds(Step, st.just(0x01), words(IDS, SIZES), words(FLAGS, IDS)),
    st.builds(Step, st.just(0x00), words(IDS, SIZES), st.just(0)),
    st.builds(Step, st.just(0x04), words(IDS, SIZES), st.just(0)),
)
OTHER_STEPS: Final = st.one_of(
    st.builds(Step, st.just(0x06), st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1), PRP1),
    st.builds(
        Step,
        st.sampled_from([0x09, 0x0A]),
        st.sampled_from([0x07, 0xC1, 0xC2, 0, 0x107, 0xFF]),
        st.integers(0, 2**32 - 1),
    ),
    st.builds(Step, st.integers(0xC3, 0xC9), st.sampled_from([0, 1, 2, 64, 65, 2**32 - 1]), st.integers(0, 66)),
    st.builds(Step, st.integers(0, 255), st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1), PRP1),
)
EVENTS: Final = st.builds(Step, st.none(), event=st.sampled_from(["disable", "nssr", "device reset", "level reset"]))
STEPS: Final = st.lists(st.one_of(QUEUE_STEPS, QUEUE_STEPS, QUEUE_STEPS, OTHER_STEPS, EVENTS), min_size=5, max_size=40)


def happen(what: str, driver: PolledDriver, device: DeviceUnderTest) -> None:
    """All of them end every queue; the controller is enabled again."""
    match what:
        case "disable":
            driver.disable()
        case "nssr":
            driver.nssr()
            driver.disable()
        case "device reset":
            device.function.reset()
        case "level reset":
            device.level_reset()
    driver.enable()


def run(steps: list[Step], driver: PolledDriver, device: DeviceUnderTest) -> None:
    page = driver.page.iova
    model = AdminModel(RESOURCES, ctrl_id=1, mapped=range(page, page + 1))
    driver.enable()
    for step in steps:
        if step.opcode is None:
            happen(step.event, driver, device)
            model.forget()
            continue
        prp1 = page if step.prp1 is None else step.prp1
        answer = driver.run_admin(step.opcode, dw10=step.dw10, dw11=step.dw11, prp1=prp1)
        assert (answer.status, answer.dw0) == model.answer(step.opcode, step.dw10, step.dw11, prp1), step
        event(f"{step.opcode:#04x} -> {answer.status:#06x}" if step.opcode in {0, 1, 4, 5, 6, 9, 10} else "other")
    driver.disable()


@pytest.mark.parametrize(("host", "examples"), list(zip(HOSTS, (150, 40, 40), strict=True)))
def test_random_sequences(host: str, examples: int, socket_folder: Path) -> None:
    with open_device(host, socket_folder, resources=RESOURCES) as device:
        driver = PolledDriver(device.function)

        @settings(max_examples=examples)
        @given(STEPS)
        def agree(steps: list[Step]) -> None:
            device.function.reset()
            run(steps, driver, device)

        agree()
