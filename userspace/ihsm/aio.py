# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""The driver from asyncio: its futures, wrapped."""

from __future__ import annotations

import asyncio
from typing import Any

from ihsm.driver import Controller, HsmReply, Submission
from ihsm_abi.hsm_queue import ControlKind


async def completed(submission: Submission) -> Any:
    """Result of anything submitted to a queue, see `Submission.result`."""
    return await asyncio.wrap_future(submission.future())


async def exchange(
    controller: Controller, message: bytes, kind: ControlKind, session_id: int | None, *, timeout_s: float | None = None
) -> HsmReply:
    """Like `Controller.submit`: one HSM command, its `sc` is not checked.

    With all rings full the submission waits in a thread, so that the event loop goes on.
    """
    if controller.has_room:
        future = controller.submit(message, kind, session_id, timeout_s=timeout_s)
    else:
        future = await asyncio.to_thread(controller.submit, message, kind, session_id, timeout_s=timeout_s)
    return await asyncio.wrap_future(future)
