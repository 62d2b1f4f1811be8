# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""The AES ioctls against the tables of their specification (02 A.7, A.8, C.3): each check, alone and before others."""

from __future__ import annotations

import errno
from collections.abc import Callable
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import pytest

from ihsm_abi.uapi import GCM_IOCTL, ControllerState, InternalCode, Ioctl
from ihsm_kmod.hsm import aes_command
from ihsm_kmod.kernel.errors import Errno
from support.ioctls import KEPT, SESSION, Caller, Result, aes_cqe, gcm_command, kept, xts_command
from support.user_pages import GONE, NO_ADDRESS, PAGE, READ_ONLY, USABLE, UserPages

Covers = Callable[..., None]
SIZE = GCM_IOCTL.itemsize
TEXT, AAD = 37, 32
TAIL = 5
TAG, IV = bytes(range(1, 17)), bytes(range(21, 33))


def flag(name: str) -> int:
    """Value of a field of the answer that nobody wrote."""
    return kept(name, GCM_IOCTL)


@dataclass
class Buffers:
    """A source and a destination for as long as the test runs."""

    source: UserPages
    destination: UserPages

    def gcm(self, **fields: Any) -> np.ndarray[Any, Any]:
        return gcm_command(self.source.address, self.destination.address, **fields)

    def xts(self, **fields: Any) -> np.ndarray[Any, Any]:
        return xts_command(self.source.address, self.destination.address, **fields)

    def tailed(self, **fields: Any) -> np.ndarray[Any, Any]:
        """AAD of 11 bytes, padded, and text with a tail: the example of 02 H.4."""
        aad = {"actual_aad_data_len": 11, "aligned_aad_len": AAD, "enable_gcm_workaround": 1}
        return self.gcm(**{"src_len": AAD + TEXT, "dst_len": AAD + TEXT} | aad | fields)


@pytest.fixture
def caller(hsm_caller: Caller) -> Caller:
    """A file with a session, and a device that aligns GCM."""
    hsm_caller.open_session()
    assert hsm_caller.controller.gcm_workaround
    return hsm_caller


@pytest.fixture
def buffers() -> Buffers:
    """Two pages each way."""
    buffers = Buffers(UserPages(USABLE, USABLE), UserPages(USABLE, USABLE))
    buffers.destination.put(0, bytes([KEPT] * 2 * PAGE))
    return buffers


@dataclass(frozen=True)
class Check:
    """What makes one check fail."""

    row: str
    fields: dict[str, Any]
    extended: int
    cipher: str = "gcm"
    error: int = errno.EINVAL
    state: str = ""
    """Attribute of the controller that makes it fail."""


CHECKS = [
    Check("2", {}, 0x04000001, error=errno.EAGAIN, state="abort_in_progress"),
    Check("3", {}, 106, error=errno.EAGAIN, state="state"),
    Check("7", {"session_id": SESSION + 1}, 107),
    Check("8", {"short_app_id": 1}, 108),
    Check("9", {"op_code": 2}, 114),
    Check("10", {"cipher": 2}, 112),
    Check("11-gcm", {"cipher": 1}, 112),
    Check("12g", {"actual_aad_data_len": 64}, 117),
    Check("12g-aligned-short", {"actual_aad_data_len": 33, "aligned_aad_len": 32, "enable_gcm_workaround": 1}, 117),
    Check("12g-aligned-multiple", {"aligned_aad_len": 48, "enable_gcm_workaround": 1}, 117),
    Check("12g-dst", {"dst_len": 63}, 117),
    Check("16", {"src_ptr": NO_ADDRESS}, 101),
    Check("17", {"dst_ptr": NO_ADDRESS}, 103),
    Check("13", {"frame_type": 2}, 113),
    Check("14-null", {"src_ptr": 0}, 101),
    Check("15-null", {"dst_ptr": 0}, 103),
    Check("11-xts", {"cipher": 0}, 112, "xts"),
    Check("12x-dst", {"dst_len": 63}, 118, "xts"),
    Check("12x-code", {"data_unit_len": 4}, 118, "xts"),
    Check("12x-zero", {"src_len": 0}, 118, "xts"),
    Check("12x-multiple", {"data_unit_len": 1}, 118, "xts"),
    Check("14-zero", {"src_len": 0, "data_unit_len": 1}, 101, "xts"),
]
"""In the order in which they decide (A.7): 16 and 17 before 13 to 15, which they override."""
UNORDERED = {("16", "17"), ("12x-dst", "14-zero"), ("12x-dst", "12x-zero"), ("12x-zero", "12x-multiple")}
"""Pairs whose order nothing says, or that cannot fail together."""
STATES = {"abort_in_progress": True, "state": ControllerState.NOT_INITIALIZED}


