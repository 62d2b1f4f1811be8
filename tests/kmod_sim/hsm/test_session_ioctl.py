# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""The session ioctl against the tables of its specification (02 A.6, A.8, B.6): each check, alone and before others."""

from __future__ import annotations

import errno
from collections.abc import Callable
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import pytest

from ihsm_abi.hsm_queue import ControlKind, SessionControl
from ihsm_abi.uapi import GENERIC_IOCTL, NO_SESSION_ID, NO_SHORT_APP_ID, ControllerState, InternalCode, Ioctl
from ihsm_kmod.hsm import bounce
from ihsm_kmod.kernel.errors import Errno
from ihsm_kmod.kernel.report import ReportKind
from support.ioctls import KEPT, SESSION, Caller, gcm_command, hsm_cqe, kept, session_command
from support.user_pages import GONE, NO_ADDRESS, PAGE, READ_ONLY, USABLE, UserPages

Covers = Callable[..., None]
SIZE = GENERIC_IOCTL.itemsize


def flags(kind: ControlKind, **bits: int) -> SessionControl:
    return SessionControl.of(kind=kind, **bits)


def flag(name: str) -> int:
    """Value of a field of the answer that nobody wrote."""
    return kept(name, GENERIC_IOCTL)


@dataclass(frozen=True)
class Check:
    """What makes one check fail in an in-session command of a file with a session."""

    row: str
    fields: dict[str, Any]
    extended: int
    error: int = errno.EINVAL
    state: str = ""
    """Attribute of the controller that makes it fail."""


CHECKS = [
    Check("4", {}, 0x04000001, errno.EAGAIN, state="abort_in_progress"),
    Check("5", {}, 10, errno.EAGAIN, state="state"),
    Check("6", {"cmdset": 1}, 2),
    Check("7", {"src_length": 8193, "src_buf": 4096}, 3),
    Check("8", {"dst_length": 8193, "dst_buf": 4096}, 4),
    Check("9", {"src_length": 0, "src_buf": 4096}, 5),
    Check("10", {"src_length": 1, "src_buf": 0}, 5),
    Check("11", {"dst_length": 0, "dst_buf": 4096}, 7),
    Check("12", {"dst_length": 1, "dst_buf": 0}, 7),
    Check("14-not-valid", {"session_control_flags": flags(ControlKind.IN_SESSION)}, 14),
    Check("14-differs", {"session_id": SESSION + 1}, 14),
    Check("15", {"session_control_flags": flags(ControlKind.OPEN)}, 11),
    Check("16-src", {"src_length": 1, "src_buf": NO_ADDRESS}, 5),
    Check("16-dst", {"dst_length": 1, "dst_buf": NO_ADDRESS}, 7),
]
"""In their order (A.6)."""
STATES = {"abort_in_progress": True, "state": ControllerState.NOT_INITIALIZED}


@pytest.fixture
def caller(hsm_caller: Caller) -> Caller:
    """A file with a session."""
    hsm_caller.open_session()
    return hsm_caller


def failing(caller: Caller, monkeypatch: pytest.MonkeyPatch, *checks: Check) -> Any:
    """Result of a command that fails these checks."""
    with monkeypatch.context() as patch:
        for check in checks:
            if check.state:
                patch.setattr(caller.controller, check.state, STATES[check.state])
        return caller.session(**{name: value for check in checks for name, value in check.fields.items()}, ctxt=77)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.row)
def test_each_check(caller: Caller, monkeypatch: pytest.MonkeyPatch, covers: Covers, check: Check) -> None:
    result = failing(caller, monkeypatch, check)
    assert result.extended == (check.extended, check.error)
    sent = len(caller.script.entries)
    assert sent == 1, "only the command that opened the session"
    assert result.answer["status"] == flag("status")
    early = CHECKS.index(check) < CHECKS.index(next(check for check in CHECKS if check.row == "14-not-valid"))
    assert result.answer["out_ctxt"] == (flag("out_ctxt") if early else 77)
    code = f"{check.extended:#010x}" if check.extended > 0xFFFF else check.extended
    covers(f"kmod/A.6/{check.row}", f"kmod/A.9/{code}", "kmod/A.6/not-zeroed", "kmod/I/5")


