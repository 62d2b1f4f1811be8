# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""HSM queue entries: a caller's command and a flush (spec 02 B.1, B.4, B.5)."""

from __future__ import annotations

from typing import Any

import numpy as np

from ihsm_abi.hsm_queue import HSM_SQE, ControlKind, HsmCommandWord, HsmOpcode, SessionControl
from ihsm_kmod.hsm.bounce import BouncePages, prps


def command_entry(command: Any, pages: BouncePages, session_id: int) -> bytearray:
    """The SQE for a checked `GENERIC_IOCTL`; `session_id` is that of the file, for close and in-session.

    The queue puts the command id in.
    """
    entry = bytearray(HSM_SQE.itemsize)
    sqe = np.frombuffer(entry, HSM_SQE)[0]
    opc = int(command["opc"]) & HsmCommandWord.opc.mask
    sqe["command"] = HsmCommandWord.of(opc=opc, set=int(command["cmdset"]) & HsmCommandWord.set.mask)
    sqe["src_len"], sqe["dst_len"] = command["src_length"], command["dst_length"]
    sqe["src_prp1"], sqe["src_prp2"] = prps(pages.source)
    sqe["dst_prp1"], sqe["dst_prp2"] = prps(pages.destination)
    asked = SessionControl(command["session_control_flags"])
    match asked.kind:
        case ControlKind.NONE:  # id and mark of the caller are dropped
            sqe["control"] = SessionControl.of(kind=ControlKind.NONE)
        case ControlKind.OPEN:  # the id goes along, marked or not; the device refuses a marked one
            sqe["control"] = SessionControl.of(kind=ControlKind.OPEN, id_valid=asked.id_valid)
            sqe["session_id"] = command["session_id"]
        case kind:
            sqe["control"] = SessionControl.of(kind=kind, id_valid=1)
            sqe["session_id"] = session_id
    return entry


def flush_entry(session_id: int) -> bytearray:
    """The SQE that closes the session of a file which is being released: no data (B.5)."""
    entry = bytearray(HSM_SQE.itemsize)
    sqe = np.frombuffer(entry, HSM_SQE)[0]
    sqe["command"] = HsmCommandWord.of(opc=HsmOpcode.FLUSH_SESSION)
    sqe["control"] = SessionControl.of(kind=ControlKind.CLOSE, id_valid=1)
    sqe["session_id"] = session_id
    return entry