def failing(caller: Caller, buffers: Buffers, monkeypatch: pytest.MonkeyPatch, *checks: Check) -> Result:
    """Result of a command that fails these checks."""
    fields = {name: value for check in checks for name, value in check.fields.items()}
    with monkeypatch.context() as patch:
        for check in checks:
            if check.state:
                patch.setattr(caller.controller, check.state, STATES[check.state])
        command = buffers.gcm(**fields) if checks[-1].cipher == "gcm" else buffers.xts(**fields)
        before = command.tobytes()
        result = caller.aes(command)
    assert command.tobytes()[:240] == before[:240], "what went in comes back as it was"
    return result


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.row)
def test_each_check(
    caller: Caller, buffers: Buffers, monkeypatch: pytest.MonkeyPatch, covers: Covers, check: Check
) -> None:
    result = failing(caller, buffers, monkeypatch, check)
    assert result.extended == (check.extended, check.error)
    assert result.answer["byte_count"] == 0
    assert (result.answer["result"], result.answer["out_ctxt"]) == (flag("result"), flag("out_ctxt"))
    code = f"{check.extended:#010x}" if check.extended > 0xFFFF else check.extended
    covers(f"kmod/A.7/{check.row}", f"kmod/A.9/{code}", "kmod/A.7/byte-count", "kmod/I/5")


def test_the_first_check_that_fails_decides(caller: Caller, buffers: Buffers, monkeypatch: pytest.MonkeyPatch) -> None:
    for first, second in combinations(CHECKS, 2):
        if first.fields.keys() & second.fields.keys() or (first.row, second.row) in UNORDERED:
            continue
        if first.cipher == second.cipher or first.state:
            result = failing(caller, buffers, monkeypatch, first, second)
            assert result.extended == (first.extended, first.error), (first.row, second.row)


def test_header_and_size(caller: Caller, buffers: Buffers, covers: Covers) -> None:
    """The buffer stays as it was, and nothing is copied back that could fail."""
    assert caller.call(Ioctl.AES_GCM, UserPages(GONE)).error == errno.EINVAL
    pages = UserPages(USABLE, GONE)
    assert caller.call(Ioctl.AES_GCM, pages.put(PAGE - 64, buffers.gcm().tobytes()[:64])).error == errno.EINVAL
    command = buffers.gcm(hdr=(SIZE - 1, 1, 2, 3))
    before = command.tobytes()
    assert caller.aes(command).error == errno.EINVAL
    assert command.tobytes() == before
    covers("kmod/A.7/1-header", "kmod/A.7/1-size", "kmod/A.7/1-buffer")


def test_larger_size_and_header_fields_that_nobody_reads(caller: Caller, buffers: Buffers, covers: Covers) -> None:
    caller.script.complete(aes_cqe(len=64))
    header = (0xFFFFFFFF, 0xCD1DDEAD, 0xFFFFFFFF, 0xFFFFFFFF)
    result = caller.aes(buffers.gcm(hdr=header))
    assert (result.error, result.answer["byte_count"]) == (0, 64)
    assert result.answer["hdr"].tolist() == header
    covers("kmod/A.5/larger", "kmod/A.5/ignored")


def test_without_a_session(hsm_caller: Caller, buffers: Buffers, covers: Covers) -> None:
    result = hsm_caller.aes(buffers.gcm(op_code=2))
    assert result.extended == (109, errno.EINVAL)
    assert result.answer["byte_count"] == flag("byte_count")
    covers("kmod/A.7/5", "kmod/A.9/109")


def test_without_a_short_app_id(hsm_caller: Caller, buffers: Buffers, covers: Covers) -> None:
    hsm_caller.open_session(short_app_id=None)
    result = hsm_caller.aes(buffers.gcm(session_id=SESSION + 1))
    assert result.extended == (110, errno.EINVAL)
    assert result.answer["byte_count"] == 0
    covers("kmod/A.7/6", "kmod/A.9/110")


def test_without_aes_queues(caller: Caller, buffers: Buffers, monkeypatch: pytest.MonkeyPatch, covers: Covers) -> None:
    """It does not end the chain of checks: 5 to 11 put their own status there."""
    monkeypatch.setattr(caller.controller.aes_pool, "count", 0)
    result = caller.aes(buffers.gcm())
    assert result.extended == (111, errno.EINVAL)
    assert result.answer["byte_count"] == flag("byte_count")
    assert caller.aes(buffers.gcm(session_id=SESSION + 1)).extended == (107, errno.EINVAL)
    assert caller.aes(buffers.gcm(cipher=1)).extended == (112, errno.EINVAL)
    assert caller.reopen().aes(buffers.gcm()).extended == (109, errno.EINVAL)
    covers("kmod/A.7/4", "kmod/A.7/4-overwritten", "kmod/A.9/111")


