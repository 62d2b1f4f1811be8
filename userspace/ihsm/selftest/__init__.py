# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""A user's check of a device: every family of operations once, each value compared with another library's.

    with open_device("auto") as device:
        report = run_selftest(device)
    assert report.failed == 0

The device is used as any client uses it. A partition that has no credential is provisioned for the duration and
emptied at the end by a subsystem reset, which all notice that have a driver's node of it open; for one that has, the
caller gives the credential.
"""

from ihsm.selftest.bench import Bench
from ihsm.selftest.runner import SelfTestReport, StepResult, run_selftest

__all__ = ["Bench", "SelfTestReport", "StepResult", "run_selftest"]
