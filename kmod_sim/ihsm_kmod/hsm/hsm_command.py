# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""HSM queue entries: a caller's command and a flush (spec 02 B.1, B.4, B.5)."""

from __future__ import annotations

from typing import Any, Final

from ihsm_abi.entries import RecordCodec
from ihsm_abi.hsm_queue import HSM_SQE, ControlKind, HsmCommandWord, HsmOpcode, SessionControl
from ihsm_kmod.hsm.bounce import BouncePages, prps

SQE: Final = RecordCodec(HSM_SQE)
NO_ID_YET: Final = 0
"""Command id until the queue puts one in."""
NO_DATA: Final = (0, 0, 0)
"""Length and PRPs."""


def command_entry(asked: Any, pages: BouncePages, session_id: int) -> bytearray:
    """The SQE for a checked `GENERIC_IOCTL`; `session_id` is that of the file, for close and in-session.

    The queue puts the command id in.
    """
    word = HsmCommandWord.of(opc=asked.opc & HsmCommandWord.opc.mask, set=asked.cmdset & HsmCommandWord.set.mask)
    control, id_sent = SessionControl(asked.session_control_flags), 0
    match control.kind:
        case ControlKind.NONE:  # id and mark of the caller are dropped
            control = SessionControl.of(kind=ControlKind.NONE)
        case ControlKind.OPEN:  # the id goes along, marked or not; the device refuses a marked one
            control = SessionControl.of(kind=ControlKind.OPEN, id_valid=control.id_valid)
            id_sent = asked.session_id
        case kind:
            control, id_sent = SessionControl.of(kind=kind, id_valid=1), session_id
    source, destination = prps(pages.source), prps(pages.destination)
    fields = (word, NO_ID_YET, asked.src_length, *source, asked.dst_length, *destination, control, id_sent)
    return bytearray(SQE.pack(*fields))


def flush_entry(session_id: int) -> bytearray:
    """The SQE that closes the session of a file which is being released: no data (B.5)."""
    word = HsmCommandWord.of(opc=HsmOpcode.FLUSH_SESSION)
    control = SessionControl.of(kind=ControlKind.CLOSE, id_valid=1)
    return bytearray(SQE.pack(word, NO_ID_YET, *NO_DATA, *NO_DATA, control, session_id))
