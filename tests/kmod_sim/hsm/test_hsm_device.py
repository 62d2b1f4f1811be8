# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""When a function's node is there, and under which number (spec 02 A.1)."""

from __future__ import annotations

import errno
from collections.abc import Callable

import pytest

from ihsm_abi.admin import AdminOpcode
from ihsm_abi.hsm_queue import ControlKind
from ihsm_abi.pci import Bar
from ihsm_kmod.kernel.errors import Errno
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


def test_minors_of_a_region_that_is_used_up(function: BentFunction) -> None:
    with driver_on(function) as driver:
        minors = driver.machine.module.hsm_nodes
        taken = [driver.machine.kernel.run(minors.take_minor) for _ in range(16 * 65 - 1)]
        assert taken[-1] == 16 * 65 - 1
        with pytest.raises(Errno) as caught:
            driver.machine.kernel.run(minors.take_minor)
        assert caught.value.errno == errno.ENOSPC


def test_a_file_outlives_its_node(driver: Driver) -> None:
    caller = program(driver)
    driver.unbind()
    assert command(caller, ControlKind.NONE, api_revision_request()).error == errno.ENOTTY
    driver.bind()
    assert command(caller, ControlKind.NONE, api_revision_request()).error == errno.ENOTTY, "of the node before"
    caller.process.exit()
    assert command(program(driver), ControlKind.NONE, api_revision_request()).error == 0
