# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""AES commands exactly as the Linux driver wrote them: entries, segments and tails at the recorded addresses.

User data was not recorded. The recording program used the data of the interface's worked examples, zeros for XTS.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from ihsm_abi.aes_queue import AES_CQE, GCM_SQE, SGL_DESCRIPTOR, XTS_SQE, AesAttr, Cipher, SglType
from ihsm_abi.pci import PAGE_BYTES
from ihsm_device.hsm.keystore import BulkType
from support import aes_model
from support.aes_rig import AesRig, Block, Completion, read_blocks, write_blocks
from support.guest_memory import GuestMemory

TRACE = Path(__file__).parents[2] / "data" / "linux-driver-3.2.0-commands.jsonl"
KEYS = {
    0x11: (BulkType.GCM_APPROVED, bytes(range(32))),
    0x12: (BulkType.GCM_UNAPPROVED, bytes(range(32, 64))),
    0x13: (BulkType.XTS, bytes(range(32))),
    0x14: (BulkType.XTS, bytes(range(32, 64))),
}


@dataclass
class Recorded:
    """One command of the trace."""

    step: str
    sqe: bytes
    segments: list[tuple[str, int, bytes]] = field(default_factory=list)
    tail: tuple[int, bytes] | None = None
    cqe: bytes = b""

    def blocks(self, side: str) -> list[Block]:
        """Data blocks of one list, in order."""
        found = []
        for direction, _, body in self.segments:
            if direction == side:
                for entry in np.frombuffer(body, SGL_DESCRIPTOR):
                    if entry["type"] == SglType.DATA_BLOCK << 4:
                        found.append((int(entry["addr"]), int(entry["len"])))
        return found


def recorded() -> Iterator[Recorded]:
    """Answered AES commands of the trace."""
    step, open_commands = "", dict[tuple[int, int], Recorded]()
    for line in TRACE.read_text().splitlines():
        event = json.loads(line)
        data = bytes.fromhex(event.get("bytes", ""))
        match event["op"]:
            case "step":
                step = event["name"]
            case "sqe" if event["sqid"] >= 256:
                open_commands[event["sqid"], int(np.frombuffer(data, GCM_SQE)["cmd_id"][0])] = Recorded(step, data)
            case "sgl":
                open_commands[event["sqid"], event["cid"]].segments.append((event["dir"], event["addr"], data))
            case "tail":
                open_commands[event["sqid"], event["cid"]].tail = event["addr"], data
            case "cqe" if event["cqid"] >= 256:
                command = open_commands.pop((event["cqid"], int(np.frombuffer(data, AES_CQE)["cmd_id"][0])))
                command.cqe = data
                yield command


COMMANDS = list(recorded())


def map_pages(rig: AesRig, command: Recorded) -> dict[int, GuestMemory]:
    """Memory at every page that the command names, one mapping each, as pages that no neighbour follows."""
    used = (
        [(address, len(body)) for _, address, body in command.segments] + command.blocks("src") + command.blocks("dst")
    )
    if command.tail:
        used.append((command.tail[0], len(command.tail[1])))
    pages = {page for address, size in used for page in range(address & -PAGE_BYTES, address + size, PAGE_BYTES)}
    return {page: GuestMemory(rig.host, PAGE_BYTES, base=page) for page in pages}


class Pages:
    """The mapped pages as one memory."""

    def __init__(self, pages: dict[int, GuestMemory]) -> None:
        self.pages = pages

    def _parts(self, address: int, size: int) -> Iterator[tuple[GuestMemory, int, int]]:
        while size:
            part = min(size, PAGE_BYTES - address % PAGE_BYTES)
            yield self.pages[address & -PAGE_BYTES], address, part
            address, size = address + part, size - part

    def write(self, address: int, data: bytes) -> None:
        """Across pages."""
        for memory, at, part in self._parts(address, len(data)):
            memory.write(at, data[:part])
            data = data[part:]

    def read(self, address: int, size: int) -> bytes:
        """Across pages."""
        return b"".join(memory.read(at, part) for memory, at, part in self._parts(address, size))


def source_of(command: Recorded, sqe: np.void) -> bytes:
    """What the recording program had put into the source."""
    if AesAttr(int(sqe["attr"])).cipher == Cipher.XTS:
        return bytes(int(sqe["src_len"]))
    aad_len, length = int(sqe["actual_aad_len"]), int(sqe["src_len"])
    region = aes_model.padded_aad(b"\xab" * 11 if aad_len == 11 else bytes(range(0xC0, 0xC0 + aad_len)))
    first = 0x80 if "text 32" in command.step or "aligned" in command.step else 0x40
    text = bytes((first + i) & 0xFF for i in range(64))
    if "decrypt" in command.step:
        _, key = KEYS[int(sqe["key_id"])]
        text = aes_model.gcm(key, sqe["iv"].tobytes(), region, aad_len, text[:32], decrypt=False)[0]
    return (region + text)[:length]


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: re.sub(r"\W+", "-", command.step))
def test_replay(command: Recorded, make_rig: Callable[..., AesRig]) -> None:
    rig = make_rig(0x1000)
    for key_id, (kind, key) in KEYS.items():
        rig.add_key(key_id, key, kind)
    expected = Completion.parse(command.cqe)
    entry = bytearray(command.sqe)
    sqe = np.frombuffer(entry, GCM_SQE)[0]
    is_xts = AesAttr(int(sqe["attr"])).cipher == Cipher.XTS
    if not is_xts:
        entry[92:104] = expected.iv  # the recording device replaced the IV of an approved key
    memory = Pages(map_pages(rig, command))
    source = source_of(command, sqe)
    write_blocks(memory, command.blocks("src"), source)  # type: ignore[arg-type]
    for _, address, body in command.segments:
        memory.write(address, body)
    if command.tail:
        memory.write(*command.tail)

    completion = rig.run(bytes(entry))

    assert completion.status == expected.status
    assert completion.raw[:48].hex() == command.cqe[:48].hex()
    if completion.status[0] not in (0, 2, 3) or completion.len == 0:
        assert completion.len == 0 or completion.status == (0, 0)
        return
    assert completion.len == expected.len
    written = read_blocks(memory, command.blocks("dst"))  # type: ignore[arg-type]
    decrypt = bool(AesAttr(int(sqe["attr"])).decrypt)
    if is_xts:
        xts = np.frombuffer(bytes(entry), XTS_SQE)[0]
        keys = (KEYS[int(xts["key_id1"])][1], KEYS[int(xts["key_id2"])][1])
        dul = AesAttr(int(sqe["attr"])).dul
        assert written == aes_model.xts(*keys, xts["tweak"].tobytes(), dul, source, decrypt=decrypt)
        return
    region, (_, key) = int(sqe["aligned_aad_len"]), KEYS[int(sqe["key_id"])]
    tail = command.tail[1] if command.tail else b""
    result, tag = aes_model.gcm(
        key, expected.iv, source[:region], int(sqe["actual_aad_len"]), source[region:] + tail, decrypt=decrypt
    )
    assert written[region:] + (memory.read(command.tail[0], len(tail)) if command.tail else b"") == result
    assert completion.tag == tag


def test_trace_has_the_cases() -> None:
    """Chained segments, tails, commands without lists, refused ones."""
    assert len(COMMANDS) == 22
    assert max(len(command.segments) for command in COMMANDS) == 6
    assert sum(command.tail is not None for command in COMMANDS) == 6