def test_the_first_check_that_fails_decides(caller: Caller, monkeypatch: pytest.MonkeyPatch) -> None:
    for first, second in combinations(CHECKS, 2):
        of_other_kinds = (first.row, second.row) == ("14-differs", "15")
        if not first.fields.keys() & second.fields.keys() and not of_other_kinds:
            result = failing(caller, monkeypatch, first, second)
            assert result.extended == (first.extended, first.error), (first.row, second.row)


@pytest.mark.parametrize("kind", [ControlKind.CLOSE, ControlKind.IN_SESSION])
def test_without_a_session(hsm_caller: Caller, covers: Covers, kind: ControlKind) -> None:
    result = hsm_caller.session(session_control_flags=flags(kind, id_valid=1))
    assert result.extended == (12, errno.EINVAL)
    covers("kmod/A.6/13-close" if kind == ControlKind.CLOSE else "kmod/A.6/13-in-session", "kmod/A.9/12")


def test_unreadable_header(caller: Caller, covers: Covers) -> None:
    """EINVAL of the check, but what it wrote cannot be copied back."""
    assert caller.call(Ioctl.GENERIC_SESSION, UserPages(GONE)).error == errno.EFAULT
    assert caller.call(Ioctl.GENERIC_SESSION, 0).error == errno.EFAULT
    covers("kmod/A.6/1")


def test_short_header_wipes_the_callers_memory(caller: Caller, covers: Covers) -> None:
    record = np.full(SIZE + 8, KEPT, np.uint8)
    record[:16].view("<u4")[:] = (SIZE - 1, 1, 2, 3)
    assert caller.call(Ioctl.GENERIC_SESSION, record).error == errno.EINVAL
    assert record.tobytes() == bytes(SIZE) + bytes([KEPT] * 8)
    covers("kmod/A.6/2", "kmod/I/4")


def test_short_header_in_memory_that_cannot_be_written(caller: Caller, covers: Covers) -> None:
    pages = UserPages(READ_ONLY)
    pages.put(0, (SIZE - 1).to_bytes(4, "little"))
    assert caller.call(Ioctl.GENERIC_SESSION, pages.address).error == errno.EFAULT
    covers("kmod/A.6/2-unwritable")


def test_structure_that_is_not_all_there(caller: Caller, covers: Covers) -> None:
    pages = UserPages(USABLE, GONE)
    address = pages.put(PAGE - 64, session_command().tobytes()[:64])
    assert caller.call(Ioctl.GENERIC_SESSION, address).error == errno.EFAULT
    covers("kmod/A.6/3")


def test_answer_that_cannot_be_written(caller: Caller, covers: Covers) -> None:
    pages = UserPages(READ_ONLY)
    pages.put(0, session_command().tobytes())
    caller.script.complete(hsm_cqe(control=flags(ControlKind.IN_SESSION, id_valid=1)))
    assert caller.call(Ioctl.GENERIC_SESSION, pages.address).error == errno.EFAULT
    covers("kmod/A.6/21")


def test_larger_structure_and_header_fields_that_nobody_reads(caller: Caller, covers: Covers) -> None:
    caller.script.complete(hsm_cqe(control=flags(ControlKind.IN_SESSION, id_valid=1)))
    header = (0xFFFFFFFF, 0xCD1DDEAD, 0xFFFFFFFF, 0xFFFFFFFF)
    result = caller.session(hdr=header, psdt=3, opc=0xFC00, ctxt=5)
    assert result.error == 0
    assert result.answer["hdr"].tolist() == header
    assert result.answer["out_ctxt"] == 5
    assert caller.script.hsm_entry["command"] == 0
    covers("kmod/A.5/larger", "kmod/A.5/ignored", "kmod/A.6/psdt", "kmod/A.6/ctxt")


