# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Flush: the sessions of a released file are closed in the device (spec 02 A.3, B.5)."""

from __future__ import annotations

from ihsm_kmod.hsm.controller import Controller
from ihsm_kmod.hsm.hsm_command import flush_entry
from ihsm_kmod.hsm.sessions import OpenFile


def flush_sessions(controller: Controller, file: OpenFile) -> None:
    """Send a flush for each session and free its slot; what the device answers, if anything, is ignored."""
    for slot in file.sessions:
        if slot.valid:
            _flush(controller, slot.id)
            slot.clear()
            controller.counters.add("session_flush_cnt")


def _flush(controller: Controller, session_id: int) -> None:
    entry = flush_entry(session_id)
    # An abort under way comes to its end first, so that the command meets a device that is up again.
    with controller.abort_mutex:
        if controller.quirks.flush_deadlocks:
            # If this times out, the abort that is to help waits for the mutex that is held here.
            controller.execute(controller.hsm_pool, entry)
            return
    controller.execute(controller.hsm_pool, entry)