@pytest.mark.parametrize("off", ["capability", "command"])
def test_alignment_is_not_checked_where_it_is_off(
    caller: Caller, buffers: Buffers, monkeypatch: pytest.MonkeyPatch, covers: Covers, off: str
) -> None:
    monkeypatch.setattr(caller.controller, "gcm_workaround", off != "capability")
    caller.script.complete(aes_cqe(len=64))
    fields = {"actual_aad_data_len": 33, "aligned_aad_len": 17, "enable_gcm_workaround": int(off == "capability")}
    assert caller.aes(buffers.gcm(**fields)).error == 0
    sqe = caller.script.gcm_entry
    assert (sqe["actual_aad_len"], sqe["aligned_aad_len"], sqe["tail_src_len"]) == (33, 17, 0)
    covers("kmod/A.7/12g-aligned-off")


def test_padded_aad_may_be_longer_than_the_source(caller: Caller, buffers: Buffers, covers: Covers) -> None:
    caller.script.complete(aes_cqe(len=64))
    fields = {"actual_aad_data_len": 1, "aligned_aad_len": 4096, "enable_gcm_workaround": 1}
    assert caller.aes(buffers.gcm(**fields)).error == 0
    covers("kmod/A.7/aligned-unbounded")


def test_refusal_that_cannot_be_written_back(caller: Caller, buffers: Buffers, covers: Covers) -> None:
    pages = UserPages(READ_ONLY)
    pages.put(0, buffers.gcm(frame_type=0).tobytes())
    assert caller.call(Ioctl.AES_GCM, pages.address).error == errno.EFAULT
    covers("kmod/A.7/copy-back")


# After validation.


def test_success(caller: Caller, buffers: Buffers, covers: Covers) -> None:
    caller.script.complete(aes_cqe(len=64, tag=[*TAG], iv=[*IV], fips_approved=0x100))
    command = buffers.gcm(ctxt=7)
    before = command.tobytes()
    result = caller.aes(command)
    assert (result.error, result.value, *result.extended) == (0, 0, 0, 0)
    assert (result.answer["result"], result.answer["byte_count"], result.answer["fips_approved"]) == (0, 64, 1)
    assert (bytes(result.answer["cmd_spec"]), bytes(result.answer["iv_from_fw"])) == (TAG, IV)
    assert command.tobytes()[:240] == before[:240]
    assert result.answer["out_ctxt"] == flag("out_ctxt")
    covers("kmod/A.7/success")


@pytest.mark.parametrize("cipher", ["gcm", "xts"])
def test_tag_and_iv_come_back_from_an_encryption_with_gcm_alone(
    caller: Caller, buffers: Buffers, covers: Covers, cipher: str
) -> None:
    caller.script.complete(aes_cqe(len=64, tag=[*TAG], iv=[*IV]))
    result = caller.aes(buffers.gcm(op_code=1) if cipher == "gcm" else buffers.xts())
    assert (result.error, result.answer["byte_count"]) == (0, 64)
    assert {*bytes(result.answer["cmd_spec"]), *bytes(result.answer["iv_from_fw"])} == {KEPT}
    covers("kmod/A.7/tag-and-iv")


@pytest.mark.parametrize("code", [code for code in InternalCode if code != InternalCode.CTRL_NOT_READY])
def test_codes_of_commands_that_the_driver_ended(
    caller: Caller, buffers: Buffers, covers: Covers, code: InternalCode
) -> None:
    """Code 0 is that of a command that completed while the abort was starting: nothing of its answer arrives."""
    cqe = aes_cqe(len=64, tail_dst_len=TAIL, tag=[*TAG]) if code == InternalCode.SUCCESS else None
    caller.script.end(code, errno.EAGAIN, cqe)
    result = caller.aes(buffers.tailed())
    assert (result.error, result.value, *result.extended) == (0, 0, code.value, 0)
    assert (result.answer["result"], result.answer["byte_count"]) == (flag("result"), 0)
    assert {*bytes(result.answer["cmd_spec"])} == {KEPT}
    assert buffers.destination.get(AAD + TEXT - TAIL, TAIL) == bytes([KEPT] * TAIL)
    assert (result.answer["src_len"], result.answer["dst_len"]) == (64, 64)
    covers(f"kmod/A.8/aes-{code.value}", "kmod/A.7/late-submit", "kmod/A.7/late-in-data", "kmod/I/1")
    if code == InternalCode.SUCCESS:
        covers("kmod/A.7/late-completed")


