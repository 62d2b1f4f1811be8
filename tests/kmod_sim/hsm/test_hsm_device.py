# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""When a function's node is there, and under which number (spec 02 A.1)."""

from __future__ import annotations

import errno
from collections.abc import Callable

from ihsm_abi.admin import AdminOpcode
from ihsm_abi.hsm_queue import ControlKind
from ihsm_abi.pci import Bar
from ihsm_abi.uapi import MINOR_COUNT, AbortType
from support.bent_function import Access, BentFunction
from support.hsm_driver import Driver, driver_on
from support.hsm_program import api_revision_request, command, program

Covers = Callable[..., None]


def nodes(driver: Driver) -> list[str]:
    return driver.machine.kernel.vfs.listdir("/dev")


def test_the_node_and_what_sysfs_says_of_it(driver: Driver) -> None:
    vfs = driver.machine.kernel.vfs
    assert nodes(driver) == ["azihsm0"]
    major, minor = vfs.stat("/dev/azihsm0").st_rdev
    assert minor == 0
    assert vfs.read_text("/sys/class/azihsm-hsm/azihsm0/dev") == f"{major}:0\n"
    assert vfs.listdir("/sys/class/azihsm-mgmt") == [], "a VF has no management node"


def test_the_node_is_there_before_the_aes_queues_and_after_those_of_the_hsm(function: BentFunction) -> None:
    seen: dict[tuple[AdminOpcode, int], bool] = {}
    with driver_on(function) as driver:
        driver.unbind()
        function.admin.clear()

        def note(access: Access) -> None:
            if access.bar == Bar.DOORBELLS and function.admin:
                sqe = function.admin[-1]
                key = AdminOpcode(int(sqe["opc"])), int(sqe["dw10"]) & 0xFFFF
                seen.setdefault(key, nodes(driver) != [])

        function.after_write = note
        driver.bind()
        function.after_write = None
        assert seen[AdminOpcode.CREATE_SQ, 1] is False
        assert seen[AdminOpcode.CREATE_CQ, 256] is True


def test_minors_that_leaked_are_no_limit(driver: Driver) -> None:
    """A reset takes another minor each time, also when all of the region's 1040 are taken (01 §8.3)."""
    minors = driver.machine.module.hsm_nodes
    for _ in range(MINOR_COUNT - 1):
        driver.run(minors.take_minor)
    driver.run(driver.controller.abort, AbortType.L2_RESET)
    assert driver.hsm().error == 0
    driver.unbind()
    driver.bind()
    assert nodes(driver) == [f"azihsm{MINOR_COUNT}"]
    assert (
        command(program(driver, node=f"/dev/azihsm{MINOR_COUNT}"), ControlKind.NONE, api_revision_request()).error == 0
    )


def test_a_file_outlives_its_node(driver: Driver) -> None:
    caller = program(driver)
    driver.unbind()
    assert command(caller, ControlKind.NONE, api_revision_request()).error == errno.ENOTTY
    driver.bind()
    assert command(caller, ControlKind.NONE, api_revision_request()).error == errno.ENOTTY, "of the node before"
    caller.process.exit()
    assert command(program(driver), ControlKind.NONE, api_revision_request()).error == 0
