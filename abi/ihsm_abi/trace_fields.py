# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""What fields a trace's records and the queue entries in them have, by the names that people and Wireshark see.

A field of an entry is `LAYOUT.FIELD`, such as `hsm_sqe.session_id`; a bit field of a word in it `LAYOUT.FIELD.BITS`,
such as `hsm_sqe.control.kind`; a field of a structure in it likewise, as `gcm_sqe.src.addr`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from types import MappingProxyType
from typing import Any, Final

import numpy as np

from ihsm_abi import admin, aes_queue, hsm_queue, trace
from ihsm_abi.bits import Bits, Word
from ihsm_abi.resources import ADMIN_QUEUE_ID, is_hsm_queue_id


@dataclass(frozen=True, slots=True)
class Layout:
    """One kind of queue entry."""

    name: str
    dtype: np.dtype[np.void]
    words: Mapping[str, type[Word]] = field(default_factory=dict)
    """Types of fields that have bit fields."""
    enums: Mapping[str, type[IntEnum]] = field(default_factory=dict)
    """Types of fields and bit fields that have named values."""
    status: str = ""
    """Of a completion: the bit field that is 0 if all is well."""


@dataclass(frozen=True, slots=True)
class LayoutField:
    """A field of a layout, at its place."""

    path: str
    """Without the layout's name."""
    offset: int
    size: int
    """Bytes."""
    is_number: bool
    """Else an array of bytes."""
    low: int = 0
    """Of a bit field, its lowest bit in that number."""
    mask: int | None = None
    """Of a bit field, its largest value; None of a whole number."""
    values: type[IntEnum] | None = None

    def read(self, entry: bytes) -> int | bytes:
        """Its value in an entry's bytes."""
        data = entry[self.offset : self.offset + self.size]
        if not self.is_number:
            return data
        number = int.from_bytes(data, "little")
        return number if self.mask is None else (number >> self.low) & self.mask


def fields_of(layout: Layout) -> Iterator[LayoutField]:
    """Every field of a layout in the order of its declaration; those within one follow it."""
    yield from _fields(layout, layout.dtype, "", 0)


def bit_fields(word: type[Word]) -> Iterator[tuple[str, Bits]]:
    """Those that a word declares, by name."""
    return ((name, bits) for name, bits in vars(word).items() if isinstance(bits, Bits))


def _fields(layout: Layout, dtype: np.dtype[Any], prefix: str, start: int) -> Iterator[LayoutField]:
    for name in dtype.names or ():
        part, offset = dtype.fields[name][:2]  # type: ignore[index]
        path, at = f"{prefix}{name}", start + offset
        if part.names:
            yield from _fields(layout, part, f"{path}.", at)
            continue
        yield LayoutField(path, at, part.itemsize, part.subdtype is None, values=layout.enums.get(path))
        for below, bits in bit_fields(layout.words.get(path, Word)):
            below_path = f"{path}.{below}"
            values = layout.enums.get(below_path)
            yield LayoutField(below_path, at, part.itemsize, True, bits.low, bits.mask, values)


