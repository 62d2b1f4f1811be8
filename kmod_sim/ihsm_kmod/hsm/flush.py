# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Flush: the sessions of a released file are closed in the device (spec 02 A.3, B.5)."""

from __future__ import annotations

from typing import Final

from ihsm_abi.uapi import ControllerState, InternalCode
from ihsm_kmod.hsm.controller import Controller
from ihsm_kmod.hsm.hsm_command import flush_entry
from ihsm_kmod.hsm.sessions import OpenFile

_NOT_SENT: Final = (InternalCode.ABORT_IN_PROGRESS, InternalCode.CTRL_NOT_READY)


def flush_sessions(controller: Controller, file: OpenFile) -> None:
    """Send a flush for each session and free its slot; what the device answers, if anything, is ignored."""
    for slot in file.sessions:
        if slot.valid:
            _flush(controller, slot.id)
            slot.clear()
            controller.counters.add("session_flush_cnt")


def _flush(controller: Controller, session_id: int) -> None:
    entry = flush_entry(session_id)
    while True:
        # An abort under way comes to its end first, so that the command meets a device that is up again.
        with controller.abort_mutex:
            if controller.quirks.flush_deadlocks:
                # If this times out, the abort that is to help waits for the mutex that is held here.
                controller.execute(controller.hsm_pool, entry)
                return
            is_up = controller.state is ControllerState.READY
        outcome = controller.execute(controller.hsm_pool, entry)
        # The next abort may have begun since; who sends it with the mutex held is not overtaken.
        if not is_up or outcome.code not in _NOT_SENT:
            return
