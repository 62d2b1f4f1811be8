# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""The fixtures as projects use them: pytest runs their tests in a folder of their own, with a real device."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Final

import pytest

from ihsm.embedded import EmbeddedDevice
from ihsm.errors import TraceError
from ihsm.pytest_plugin.recording import Recording
from ihsm.trace.files import read_recording
from ihsm.trace.records import Mark, RegisterWrite
from ihsm_abi.registers import Register
from support.plugin_runs import run

pytest_plugins = ["pytester"]


def kept(folder: Path) -> dict[str, Path]:
    """Traces below a folder by the name of their test."""
    found = {}
    for path in folder.rglob("*.pcapng"):
        match = re.fullmatch(r"test_it\.py-(\w+?)-[0-9a-f]{8}\.pcapng", path.name)
        assert match is not None, path
        found[match[1]] = path
    return found


def test_tests_share_a_process_of_their_choice_and_no_state(pytester: pytest.Pytester) -> None:
    pytester.makeconftest(
        "import pytest\n@pytest.fixture(scope='session')\ndef ihsm_device_arguments(): return ['--resources', '3']"
    )
    result = run(
        pytester,
        """
        import pytest
        from helpers import brought_up
        from ihsm.control import ControlClient
        from ihsm.testing import DeviceFaults
        pids = set()

        @pytest.mark.parametrize("number", range(3))
        def test_of_many(ihsm_device, number):
            pids.add(ihsm_device.pid)
            with ControlClient(ihsm_device.socket_path) as control:
                status = control.status()
                assert status["client"] is None and status["faults"] == []
                assert status["module"]["state"] == "fresh" and status["module"]["vault"]["entries"] == 0
                assert status["registers"]["CC"] == status["registers"]["CSTS"] == 0
                assert status["counters"]["nssrs"] == number
                DeviceFaults(ihsm_device).add("set-cfs", nth=1000)  # left behind
            with brought_up(ihsm_device) as controller:
                assert len(controller.hsm_queues) == 3

        def test_process():
            assert len(pids) == 1
        """,
    )
    result.assert_outcomes(passed=4)


def test_a_client_left_connected_is_reported_and_gets_no_further(pytester: pytest.Pytester) -> None:
    result = run(
        pytester,
        """
        from helpers import brought_up
        from ihsm.pytest_plugin import device

        device.LEAVING_S = 0.1
        left = []

        def test_left_connected(ihsm_device):
            left.append(brought_up(ihsm_device))

        def test_left_connected_and_failed(ihsm_device):
            left.append(brought_up(ihsm_device))
            assert False

        def test_good(ihsm_device):
            device.LEAVING_S = 1000.0
            brought_up(ihsm_device).close()
        """,
    )
    result.assert_outcomes(passed=2, failed=1, errors=1)
    text = result.stdout.str()
    assert text.count("the test has left a client of ihsm_device connected: ") == 2  # of the failed one in words alone


def test_a_device_that_was_ended_is_reported_and_replaced(pytester: pytest.Pytester) -> None:
    result = run(
        pytester,
        """
        import os, signal
        from helpers import brought_up
        from ihsm.pytest_plugin import device

        device.LEAVING_S = 1000.0

        def test_killed(ihsm_device):
            os.kill(ihsm_device.pid, signal.SIGKILL)

        def test_killed_under_fixtures(ihsm_device, ihsm_faults, ihsm_trace):
            ihsm_faults.add("set-cfs")
            os.kill(ihsm_device.pid, signal.SIGKILL)

        def test_dropped(ihsm_device):
            brought_up(ihsm_device)  # not closed, but nobody has it any more
        """,
    )
    result.assert_outcomes(passed=3, errors=2)
    assert result.stdout.str().count("the process of ihsm_device has ended; ") == 2


def test_a_fault_is_cleared_and_one_never_hit_is_reported(pytester: pytest.Pytester) -> None:
    result = run(
        pytester,
        """
        import pytest
        from helpers import brought_up
        from ihsm.control import ControlClient

        @pytest.fixture
        def driver(ihsm_device):
            with brought_up(ihsm_device) as controller:
                yield controller
            with ControlClient(ihsm_device.socket_path) as control:  # cleared before fixtures of the test end
                assert control.faults() == []

        def test_hit(ihsm_faults, driver):
            fault = ihsm_faults.add("late-ready", reads=3)
            driver.reset()
            assert fault.wait() == 1

        def test_missed(ihsm_faults, driver):
            ihsm_faults.add("set-cfs", nth=1000)

        def test_missed_and_cleared(ihsm_faults, driver):
            ihsm_faults.add("lose-interrupt", vector=31).clear()

        def test_missed_and_failed(ihsm_faults):
            ihsm_faults.add("drop-completion", queue=7)
            assert False

        def test_never(ihsm_faults, driver):
            ihsm_faults.add("never", queue=0, opcode=0)

        def test_seen(ihsm_faults, driver):
            ihsm_faults.add("never", queue=0)
            driver.reset()
        """,
    )
    result.assert_outcomes(passed=5, failed=1, errors=3)
    text = result.stdout.str()
    for line in (
        "fault 2 was never hit: set-cfs nth=1000",
        "fault 3 was never hit: lose-interrupt vector=31",
        "fault 4 was never hit: drop-completion queue=7",
    ):
        assert line in text
    assert re.search("^ERROR .*test_seen - .*never", text, re.MULTILINE), text


