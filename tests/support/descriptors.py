# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Descriptors of the test's own process, to find those that were left behind."""

from __future__ import annotations

import gc
import os


def open_descriptors() -> int:
    """How many are open.

    What earlier tests left to the garbage collector goes first, so that it does not go between two counts.
    """
    gc.collect()
    return len(os.listdir("/proc/self/fd"))
