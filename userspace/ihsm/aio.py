# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""The driver from asyncio: the event loop itself takes the completions, without a thread."""

from __future__ import annotations

from typing import Any

from ihsm.driver import Controller, HsmReply, Submission, Submitted, loop
from ihsm.driver.line_up import performed
from ihsm_abi.hsm_queue import ControlKind

__all__ = ["completed", "exchange", "performed"]


async def completed(submitted: Submitted) -> Any:
    """The result of anything submitted, without keeping the event loop from anything else.

    Whoever is cancelled while awaiting it leaves the commands to complete by themselves. Errors as `Submission.result`.
    """
    if isinstance(submitted, Submission):
        return await loop.completed(submitted)
    return await submitted.awaited()


async def exchange(
    controller: Controller, message: bytes, kind: ControlKind, session_id: int | None, *, timeout_s: float | None = None
) -> HsmReply:
    """Like `Controller.exchange_async`: one HSM command, but its `sc` is not checked."""
    return await controller.submit_async(message, kind, session_id, timeout_s=timeout_s)