TRACED: Final = """
import pytest
from helpers import brought_up
from ihsm_abi.registers import Register
from ihsm_abi.trace import TraceKind

def enabled(trace):
    return sum(record.kind == TraceKind.REGISTER_WRITE for record in trace.records())

def test_passed(ihsm_trace, ihsm_device):
    assert not enabled(ihsm_trace)
    with brought_up(ihsm_device):
        assert enabled(ihsm_trace)
    ihsm_trace.check()
    assert ihsm_trace.path.exists()

@pytest.fixture
def driver(ihsm_device):
    with brought_up(ihsm_device) as controller:
        yield controller

def test_failed(driver, ihsm_trace):  # recorded from the beginning, whatever the order
    ihsm_trace.mark("here")
    assert driver is None

@pytest.fixture
def unusable(driver):
    raise ValueError

def test_setup(ihsm_trace, unusable):
    pass

def test_teardown(ihsm_trace, ihsm_faults):
    ihsm_faults.add("set-cfs")

@pytest.mark.xfail
def test_expected(ihsm_trace):
    assert False

def test_broken_rule(ihsm_trace, driver):
    driver.registers.write(Register.ASQ, 4096)
    assert [breach.rule.name for breach in ihsm_trace.breaches()] == ["admin-rings-held"]
    ihsm_trace.check(tolerated=["admin-rings-held"])
    ihsm_trace.check()
"""


def test_the_trace_of_a_failed_test_is_kept_and_named(pytester: pytest.Pytester) -> None:
    result = run(pytester, TRACED, "--ihsm-traces=traces", f"--basetemp={pytester.path / 'temporary'}")
    result.assert_outcomes(passed=2, failed=2, errors=2, xfailed=1)
    found = kept(pytester.path / "traces")
    assert sorted(found) == ["test_broken_rule", "test_failed", "test_setup", "test_teardown"]
    text = result.stdout.str()
    for path in found.values():
        assert f"ihsm trace check {path}" in text
    with found["test_failed"].open("rb") as file:
        records = [record for _, record in read_recording(file).records]
    marks = [record.text for record in records if isinstance(record, Mark)]
    assert marks[:2] == ["begin test_it.py::test_failed", "here"]
    begun, *_, ended = [record.value & 1 for record in records if is_cc_write(record)]
    assert (begun, ended) == (1, 0)  # the driver's end, too
    assert "admin-rings-held (01 §4.3): " in text


def is_cc_write(record: object) -> bool:
    return isinstance(record, RegisterWrite) and record.region == 0 and record.offset == Register.CC


@pytest.mark.long
def test_traces_are_below_the_temporary_folder_and_workers_do_not_meet(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        test_it="""
        import pytest
        @pytest.mark.parametrize("number", range(4))
        def test_at_once(ihsm_device, ihsm_trace, number):
            print("served by", ihsm_device.pid)
            assert False
        """
    )
    base = pytester.path / "temporary"
    result = pytester.runpytest_subprocess("-n", "2", f"--basetemp={base}")
    result.assert_outcomes(failed=4)
    assert len(list(base.rglob("ihsm-traces/*.pcapng"))) == 4
    assert len(set(re.findall(r"served by (\d+)", result.stdout.str()))) == 2


def test_a_trace_whose_disk_is_full_at_last_is_an_error_of_the_trace(tmp_path: Path) -> None:
    path = tmp_path / "trace"
    with EmbeddedDevice() as device, open("/dev/full", "wb") as full:
        recording = Recording(device.socket_path, path, "full")
        os.dup2(full.fileno(), recording._file.fileno())
        with pytest.raises(TraceError, match=re.escape(f"{path}: No space left on device")):
            recording.close()
        recording.close()


def test_who_uses_nothing_pays_nothing(pytester: pytest.Pytester) -> None:
    result = run(
        pytester,
        """
        import sys
        def test_nothing_is_there():
            ours = {name for name in sys.modules if name.partition(".")[0].startswith("ihsm")}
            assert ours <= {"ihsm", "ihsm.pytest_plugin", "ihsm_kmod", "ihsm_kmod.pytest_plugin"}, ours
            assert "numpy" not in sys.modules and "click" not in sys.modules
        """,
    )
    result.assert_outcomes(passed=1)


def test_it_can_be_left_out(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(test_it="def test_one(ihsm_device): pass\ndef test_two(ihsm_kmod): pass")
    result = pytester.runpytest_subprocess("-p", "no:ihsm")
    result.assert_outcomes(errors=2)
    assert result.stdout.str().count("fixture 'ihsm_device' not found") == 2
    result = pytester.runpytest_subprocess("-p", "no:ihsm", "-p", "no:ihsm_kmod", "--strict-markers")
    assert result.stdout.str().count("fixture 'ihsm_kmod' not found") == 1
