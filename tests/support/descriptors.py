# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Descriptors of the test's own process: which were left behind, and what came through them."""

from __future__ import annotations

import gc
import os
import select

from ihsm_device._native import lib
from support.waiting import HANG_S


def open_descriptors() -> int:
    """How many are open.

    What earlier tests left to the garbage collector goes first, so that it does not go between two counts; what the
    device opens once for the life of the process is opened first.
    """
    gc.collect()
    lib.ihsm_vfu_prepare()
    return len(os.listdir("/proc/self/fd"))


def interrupts(event: int) -> int:
    """Count of an eventfd; the owner thread, if it has just answered a request, raises it a moment later."""
    assert select.select([event], [], [], HANG_S)[0], "no interrupt"
    return os.eventfd_read(event)