def test_opcode_goes_into_the_entry(caller: Caller, covers: Covers) -> None:
    caller.script.complete(hsm_cqe())
    assert caller.session(opc=0xFFFF).error == 0
    assert caller.script.hsm_entry["command"] == 0x3FF
    covers("kmod/A.6/opc")


ENTRIES = [
    (ControlKind.NONE, 1, 0x00, 0),
    (ControlKind.OPEN, 0, 0x01, 9),
    (ControlKind.OPEN, 1, 0x05, 9),
    (ControlKind.CLOSE, 1, 0x06, SESSION),
    (ControlKind.IN_SESSION, 1, 0x07, SESSION),
]
"""Kind, whether the caller marks its id as valid, and flags and session id of the queue entry (B.4)."""


@pytest.mark.parametrize(("kind", "marked", "control", "session_id"), ENTRIES)
def test_flags_and_session_of_the_entry(
    hsm_caller: Caller, kind: ControlKind, marked: int, control: int, session_id: int
) -> None:
    """All flags that the caller may not set are set in its byte, and none of them arrives."""
    if session_id == SESSION:
        hsm_caller.open_session()
    hsm_caller.script.complete(hsm_cqe())
    asked = flags(kind, id_valid=marked) | 0xF8
    assert hsm_caller.session(session_control_flags=asked, session_id=session_id or 9).error == 0
    entry = hsm_caller.script.hsm_entry
    assert (entry["control"], entry["session_id"], entry["command"]) == (control, session_id, 0)
    assert [int(entry[name]) for name in ("src_prp1", "src_prp2", "dst_prp1", "dst_prp2")] == [0, 0, 0, 0]


# 17 and 18: bounce pages.


@pytest.mark.parametrize(("row", "good"), [("17", 0), ("17-second", 1)])
def test_no_page(caller: Caller, monkeypatch: pytest.MonkeyPatch, covers: Covers, row: str, good: int) -> None:
    allocate, left = bounce.dma_pool_alloc, [None] * good

    def short(pool: Any) -> Any:
        if not left:
            raise Errno(errno.ENOMEM)
        left.pop()
        return allocate(pool)

    pages = UserPages(USABLE, USABLE)
    with monkeypatch.context() as patch:
        patch.setattr(bounce, "dma_pool_alloc", short)
        result = caller.session(src_length=2 * PAGE, src_buf=pages.address)
    assert result.extended == (1, errno.ENOMEM)
    assert freed_twice(caller) == good
    covers(f"kmod/A.6/{row}", "kmod/A.9/1")


def test_request_that_cannot_be_read(caller: Caller, covers: Covers) -> None:
    pages = UserPages(USABLE, GONE)
    result = caller.session(src_length=2 * PAGE, src_buf=pages.address, dst_length=PAGE, dst_buf=pages.address)
    assert result.extended == (5, errno.EINVAL)
    assert freed_twice(caller) == 2
    covers("kmod/A.6/18", "kmod/A.9/5")


def freed_twice(caller: Caller) -> int:
    """How many pages the small kernel saw freed a second time."""
    kernel = caller.process.kernel
    return len([report for report in kernel.reports if report.kind == ReportKind.DMA_DOUBLE_FREE])


# Answers.


def test_answer_goes_to_the_caller(caller: Caller, covers: Covers) -> None:
    """More bytes than the caller has room for; an error status does not keep the data back."""
    caller.script.complete(hsm_cqe(sc=0xC1, byte_count=100))
    pages = UserPages(USABLE)
    pages.put(0, bytes([KEPT] * PAGE))
    result = caller.session(dst_length=40, dst_buf=pages.address)
    assert (result.error, result.value) == (0, 0)
    assert (result.answer["status"], result.answer["byte_count"]) == (0xC1, 40)
    assert result.answer["extended_status"] == flag("extended_status")
    assert pages.get(40, 60) == bytes([KEPT] * 60)
    covers("kmod/A.6/device-error", "kmod/A.6/clamp")


