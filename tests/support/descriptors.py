# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Descriptors of the test's own process, to find those that were left behind."""

from __future__ import annotations

import gc
import os

from ihsm_device._native import lib


def open_descriptors() -> int:
    """How many are open.

    What earlier tests left to the garbage collector goes first, so that it does not go between two counts; what the
    device opens once for the life of the process is opened first.
    """
    gc.collect()
    lib.ihsm_vfu_prepare()
    return len(os.listdir("/proc/self/fd"))
