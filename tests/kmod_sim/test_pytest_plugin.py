# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""The fixture `ihsm_kmod` as projects use it."""

from __future__ import annotations

import pytest

from support.plugin_runs import run
from support.waiting import HANG_S

pytest_plugins = ["pytester"]


def test_a_driver_model_on_the_device(pytester: pytest.Pytester) -> None:
    result = run(
        pytester,
        """
        import pytest

        @pytest.mark.ihsm_kmod(dma="strict")
        def test_machine(ihsm_kmod, ihsm_trace, ihsm_faults):
            assert ihsm_kmod.kernel.vfs.listdir("/dev")
            fault = ihsm_faults.add("spurious-interrupt", vector=1)
            fault.wait()
            ihsm_kmod.close()
            assert ihsm_kmod.kernel.reports == []
            ihsm_trace.check()

        def test_again(ihsm_kmod):
            assert not ihsm_kmod.kernel.pci.probe_error(ihsm_kmod.bdfs[0])
        """,
        "--strict-markers",
    )
    result.assert_outcomes(passed=2)


def test_a_kernel_that_crashes_fails_its_own_test_alone(pytester: pytest.Pytester) -> None:
    result = run(
        pytester,
        """
        import pytest
        from ihsm.chardev import Calls, NodeDevice
        from ihsm.ddi import Partition
        from ihsm_kmod.machine import StillClock

        @pytest.fixture
        def hsm(ihsm_kmod):
            app = ihsm_kmod.process("app")
            with NodeDevice("/dev/azihsm0", calls=Calls(app.open, app.ioctl, app.close)) as node:
                yield Partition(node)

        @pytest.mark.ihsm_kmod(clock=StillClock(0.1))
        def test_hung(hsm, ihsm_faults, ihsm_trace):
            ihsm_faults.add("drop-completion", queue=1)
            hsm.api_revisions()

        def test_good(hsm, ihsm_faults, ihsm_trace):
            hsm.api_revisions()
            assert len(ihsm_faults.standing()) == 0
        """,
    )
    result.assert_outcomes(passed=1, failed=1, errors=1)
    assert "the kernel of ihsm_kmod has crashed: task blocked for too long" in result.stdout.str()


def test_a_driver_whose_device_has_gone_is_not_waited_for(pytester: pytest.Pytester) -> None:
    result = run(
        pytester,
        """
        import os, signal

        def test_pulled_out_and_back(ihsm_kmod, ihsm_faults):
            ihsm_faults.add("remove-function").wait()

        def test_good(ihsm_kmod, ihsm_trace):
            ihsm_trace.check()

        def test_killed(ihsm_kmod, ihsm_device):
            os.kill(ihsm_device.pid, signal.SIGKILL)
        """,
        timeout=2 * HANG_S,
    )
    result.assert_outcomes(passed=3, errors=1)
    assert "the process of ihsm_device has ended" in result.stdout.str()