def test_answer_that_the_caller_cannot_take(caller: Caller, covers: Covers) -> None:
    caller.script.complete(hsm_cqe(control=flags(ControlKind.IN_SESSION, id_valid=1), byte_count=40))
    pages = UserPages(READ_ONLY)
    result = caller.session(dst_length=40, dst_buf=pages.address)
    assert result.extended == (7, errno.EINVAL)
    assert (result.answer["status"], result.answer["byte_count"]) == (0, 0)
    covers("kmod/A.6/20", "kmod/A.9/7")


CODES = {
    InternalCode.SUCCESS: None,
    InternalCode.ABORTED: 0x04000002,
    InternalCode.ABORT_IN_PROGRESS: 0x04000001,
    InternalCode.QSELECT_FAILED: 0x0400000A,
    InternalCode.QDISABLED: 0x04000002,
    InternalCode.UNDEFINED: None,
    InternalCode.CTRL_NOT_READY: 0x0400000A,
}
"""Extended status for each internal code (A.8); None: the caller's value stays."""


@pytest.mark.parametrize("code", CODES)
def test_codes_of_commands_that_the_driver_ended(caller: Caller, covers: Covers, code: InternalCode) -> None:
    cqe = hsm_cqe(control=flags(ControlKind.IN_SESSION, id_valid=1)) if code == InternalCode.SUCCESS else None
    caller.script.end(code, errno.EAGAIN, cqe)
    extended = CODES[code]
    result = caller.session()
    assert result.extended == (flag("extended_status") if extended is None else extended, errno.EAGAIN)
    assert result.answer["status"] == flag("status")
    covers(f"kmod/A.8/hsm-{code.value}", "kmod/A.6/19")
    if extended is not None:
        covers(f"kmod/A.9/{extended:#010x}".replace("0x0400000a", "0x0400000A"))


# B.6: the session of the file.


def has_session(caller: Caller) -> bool:
    """Whether the file has SESSION, as an in-session command finds out."""
    caller.script.complete(hsm_cqe(control=flags(ControlKind.IN_SESSION, id_valid=1)))
    result = caller.session()
    assert result.error == 0 or result.extended == (12, errno.EINVAL)
    return result.error == 0


CLOSES = {
    "1-cleared": (5, {"kind": 2, "id_valid": 1, "session_closed": 1}, False),
    "1-id-not-valid": (5, {"kind": 2, "session_closed": 1}, True),
    "1-not-safe": (5, {"kind": 2, "id_valid": 1}, True),
    "2": (0, {"kind": 3, "id_valid": 1, "session_closed": 1}, True),
    "3": (0, {"kind": 2, "session_closed": 1}, True),
    "4-close": (0, {"kind": 2, "id_valid": 1, "session_closed": 1}, False),
    "4-close-not-safe": (0, {"kind": 2, "id_valid": 1}, True),
}
"""Answers to a close: `sc`, flags, and whether the file still has its session."""


@pytest.mark.parametrize("row", CLOSES)
def test_close(caller: Caller, covers: Covers, row: str) -> None:
    """The id in the completion is another one: that of the entry counts."""
    sc, bits, stays = CLOSES[row]
    caller.script.complete(hsm_cqe(sc=sc, control=SessionControl.of(**bits), session_id=SESSION + 1))
    result = caller.session(session_control_flags=flags(ControlKind.CLOSE, id_valid=1))
    assert (result.error, result.answer["status"]) == (0, sc)
    assert has_session(caller) == stays
    covers(f"kmod/B.6/{row}", *{"1-cleared": ["kmod/I/9"], "2": ["kmod/I/8"]}.get(row, []))


def test_data_of_an_answer_of_another_kind_is_delivered(caller: Caller, covers: Covers) -> None:
    caller.script.complete(hsm_cqe(control=flags(ControlKind.OPEN, id_valid=1), byte_count=8, session_id=5))
    pages = UserPages(USABLE)
    result = caller.session(dst_length=8, dst_buf=pages.address)
    assert (result.error, result.answer["byte_count"]) == (0, 8)
    assert has_session(caller)
    covers("kmod/B.6/2", "kmod/I/8")