def test_nothing_left_beside_the_tail(caller: Caller, buffers: Buffers, covers: Covers) -> None:
    caller.script.end(InternalCode.ABORTED, errno.EAGAIN)
    result = caller.aes(buffers.gcm(src_len=TAIL, dst_len=TAIL, enable_gcm_workaround=1))
    assert [result.answer[name] for name in ("src_len", "dst_len", "src_ptr", "dst_ptr")] == [0, 0, 0, 0]
    sqe = caller.script.gcm_entry
    assert (sqe["src_len"], sqe["dst_len"], sqe["tail_src_len"], sqe["tail_dst_len"]) == (0, 0, TAIL, TAIL)
    assert (sqe["src"].tobytes(), sqe["dst"].tobytes()) == (bytes(16), bytes(16))
    covers("kmod/A.7/late-in-data")


@pytest.mark.parametrize(
    ("row", "source", "destination"),
    [
        ("late-src", (GONE,), (USABLE,)),
        ("late-src", (USABLE, GONE), (USABLE, USABLE)),
        ("late-dst", (USABLE,), (GONE,)),
        ("late-dst", (USABLE,), (READ_ONLY,)),
        ("late-dst", (USABLE, USABLE), (USABLE, READ_ONLY)),
    ],
    ids=["source", "source's second page", "destination", "read-only", "destination's second page"],
)
def test_memory_that_the_device_cannot_be_given(
    caller: Caller, covers: Covers, row: str, source: tuple[int, ...], destination: tuple[int, ...]
) -> None:
    size = len(source) * PAGE
    buffers = Buffers(UserPages(*source), UserPages(*destination))
    result = caller.aes(buffers.gcm(src_len=size, dst_len=size))
    assert (result.error, result.value, *result.extended) == (0, 0, 100, 0)
    assert result.answer["result"] == flag("result")
    covers(f"kmod/A.7/{row}", "kmod/A.9/100", "kmod/I/1")


def test_tail_that_cannot_be_read(caller: Caller, covers: Covers) -> None:
    buffers = Buffers(UserPages(USABLE, GONE), UserPages(USABLE, USABLE))
    source = buffers.source.address + PAGE - 64
    result = caller.aes(buffers.tailed(src_ptr=source))
    assert (result.error, result.value, *result.extended) == (0, 0, 100, 0)
    covers("kmod/A.7/late-tail-copy")


def test_no_memory_for_the_tail(
    caller: Caller, buffers: Buffers, monkeypatch: pytest.MonkeyPatch, covers: Covers
) -> None:
    def short(*_: Any) -> Any:
        raise Errno(errno.ENOMEM)

    monkeypatch.setattr(aes_command, "dma_alloc_coherent", short)
    command = buffers.tailed()
    before = command.tobytes()
    result = caller.aes(command)
    assert (result.error, result.value, *result.extended) == (0, 0, 100, 0)
    assert command.tobytes()[:240] == before[:240]
    covers("kmod/A.7/late-tail-memory")


@pytest.mark.parametrize("room", [0, 300])
def test_answer_that_cannot_be_written_is_a_positive_number(
    caller: Caller, buffers: Buffers, covers: Covers, room: int
) -> None:
    caller.script.complete(aes_cqe(len=64))
    pages = UserPages(USABLE, READ_ONLY)
    address = pages.put(PAGE - room, buffers.gcm().tobytes())
    result = caller.call(Ioctl.AES_GCM, address)
    assert (result.error, result.value) == (0, SIZE - room)
    covers("kmod/A.7/late-uncopied")


# C.3: completions.


@pytest.mark.parametrize(("row", "sts", "err"), [("sts", 2, 0x2A), ("sts", 3, 0), ("err", 0, 9)])
def test_error_of_the_device(caller: Caller, buffers: Buffers, covers: Covers, row: str, sts: int, err: int) -> None:
    caller.script.complete(aes_cqe(sts=sts, err=err, len=64, fips_approved=1, tag=[*TAG], iv=[*IV]))
    result = caller.aes(buffers.gcm(op_code=0))
    assert (result.error, result.value) == (0, 0)
    assert (result.answer["result"], result.answer["extended_status"]) == (sts, err)
    assert (result.answer["byte_count"], result.answer["fips_approved"]) == (0, 1)
    assert {*bytes(result.answer["cmd_spec"]), *bytes(result.answer["iv_from_fw"])} == {KEPT}
    covers(f"kmod/C.3/{row}")


