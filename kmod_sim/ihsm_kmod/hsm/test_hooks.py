# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""The test-hook ioctl: counters of a driver that was built with test hooks (spec 02 A.11)."""

from __future__ import annotations

from ihsm_abi.uapi import TEST_HOOKS
from ihsm_kmod.hsm.controller import Controller
from ihsm_kmod.hsm.user_memory import UserBuffer


def test_hooks_ioctl(controller: Controller, argument: int) -> int:
    """Fill the `TEST_HOOKS` at user address `argument`; `Errno` EFAULT."""
    buffer = UserBuffer(argument, TEST_HOOKS)
    buffer.read()
    counters = controller.counters
    buffer.fields["abort_in_prog"] = controller.abort_in_progress
    buffer.fields["lvl1_abort_cnt"] = counters.total_lvl1_aborts
    buffer.fields["lvl2_abort_cnt"] = counters.total_lvl2_aborts
    buffer.fields["proc_not_own_fd"] = counters.proc_not_own_fd_cnt
    buffer.fields["session_flush_cnt"] = counters.session_flush_cnt
    buffer.fields["close_non_own_proc_cnt"] = counters.close_by_not_own_proc_cnt
    buffer.answer()
    return 0