@pytest.mark.parametrize("kind", [ControlKind.NONE, ControlKind.IN_SESSION])
def test_error_of_another_kind_changes_nothing(caller: Caller, covers: Covers, kind: ControlKind) -> None:
    caller.script.complete(hsm_cqe(sc=1, control=flags(ControlKind.CLOSE, id_valid=1, session_closed=1)))
    assert caller.session(session_control_flags=flags(kind, id_valid=1)).error == 0
    assert has_session(caller)
    covers("kmod/B.6/1-other-kind")


def test_error_of_an_open_gives_no_session(hsm_caller: Caller, covers: Covers) -> None:
    hsm_caller.script.complete(hsm_cqe(sc=1, control=flags(ControlKind.OPEN, id_valid=1), session_id=SESSION))
    assert hsm_caller.session(session_control_flags=flags(ControlKind.OPEN)).error == 0
    assert not has_session(hsm_caller)
    covers("kmod/B.6/1-other-kind")


def test_open_without_a_valid_id(hsm_caller: Caller, covers: Covers) -> None:
    hsm_caller.script.complete(hsm_cqe(control=flags(ControlKind.OPEN), session_id=SESSION))
    assert hsm_caller.session(session_control_flags=flags(ControlKind.OPEN)).error == 0
    assert not has_session(hsm_caller)
    covers("kmod/B.6/3")


def test_open(hsm_caller: Caller, covers: Covers) -> None:
    hsm_caller.open_session()
    assert has_session(hsm_caller)
    assert hsm_caller.session(session_id=SESSION + 1).extended == (14, errno.EINVAL)
    covers("kmod/B.6/4-open")


def test_open_without_short_app_id(hsm_caller: Caller, covers: Covers) -> None:
    hsm_caller.open_session(short_app_id=None)
    pages = UserPages(USABLE)
    assert hsm_caller.aes(gcm_command(pages.address, pages.address)).extended == (110, errno.EINVAL)
    covers("kmod/B.6/4-open-no-app-id")


def test_answer_of_an_in_session_command_moves_nothing(caller: Caller, covers: Covers) -> None:
    control = flags(ControlKind.IN_SESSION, id_valid=1, short_app_id_valid=1, session_closed=1)
    caller.script.complete(hsm_cqe(control=control, session_id=SESSION + 1, short_app_id=9))
    assert caller.session().error == 0
    assert has_session(caller)
    covers("kmod/B.6/4-in-session")


def test_second_open_finds_no_slot(caller: Caller, hsm_caller: Caller, covers: Covers) -> None:
    """Two opens pass the check before one of them is answered: the lock of the file is never taken."""
    other = caller.reopen()

    def open_inside(_: bytes) -> Any:
        """While the first is with the device, the second comes and is done."""
        other.open_session(SESSION)
        other.script.complete(hsm_cqe(control=flags(ControlKind.OPEN, id_valid=1), session_id=SESSION + 1))
        return other.script.answer(b"")  # type: ignore[misc]

    other.script.answer = open_inside
    assert other.session(session_control_flags=flags(ControlKind.OPEN)).error == 0
    assert has_session(other)
    assert "slot" in " ".join(record.text for record in caller.process.kernel.log)
    covers("kmod/B.6/4-open-no-slot", "kmod/A.3/two-opens")


def test_cleared_slot(caller: Caller, covers: Covers) -> None:
    """As a debugger sees it: no ioctl shows an invalid slot's id."""
    closed = flags(ControlKind.CLOSE, id_valid=1, session_closed=1)
    (context,) = caller.controller.hsm_device.open_files  # type: ignore[attr-defined]
    caller.script.complete(hsm_cqe(control=closed))
    assert caller.session(session_control_flags=flags(ControlKind.CLOSE, id_valid=1)).error == 0
    (slot,) = context.sessions
    assert (slot.id, slot.valid) == (NO_SESSION_ID, False)
    assert (slot.short_app_id, slot.short_app_id_is_valid) == (NO_SHORT_APP_ID, False)
    covers("kmod/B.6/cleared")
