# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Records of a trace: what a device saw and did. Each is a header, a body by its kind, and a payload.

The same bytes are a record in the device's ring, one on the stream of the control socket, and one exported PDU of a
file. In the ring and on the stream each record starts at a multiple of `ALIGNMENT_BYTES`: what is between two is zeros.
All numbers are little-endian. Queue ids say of which class a queue is (`ihsm_abi.resources`).

Kinds are only ever added, and the layout of one never changes, so that old files stay readable; readers pass over kinds
that they do not know.
"""

from __future__ import annotations

from enum import IntEnum, IntFlag
from typing import Final

import numpy as np

FORMAT_VERSION: Final = 1
"""Of this module's layouts; told by START."""
ALIGNMENT_BYTES: Final = 8
MAX_RECORD_BYTES: Final = 65536
"""Of a record with its header. A longer payload is cut when it is recorded."""
DISSECTOR_NAME: Final = "ihsm"
"""By which an exported PDU of a file says what it is."""
NO_QUEUE: Final = 0xFFFF
"""As queue id, vector or function: none."""
CONFIG_REGION: Final = 7
"""Region of a register access in configuration space; BARs have their index (`ihsm_abi.pci.Bar`)."""


class TraceKind(IntEnum):
    """What a record tells; 1 to 31, so that kinds are bits of a word."""

    SKIP = 0
    """Nothing: a place in the ring that was not needed. Never on a stream or in a file."""
    REGISTER_READ = 1
    """The client has read a region."""
    REGISTER_WRITE = 2
    """The client writes to a region; doorbells are records of their own."""
    DOORBELL = 3
    """A doorbell's new value has come."""
    ENTRY = 4
    """A submission entry was fetched; payload: its bytes."""
    COMPLETION = 5
    """A completion entry is written; payload: its bytes, as they are in the client's memory."""
    REQUEST = 6
    """The request of an HSM command was read; payload: the message, its secrets cut."""
    RESPONSE = 7
    """The response of an HSM command is about to be written; payload: as that of REQUEST."""
    INTERRUPT = 8
    """A vector was raised."""
    DMA_MAP = 9
    """The client has made memory reachable."""
    DMA_UNMAP = 10
    """The memory is not reachable any more."""
    RESET = 11
    """A reset begins that no register's write tells."""
    FAULT_HIT = 12
    """A fault hits an event."""
    MARK = 13
    """Somebody's word; payload: UTF-8 text."""
    LOST = 14
    """Records that should be here and had no room."""
    CONNECT = 15
    """A client has come; payload: the name of its program."""
    DISCONNECT = 16
    """The client has gone."""
    START = 17
    """Recording begins; payload: the version of the device's software."""
    QUEUE = 18
    """A queue pair as it is when recording begins."""
    FAULT_ADDED = 19
    """A fault is shown from now on, or since before recording began; payload: its text."""
    FAULT_CLEARED = 20
    """The fault is shown no more."""


class DoorbellKind(IntEnum):
    """Which pointer of a queue pair a doorbell moves."""

    SQ_TAIL = 0
    CQ_HEAD = 1


class DoorbellOutcome(IntEnum):
    """What became of a doorbell."""

    TAKEN = 0
    BAD_VALUE = 1
    UNKNOWN_QUEUE = 2
    GONE = 3
    """A fault had made the device disappear."""


class TraceReset(IntEnum):
    """What resets; the first three as in the library of vfio-user."""

    DEVICE = 0
    LOST_CONNECTION = 1
    FUNCTION_LEVEL = 2
    FAULT = 3


class DmaProt(IntFlag):
    """What the device may do to mapped memory."""

    READ = 1
    WRITE = 2
    REACHABLE = 4
    """The client has given its memory; else the device cannot use it."""


class LostWhere(IntEnum):
    """What had no room."""

    RING = 0
    """The device's ring: no reader has these records."""
    READER = 1
    """The reader was slower than the device."""


class MessageFlags(IntFlag):
    """What became of a message's bytes."""

    UNDECODABLE = 1
    """It is none of the declared messages: only its length was kept."""
    CUT = 2
    """Secrets in it are zeros, or what follows its data map was left out."""


TRACE_HEADER: Final = np.dtype(
    {
        "names": ["time_ns", "length", "kind", "function"],
        "formats": ["<u8", "<u4", "<u2", "<u2"],
        "offsets": [0, 8, 12, 14],
        "itemsize": 16,
    }
)
"""`time_ns`: nanoseconds since 1970 (UTC); `length`: of body and payload, in bytes; `function`: its number in the
process."""


