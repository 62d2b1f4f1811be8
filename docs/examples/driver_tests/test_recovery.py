# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""How a driver recovers, with the driver model in the driver's place: no guest is needed."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from ihsm.chardev import Calls, NodeDevice
from ihsm.ddi import Partition
from ihsm.errors import QueueClosedError
from ihsm.pytest_plugin.recording import Recording
from ihsm.testing import DeviceFaults
from ihsm_kmod.machine import Machine


@pytest.fixture
def hsm(ihsm_kmod: Machine) -> Iterator[Partition]:
    """What a program has that opens the driver's node."""
    app = ihsm_kmod.process("app")
    with NodeDevice("/dev/azihsm0", calls=Calls(app.open, app.ioctl, app.close)) as node:
        yield Partition(node)


def test_a_lost_answer_costs_one_command_and_six_seconds(
    ihsm_kmod: Machine, hsm: Partition, ihsm_faults: DeviceFaults, ihsm_trace: Recording
) -> None:
    ihsm_faults.add("drop-completion", queue=1, count=1)
    with pytest.raises(QueueClosedError):
        hsm.api_revisions()
    assert hsm.api_revisions().max.major == 1
    assert ihsm_kmod.sysfs("global/total_lvl1_aborts").strip() == "1"
    ihsm_trace.check()


def test_an_answer_that_comes_twice_ends_one_command(
    hsm: Partition, ihsm_faults: DeviceFaults, ihsm_trace: Recording
) -> None:
    twice = ihsm_faults.add("duplicate-completion", queue=1, count=1)
    for _ in range(3):
        assert hsm.api_revisions().max.major == 1
    assert twice.hits == 1
    ihsm_trace.check()


def test_a_device_that_is_slow_to_begin_is_waited_for(
    ihsm_kmod: Machine, ihsm_faults: DeviceFaults, ihsm_trace: Recording
) -> None:
    (bdf,) = ihsm_kmod.bdfs
    ihsm_kmod.kernel.pci.unbind(bdf)
    late = ihsm_faults.add("late-ready", reads=5)
    ihsm_kmod.kernel.pci.bind(bdf)
    assert late.hits == 1
    assert ihsm_kmod.kernel.vfs.listdir("/dev") != []
    ihsm_kmod.close()  # the end of the driver, too
    assert ihsm_kmod.kernel.reports == []
    ihsm_trace.check()


def test_an_idle_driver_sends_nothing(ihsm_kmod: Machine, ihsm_faults: DeviceFaults) -> None:
    ihsm_faults.add("never", queue=1)
    app = ihsm_kmod.process("app")
    app.close(app.open("/dev/azihsm0"))
