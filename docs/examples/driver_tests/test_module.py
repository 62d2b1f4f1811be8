# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""A compiled module in a guest: what it does to the device, and what the kernel says of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from ihsm.pytest_plugin.guest import GuestUnderTest
from ihsm.pytest_plugin.recording import Recording
from ihsm.trace.records import RegisterRead
from ihsm_abi.pci import Bar
from ihsm_abi.registers import Register

MODULE = Path(__file__).parent / "module"


@pytest.mark.guest
def test_the_module_reads_the_version_and_leaves_no_trace_in_the_log(
    ihsm_guest: GuestUnderTest, ihsm_trace: Recording
) -> None:
    run = ihsm_guest.run("cat /sys/bus/pci/drivers/first_driver/*/version", build=[MODULE])
    assert (run.status, run.stdout) == (0, "1.4.0\n"), run.stderr
    assert list(map(str, run.findings)) == []
    reads = [record for record in ihsm_trace.records() if isinstance(record, RegisterRead)]
    assert (Bar.REGISTERS, Register.VS) in [(read.region, read.offset) for read in reads]
    ihsm_trace.check()

    again = ihsm_guest.run("ls /sys/bus/pci/drivers/first_driver")  # without the module
    assert again.status != 0