def _body(**fields: str) -> np.dtype[np.void]:
    """A packed body of unsigned fields."""
    return np.dtype([(name, code) for name, code in fields.items()])


REGISTER_BODY: Final = _body(offset="<u4", width="<u2", region="<u2", value="<u8")
"""`width` in bytes; `value`: of a wider access its first eight."""
DOORBELL_BODY: Final = _body(offset="<u4", value="<u4", queue="<u2", which="u1", outcome="u1", reserved="<u4")
"""`offset` in the doorbells' BAR; `which`: `DoorbellKind`; `outcome`: `DoorbellOutcome`."""
ENTRY_BODY: Final = _body(queue="<u2", slot="<u2", reserved="<u4")
"""`slot`: index in the submission ring."""
COMPLETION_BODY: Final = _body(queue="<u2", slot="<u2", vector="<u2", phase="<u2")
"""`slot`: index in the completion ring; `vector`: that of its queue, NO_QUEUE for none."""
MESSAGE_BODY: Final = _body(queue="<u2", cid="<u2", length="<u4", flags="<u4", cut="<u4")
"""`length`: bytes of the message; `cut`: how many of them are secrets, and zeros here; `flags`: `MessageFlags`."""
INTERRUPT_BODY: Final = _body(vector="<u2", delivered="<u2", reserved="<u4")
"""`delivered`: 1 if the client had an eventfd for it."""
DMA_BODY: Final = _body(iova="<u8", size="<u8", prot="<u4", reserved="<u4")
"""`size` in bytes; `prot`: `DmaProt`, 0 of an unmap."""
RESET_BODY: Final = _body(reset="<u4", reserved="<u4")
FAULT_BODY: Final = _body(fault="<u4", queue="<u2", vector="<u2")
"""`fault`: its id; queue and vector of the event hit, NO_QUEUE where it has none."""
LOST_BODY: Final = _body(count="<u8", where="<u4", reserved="<u4")
PROCESS_BODY: Final = _body(pid="<u4", reserved="<u4")
"""`pid`: 0 where the client's is not known."""
START_BODY: Final = _body(version="<u4", ready="<u4")
"""`ready`: CSTS.RDY at that time."""
QUEUE_BODY: Final = _body(
    queue="<u2", vector="<u2", sq_live="<u2", cq_live="<u2", sq_entries="<u4", sq_head="<u4", sq_tail="<u4",
    cq_entries="<u4", cq_head="<u4", cq_tail="<u4",
)  # fmt: skip
MARK_BODY: Final = _body()

BODIES: Final = {
    TraceKind.REGISTER_READ: REGISTER_BODY,
    TraceKind.REGISTER_WRITE: REGISTER_BODY,
    TraceKind.DOORBELL: DOORBELL_BODY,
    TraceKind.ENTRY: ENTRY_BODY,
    TraceKind.COMPLETION: COMPLETION_BODY,
    TraceKind.REQUEST: MESSAGE_BODY,
    TraceKind.RESPONSE: MESSAGE_BODY,
    TraceKind.INTERRUPT: INTERRUPT_BODY,
    TraceKind.DMA_MAP: DMA_BODY,
    TraceKind.DMA_UNMAP: DMA_BODY,
    TraceKind.RESET: RESET_BODY,
    TraceKind.FAULT_HIT: FAULT_BODY,
    TraceKind.MARK: MARK_BODY,
    TraceKind.LOST: LOST_BODY,
    TraceKind.CONNECT: PROCESS_BODY,
    TraceKind.DISCONNECT: PROCESS_BODY,
    TraceKind.START: START_BODY,
    TraceKind.QUEUE: QUEUE_BODY,
    TraceKind.FAULT_ADDED: FAULT_BODY,
    TraceKind.FAULT_CLEARED: FAULT_BODY,
}
"""The body of each kind that comes to a reader. Without fields: all is payload."""
HAS_PAYLOAD: Final = frozenset(
    {
        TraceKind.ENTRY, TraceKind.COMPLETION, TraceKind.REQUEST, TraceKind.RESPONSE, TraceKind.MARK, TraceKind.CONNECT,
        TraceKind.START, TraceKind.FAULT_ADDED,
    }
)  # fmt: skip
"""Kinds whose records have something behind their body."""
KIND_NAMES: Final = {kind.name.lower().replace("_", "-"): kind for kind in BODIES}
"""By the name that people write."""
ALL_KINDS: Final = sum(1 << kind for kind in BODIES)
"""As bits of a word."""


def padded(length: int) -> int:
    """Bytes that a record of `length` bytes takes in the ring and on a stream."""
    return -(-length // ALIGNMENT_BYTES) * ALIGNMENT_BYTES
