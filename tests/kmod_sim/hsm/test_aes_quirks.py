# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""What AES ioctls do where the driver's quirks are off (spec 02 A.7, A.8, C.6)."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

from ihsm_abi.uapi import FpStatus, InternalCode, Ioctl
from support.bent_function import BentFunction
from support.hsm_driver import driver_on
from support.hsm_program import scripted
from support.ioctls import Caller, aes_cqe, gcm_command
from support.user_pages import GONE, READ_ONLY, USABLE, UserPages

AAD, TEXT, TAIL = 32, 37, 5


@contextmanager
def caller_without(function: BentFunction, monkeypatch: pytest.MonkeyPatch, *quirks: str) -> Iterator[Caller]:
    """A file with a session, of a driver without these quirks."""
    with driver_on(function, dict.fromkeys(quirks, False)) as driver:
        caller = scripted(driver, monkeypatch)
        caller.open_session()
        yield caller


@pytest.fixture
def pages() -> UserPages:
    return UserPages(USABLE, USABLE)


def tailed(pages: UserPages, **fields: Any) -> np.ndarray[Any, Any]:
    """The command of 02 H.4."""
    aad = {"actual_aad_data_len": 11, "aligned_aad_len": AAD, "enable_gcm_workaround": 1}
    return gcm_command(
        pages.address, pages.address + 2048, **{"src_len": AAD + TEXT, "dst_len": AAD + TEXT} | aad | fields
    )


@pytest.mark.parametrize(
    ("code", "extended"),
    [
        (InternalCode.ABORTED, 0x04000002),
        (InternalCode.ABORT_IN_PROGRESS, 0x04000001),
        (InternalCode.QSELECT_FAILED, 0x0400006A),
        (InternalCode.QDISABLED, 0x04000002),
    ],
)
def test_a_command_that_did_not_complete_is_an_error(
    function: BentFunction, monkeypatch: pytest.MonkeyPatch, pages: UserPages, code: InternalCode, extended: int
) -> None:
    with caller_without(function, monkeypatch, "aes_returns_uncopied", "aes_shows_internal_code") as caller:
        caller.script.end(code, errno.EAGAIN)
        assert caller.aes(tailed(pages)).extended == (extended, errno.EAGAIN)


@pytest.mark.parametrize(("field", "error"), [("src_ptr", errno.EIO), ("dst_ptr", errno.EFAULT)])
def test_a_buffer_that_cannot_be_lent_is_an_error(
    function: BentFunction, monkeypatch: pytest.MonkeyPatch, pages: UserPages, field: str, error: int
) -> None:
    gone = UserPages(GONE)
    with caller_without(function, monkeypatch, "aes_returns_uncopied") as caller:
        result = caller.aes(tailed(pages, enable_gcm_workaround=0, src_len=64, dst_len=64, **{field: gone.address}))
        assert result.extended == (FpStatus.NO_MEMORY, error)


def test_a_tail_that_cannot_be_read_is_an_error(
    function: BentFunction, monkeypatch: pytest.MonkeyPatch, pages: UserPages
) -> None:
    gone = UserPages(GONE)
    with caller_without(function, monkeypatch, "aes_returns_uncopied", "aes_returns_trimmed_input") as caller:
        result = caller.aes(tailed(pages, src_ptr=gone.address))
        assert result.extended == (FpStatus.NO_MEMORY, errno.EINVAL)
        assert (result.answer["src_len"], result.answer["dst_len"]) == (AAD + TEXT, AAD + TEXT)


def test_an_answer_that_cannot_be_written_is_an_error(
    function: BentFunction, monkeypatch: pytest.MonkeyPatch, pages: UserPages
) -> None:
    record = UserPages(READ_ONLY)
    with caller_without(function, monkeypatch, "aes_returns_uncopied") as caller:
        caller.script.complete(aes_cqe(len=64, tail_dst_len=TAIL))
        address = record.put(0, tailed(pages).tobytes())
        assert caller.call(Ioctl.AES_GCM, address).error == errno.EFAULT


def test_a_command_that_succeeds_returns_0(
    function: BentFunction, monkeypatch: pytest.MonkeyPatch, pages: UserPages
) -> None:
    with caller_without(function, monkeypatch, "aes_returns_uncopied") as caller:
        caller.script.complete(aes_cqe(len=64, tail_dst_len=TAIL))
        result = caller.aes(tailed(pages))
        assert (result.error, result.value, result.answer["byte_count"]) == (0, 0, AAD + TEXT)


def test_a_destination_shorter_than_the_source_is_refused(
    function: BentFunction, monkeypatch: pytest.MonkeyPatch, pages: UserPages
) -> None:
    """With the quirk, 64 of 69 bytes pass, and the tail is written behind them."""
    with caller_without(function, monkeypatch, "tail_at_source_offset") as caller:
        caller.script.complete(aes_cqe(len=64, tail_dst_len=TAIL))
        short = caller.aes(tailed(pages, dst_len=AAD + TEXT - 1))
        assert short.extended == (FpStatus.AES_GCM_IOCTL_VALIDATION_FAILED, errno.EINVAL)
        assert caller.aes(tailed(pages)).error == 0
