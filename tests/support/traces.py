# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""A driver's side of a trace without what differs from run to run, so that two traces can be compared.

That is: addresses (only their place in a page and whether there is one at all stay), command ids, how often CSTS is
polled, and the reads of the health monitor. Of the device's side nothing is left.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from ihsm_abi.admin import ADMIN_SQE
from ihsm_abi.aes_queue import GCM_SQE, SGL_DESCRIPTOR, AesAttr, Cipher, SglType
from ihsm_abi.doorbells import sq_tail_offset
from ihsm_abi.hsm_queue import HSM_SQE
from ihsm_abi.pci import PAGE_BYTES, Bar
from ihsm_abi.registers import Register
from ihsm_abi.resources import ADMIN_QUEUE_ID, FIRST_AES_QUEUE_ID

Event = dict[str, Any]
ADDRESSES: Final = (Register.ASQ, Register.ACQ)
CONSTANTS: Final = (Register.CAP, Register.VS)
"""Values of the device, whichever it is."""
_DATA_POINTERS: Final = ("src", "dst")


def in_page(address: int) -> int | None:
    """Where in its page an address is; None for no address."""
    return address % PAGE_BYTES if address else None


def comparable(events: list[Event]) -> list[tuple[Any, ...]]:
    """What the driver did, in a form in which equal behaviour is equal."""
    plain = [line for event in events if (line := _plain(event)) is not None]
    once = [line for index, line in enumerate(plain) if not (_is_poll(line) and index and _is_poll(plain[index - 1]))]
    return [line for index, line in enumerate(once) if not _is_poll(line) or _is_the_drivers(once, index)]


def _plain(event: Event) -> tuple[Any, ...] | None:
    match event["op"]:
        case "read" | "write":
            hidden = event["bar"] == Bar.REGISTERS and event["off"] in CONSTANTS
            value = None if hidden else event["value"]
            if event["bar"] == Bar.REGISTERS and event["off"] in ADDRESSES:
                value = in_page(event["value"])
            if event["bar"] == Bar.REGISTERS and event["off"] == Register.CSTS:
                value = None
            return (event["op"], event["bar"], event["off"], event["size"], value)
        case "sqe":
            return ("sqe", event["sqid"], *_entry(event["sqid"], bytes.fromhex(event["bytes"])))
        case "prp":
            return ("prp", event["sqid"], event["len"], in_page(event["addr"]), event["bytes"])
        case "sgl":
            return ("sgl", event["sqid"], event["dir"], in_page(event["addr"]), *_segment(event))
        case "tail":
            return ("tail", event["sqid"], in_page(event["addr"]), event["bytes"])
        case "reset":
            return ("reset",) if event["type"] == 2 else None
        case _:
            return None


def _is_poll(line: tuple[Any, ...]) -> bool:
    return line[:3] == ("read", Bar.REGISTERS, Register.CSTS)


def _is_the_drivers(lines: list[tuple[Any, ...]], index: int) -> bool:
    """Whether a read of CSTS is one that belongs to what is done, and not the health monitor's.

    It is behind a read of CAP (waiting for RDY), first of all (binding), or before an admin command (level-1 abort).
    """
    before = lines[index - 1] if index else None
    after = lines[index + 1] if index + 1 < len(lines) else None
    if before is None or before[:3] == ("read", Bar.REGISTERS, Register.CAP):
        return True
    return after is not None and after[:3] == ("write", Bar.DOORBELLS, sq_tail_offset(ADMIN_QUEUE_ID))


def _entry(queue_id: int, entry: bytes) -> tuple[Any, ...]:
    if queue_id == ADMIN_QUEUE_ID:
        layout, addresses = ADMIN_SQE, ("prp1", "prp2")
    elif queue_id < FIRST_AES_QUEUE_ID:
        layout, addresses = HSM_SQE, ("src_prp1", "src_prp2", "dst_prp1", "dst_prp2")
    else:
        layout, addresses = GCM_SQE, ()
    record = np.frombuffer(bytearray(entry), layout)
    seen: list[Any] = []
    for name in ("cid", "cmd_id"):
        if name in (layout.names or ()):
            record[name] = 0
    for name in addresses:
        seen.append(in_page(int(record[name][0])))
        record[name] = 0
    if layout is GCM_SQE:
        for name in _DATA_POINTERS:
            seen.append(in_page(int(record[name]["addr"][0])))
            record[name]["addr"] = 0
        if AesAttr(int(record["attr"][0])).cipher == Cipher.GCM:
            seen.append(record["tail_src_addr"][0] == record["tail_dst_addr"][0])
            for name in ("tail_src_addr", "tail_dst_addr"):
                seen.append(in_page(int(record[name][0])))
                record[name] = 0
    return (record.tobytes().hex(), *seen)


def _segment(event: Event) -> tuple[Any, ...]:
    """Descriptors of a segment; one that leads on is told by how far behind its own segment the next one lies."""
    found = []
    for descriptor in np.frombuffer(bytes.fromhex(event["bytes"]), SGL_DESCRIPTOR):
        leads_on = descriptor["type"] >> 4 != SglType.DATA_BLOCK
        place = int(descriptor["addr"]) - event["addr"] if leads_on else in_page(int(descriptor["addr"]) or PAGE_BYTES)
        found.append((place, int(descriptor["len"]), int(descriptor["type"])))
    return tuple(found)
