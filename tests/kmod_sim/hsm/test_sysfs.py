# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""The counters of a function and of its queues in sysfs (spec 02 A.2)."""

from __future__ import annotations

import re

import pytest

from ihsm_abi.hsm_queue import ControlKind
from ihsm_abi.uapi import RESET_DEVICE, AbortType, Ioctl
from ihsm_kmod.kernel.errors import Errno
from support.bent_function import BentFunction
from support.hsm_driver import BDF, Driver, driver_on
from support.hsm_program import api_revision_request, command, program
from support.ioctls import structure

ROOT = f"/sys/bus/pci/devices/{BDF}/azihsm"
ADMIN = {"num_cpqs_created", "num_fpqs_created", "num_q_delete_cmds"}
GLOBAL = {
    "total_error_completions", "total_submissions", "total_completions", "total_lvl2_aborts", "total_cmds_aborted",
    "total_lvl1_aborts",
}  # fmt: skip
QUEUE = {
    "num_cmds_pending_in_hw", "num_level1_aborts", "min_time_to_complete_io", "max_time_to_complete_io",
    "avg_time_to_complete_io", "total_ios_in_error", "total_ios_submitted_to_hw", "total_ios_completed_by_hw",
    "total_ios_timedout", "completions_per_sec",
}  # fmt: skip
FOLDERS = {"admin": ADMIN, "global": GLOBAL, "cp_sq1": QUEUE, "fp_sq256": QUEUE, "fp_sq257": QUEUE}


def shown(driver: Driver, folder: str) -> dict[str, str]:
    vfs = driver.machine.kernel.vfs
    return {name: vfs.read_text(f"{ROOT}/{folder}/{name}") for name in vfs.listdir(f"{ROOT}/{folder}")}


def numbers(driver: Driver) -> dict[str, int]:
    """All files by folder/name."""
    return {f"{folder}/{name}": int(text) for folder in FOLDERS for name, text in shown(driver, folder).items()}


def test_names_formats_and_modes(driver: Driver) -> None:
    vfs = driver.machine.kernel.vfs
    assert set(vfs.listdir(ROOT)) == set(FOLDERS)
    for folder, names in FOLDERS.items():
        files = shown(driver, folder)
        assert set(files) == names
        pattern = r"\d+\n" if "sq" in folder else r"\d+"
        assert [name for name, text in files.items() if not re.fullmatch(pattern, text)] == []
        assert {vfs.stat(f"{ROOT}/{folder}/{name}").st_mode & 0o777 for name in names} == {0o664}


def test_writing_fails(driver: Driver) -> None:
    for path in ("global/total_submissions", "cp_sq1/completions_per_sec"):
        with pytest.raises(Errno):
            driver.machine.kernel.vfs.write_text(f"{ROOT}/{path}", "0")


def test_after_a_probe(driver: Driver) -> None:
    created = {"admin/num_cpqs_created": 1, "admin/num_fpqs_created": 2}
    assert {path: value for path, value in numbers(driver).items() if value} == created


def test_a_command_and_one_in_error(driver: Driver) -> None:
    caller = program(driver)
    assert command(caller, ControlKind.NONE, api_revision_request()).structure["status"] == 0
    assert command(caller, ControlKind.NONE, b"").structure["status"] != 0
    counted = {name: int(text) for name, text in shown(driver, "cp_sq1").items()}
    expected = {"total_ios_submitted_to_hw": 2, "total_ios_completed_by_hw": 2, "total_ios_in_error": 1}
    assert counted.items() >= expected.items()
    assert counted["num_cmds_pending_in_hw"] == counted["total_ios_timedout"] == counted["num_level1_aborts"] == 0
    everything = numbers(driver)
    assert everything["global/total_submissions"] == everything["global/total_completions"] == 2
    assert everything["global/total_error_completions"] == 1
    assert not any(int(text) for text in shown(driver, "fp_sq256").values())


def test_times_are_nanoseconds_of_32_bits(driver: Driver) -> None:
    perf = driver.controller.hsm_pool.queues[0].perf
    perf.submit()
    perf.complete(3_000_000_000, divides_by_zero=False)
    assert shown(driver, "cp_sq1")["max_time_to_complete_io"] == f"{3_000_000_000 - (1 << 32)}\n", "%d"
    perf.submit()
    perf.complete((1 << 32) + 5, divides_by_zero=False)
    assert shown(driver, "cp_sq1")["min_time_to_complete_io"] == "5\n"


def test_the_rate_is_that_since_it_was_last_read(driver: Driver) -> None:
    path = f"{ROOT}/cp_sq1/completions_per_sec"
    read = driver.machine.kernel.vfs.read_text
    caller = program(driver)
    driver.clock.advance(1)
    assert read(path) == "0\n"
    for _ in range(3):
        command(caller, ControlKind.NONE, api_revision_request())
    driver.clock.advance(2)
    assert read(path) == "1\n"  # 3 in 2 s
    assert read(path) == "3\n", "no time has passed: the completions of before"
    driver.clock.advance(1)
    assert read(path) == "0\n"


def test_a_timed_out_command_stays_pending(driver: Driver) -> None:
    driver.stop_monitor()
    driver.function.silent = {1}
    thread = driver.start_hsm()
    driver.time_out()
    thread.join()
    driver.function.silent = set()
    counted = {name: int(text) for name, text in shown(driver, "cp_sq1").items()}
    expected = {"num_cmds_pending_in_hw": 1, "total_ios_timedout": 1, "num_level1_aborts": 1}
    assert counted.items() >= expected.items()
    everything = numbers(driver)
    names = ("total_lvl1_aborts", "total_cmds_aborted", "total_lvl2_aborts")
    assert [everything[f"global/{name}"] for name in names] == [1, 1, 0]
    assert everything["admin/num_q_delete_cmds"] == 1


def test_a_reset_makes_the_tree_anew(driver: Driver) -> None:
    caller = program(driver)
    command(caller, ControlKind.NONE, b"")
    assert any(value for path, value in numbers(driver).items() if path.startswith("global"))
    assert caller.call(Ioctl.RESET, structure(RESET_DEVICE, abort_type=AbortType.L2_RESET)).error == 0
    test_after_a_probe(driver)


def test_each_queue_has_a_folder_and_none_is_left(function: BentFunction) -> None:
    with driver_on(function) as driver:
        assert driver.machine.kernel.vfs.exists(ROOT)
        driver.unbind()
        assert not driver.machine.kernel.vfs.exists(ROOT)
        driver.bind()
        assert set(driver.machine.kernel.vfs.listdir(ROOT)) == set(FOLDERS)