_GCM_XTS_WORDS: Final = {"attr": aes_queue.AesAttr}
_GCM_XTS_ENUMS: Final = {"attr.cipher": aes_queue.Cipher}
ADMIN_SQE: Final = Layout("admin_sqe", admin.ADMIN_SQE, enums={"opc": admin.AdminOpcode})
ADMIN_CQE: Final = Layout(
    "admin_cqe", admin.ADMIN_CQE, {"psf": admin.Psf}, {"psf.status": admin.AdminStatus}, status="psf.status"
)
HSM_SQE: Final = Layout(
    "hsm_sqe",
    hsm_queue.HSM_SQE,
    {"command": hsm_queue.HsmCommandWord, "control": hsm_queue.SessionControl},
    {"command.opc": hsm_queue.HsmOpcode, "control.kind": hsm_queue.ControlKind},
)
HSM_CQE: Final = Layout(
    "hsm_cqe",
    hsm_queue.HSM_CQE,
    {"control": hsm_queue.SessionControl, "psf": admin.Psf},
    {"control.kind": hsm_queue.ControlKind, "psf.sc": hsm_queue.HsmStatus},
    status="psf.status",
)
GCM_SQE: Final = Layout("gcm_sqe", aes_queue.GCM_SQE, _GCM_XTS_WORDS, _GCM_XTS_ENUMS)
XTS_SQE: Final = Layout("xts_sqe", aes_queue.XTS_SQE, _GCM_XTS_WORDS, _GCM_XTS_ENUMS)
AES_CQE: Final = Layout(
    "aes_cqe",
    aes_queue.AES_CQE,
    {"attr": aes_queue.AesAttr, "psf": admin.Psf},
    {"attr.cipher": aes_queue.Cipher, "psf.status": aes_queue.AesStatus},
    status="psf.status",
)
_FAULT: Final = Layout("fault", trace.FAULT_BODY)
_MESSAGE: Final = Layout("message", trace.MESSAGE_BODY)
_REGISTER: Final = Layout("register", trace.REGISTER_BODY)
_DMA: Final = Layout("dma", trace.DMA_BODY)
_PROCESS: Final = Layout("process", trace.PROCESS_BODY)
HEADER: Final = Layout("header", trace.TRACE_HEADER, enums={"kind": trace.TraceKind})
BODIES: Final = MappingProxyType(
    {
        trace.TraceKind.REGISTER_READ: _REGISTER,
        trace.TraceKind.REGISTER_WRITE: _REGISTER,
        trace.TraceKind.DOORBELL: Layout(
            "doorbell",
            trace.DOORBELL_BODY,
            enums={"which": trace.DoorbellKind, "outcome": trace.DoorbellOutcome},
        ),
        trace.TraceKind.ENTRY: Layout("entry", trace.ENTRY_BODY),
        trace.TraceKind.COMPLETION: Layout("completion", trace.COMPLETION_BODY),
        trace.TraceKind.REQUEST: _MESSAGE,
        trace.TraceKind.RESPONSE: _MESSAGE,
        trace.TraceKind.INTERRUPT: Layout("interrupt", trace.INTERRUPT_BODY),
        trace.TraceKind.DMA_MAP: _DMA,
        trace.TraceKind.DMA_UNMAP: _DMA,
        trace.TraceKind.RESET: Layout("reset", trace.RESET_BODY, enums={"reset": trace.TraceReset}),
        trace.TraceKind.FAULT_HIT: _FAULT,
        trace.TraceKind.MARK: Layout("mark", trace.MARK_BODY),
        trace.TraceKind.LOST: Layout("lost", trace.LOST_BODY, enums={"where": trace.LostWhere}),
        trace.TraceKind.CONNECT: _PROCESS,
        trace.TraceKind.DISCONNECT: _PROCESS,
        trace.TraceKind.START: Layout("start", trace.START_BODY),
        trace.TraceKind.QUEUE: Layout("queue", trace.QUEUE_BODY),
        trace.TraceKind.FAULT_ADDED: _FAULT,
        trace.TraceKind.FAULT_CLEARED: _FAULT,
    }
)
"""Layout of each kind's body."""
LAYOUTS: Final = MappingProxyType(
    {layout.name: layout for layout in (ADMIN_SQE, ADMIN_CQE, HSM_SQE, HSM_CQE, GCM_SQE, XTS_SQE, AES_CQE)}
)
COMMAND_IDS: Final = MappingProxyType(
    {name: "cmd_id" if "cmd_id" in (layout.dtype.names or ()) else "cid" for name, layout in LAYOUTS.items()}
)
"""The field of each layout that has the command id."""


def entry_layout(queue: int, entry: bytes) -> Layout | None:
    """Layout of a submission entry; None if it is not as long as one of that queue."""
    if queue == ADMIN_QUEUE_ID:
        layout = ADMIN_SQE
    elif is_hsm_queue_id(queue):
        layout = HSM_SQE
    else:
        offset = aes_queue.AES_SQE.fields["attr"][1]  # type: ignore[index]
        attr = aes_queue.AesAttr(int.from_bytes(entry[offset : offset + 2], "little"))
        layout = XTS_SQE if attr.cipher == aes_queue.Cipher.XTS else GCM_SQE
    return layout if len(entry) == layout.dtype.itemsize else None


def completion_layout(queue: int, entry: bytes) -> Layout | None:
    """Layout of a completion entry; None if it is not as long as one of that queue."""
    layout = ADMIN_CQE if queue == ADMIN_QUEUE_ID else HSM_CQE if is_hsm_queue_id(queue) else AES_CQE
    return layout if len(entry) == layout.dtype.itemsize else None