WRONG = {
    "len": ("gcm", {"len": 65}),
    "tail-not-done": ("tailed", {"len": 64, "tail_dst_len": 0}),
    "no-tail-gcm": ("gcm", {"len": 64, "tail_dst_len": 1}),
    "no-tail-xts": ("xts", {"len": 64, "tail_dst_len": 1}),
    "tail-too-long": ("tailed", {"len": 64, "tail_dst_len": TAIL + 1}),
    "tail-above-15": ("tailed", {"len": 64, "tail_dst_len": 16}),
}
"""Successes that do not fit the command: which, and its completion."""


@pytest.mark.parametrize("row", WRONG)
def test_success_that_does_not_fit_the_command(caller: Caller, buffers: Buffers, covers: Covers, row: str) -> None:
    command, fields = WRONG[row]
    caller.script.complete(aes_cqe(**fields))
    result = caller.aes(getattr(buffers, command)())
    assert (result.error, result.value, *result.extended) == (0, 0, 106, 0)
    assert (result.answer["result"], result.answer["byte_count"]) == (0, 0)
    assert buffers.destination.get(AAD + TEXT - TAIL, TAIL) == bytes([KEPT] * TAIL)
    covers(f"kmod/C.3/{row}", *["kmod/I/10"] * ("tail-" in row), "kmod/A.9/106")


def test_tail_that_cannot_be_given_to_the_caller(caller: Caller, covers: Covers) -> None:
    """The aligned part ends with the page, so that its mapping succeeds."""
    buffers = Buffers(UserPages(USABLE), UserPages(USABLE, READ_ONLY))
    caller.script.complete(aes_cqe(len=64, tail_dst_len=TAIL))
    result = caller.aes(buffers.tailed(dst_ptr=buffers.destination.address + PAGE - 64))
    assert (result.error, result.value, *result.extended) == (0, 0, 106, 0)
    assert result.answer["byte_count"] == 0
    covers("kmod/C.3/tail-copy")


@pytest.mark.parametrize("counted", [1, TAIL])
def test_tail_counts_whole(caller: Caller, buffers: Buffers, covers: Covers, counted: int) -> None:
    """Whatever smaller number the device counts, all of it is copied and counted."""
    caller.script.complete(aes_cqe(len=64, tail_dst_len=counted))
    buffers.source.put(AAD + TEXT - TAIL, bytes(range(1, TAIL + 1)))
    result = caller.aes(buffers.tailed())
    assert (result.error, result.answer["byte_count"]) == (0, 64 + TAIL)
    assert buffers.destination.get(AAD + TEXT - TAIL, TAIL + 1) == bytes(range(1, TAIL + 1)) + bytes([KEPT])
    covers("kmod/C.3/tail-shorter")


def test_byte_count_is_not_compared_with_the_room(caller: Caller, buffers: Buffers, covers: Covers) -> None:
    """37 bytes, of which the device says it wrote 37 and a tail: 42."""
    caller.script.complete(aes_cqe(len=TEXT, tail_dst_len=TAIL))
    result = caller.aes(buffers.gcm(src_len=TEXT, dst_len=TEXT, enable_gcm_workaround=1))
    assert (result.error, result.answer["byte_count"]) == (0, TEXT + TAIL)
    covers("kmod/C.3/byte-count")


def test_short_transfer_is_passed_on(caller: Caller, buffers: Buffers, covers: Covers) -> None:
    caller.script.complete(aes_cqe(len=48))
    result = caller.aes(buffers.xts())
    assert (result.error, result.answer["extended_status"], result.answer["byte_count"]) == (0, 0, 48)
    covers("kmod/C.3/short")


@pytest.mark.parametrize("room", [*range(58, 69)])
def test_tail_lies_where_the_source_has_it(caller: Caller, buffers: Buffers, covers: Covers, room: int) -> None:
    """A destination that is long enough without the AAD: the tail goes past its end (C.6)."""
    caller.script.complete(aes_cqe(len=64, tail_dst_len=TAIL))
    result = caller.aes(buffers.tailed(dst_len=room))
    sqe = caller.script.gcm_entry
    assert (sqe["src_len"], sqe["dst_len"]) == (64, room - TAIL)
    written = buffers.destination.get(AAD + TEXT - TAIL, TAIL) != bytes([KEPT] * TAIL)
    assert (result.answer["extended_status"], written) == ((106, False) if room < 64 else (0, True))
    covers("kmod/I/11")
