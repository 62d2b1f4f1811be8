# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Regions behind a socket: what is mapped is really there, and what is read is what was asked for."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ihsm.bus import VfioUserFunction, vfio_abi
from ihsm.bus.vfio_abi import RegionFlags
from ihsm.bus.vfio_user_wire import REGION_ACCESS, Command
from ihsm.errors import ProtocolError
from ihsm_abi.pci import PAGE_BYTES
from support.descriptors import open_descriptors
from support.scripted_server import Answer, WithDescriptors, honest, reply, scripted_server
from support.waiting import HANG_S

BAR0_MAPPABLE = RegionFlags.READ | RegionFlags.WRITE | RegionFlags.MMAP


def offering(fd: int | None, offset: int = 0) -> Answer:
    """BAR0 may be mapped: one page of a file from an offset on, or of no file."""

    def answer(message_id: int, command: int, payload: bytes) -> bytes | WithDescriptors:
        if command != Command.DEVICE_GET_REGION_INFO or vfio_abi.REGION_INFO.unpack_from(payload)[2] != 0:
            return honest(message_id, command, payload)
        info = vfio_abi.REGION_INFO.pack(vfio_abi.REGION_INFO.size, BAR0_MAPPABLE, 0, 0, PAGE_BYTES, offset)
        return WithDescriptors(reply(message_id, command, info), () if fd is None else (fd,))

    return answer


def file_of(size_bytes: int) -> int:
    fd = os.memfd_create("region")
    os.ftruncate(fd, size_bytes)
    return fd


@pytest.fixture
def files() -> Iterator[list[int]]:
    """Descriptors that are closed after the test; nothing else may be left."""
    before = open_descriptors()
    opened: list[int] = []
    yield opened
    for fd in opened:
        os.close(fd)
    assert open_descriptors() == before


def test_a_bar_is_mapped_from_its_file(tmp_path: Path, files: list[int]) -> None:
    files.append(file_of(3 * PAGE_BYTES))
    os.pwrite(files[0], b"third page", 2 * PAGE_BYTES)
    with scripted_server(tmp_path, offering(files[0], 2 * PAGE_BYTES)) as path, VfioUserFunction(path) as function:
        mapping = function.map_bar(0)
        assert mapping is not None
        assert mapping[:10] == b"third page"
        assert len(mapping) == PAGE_BYTES
        mapping[0] = 0
        assert os.pread(files[0], 1, 2 * PAGE_BYTES) == b"\0"
        assert function.map_bar(0) is mapping


@pytest.mark.parametrize(
    ("size_bytes", "offset"),
    [
        pytest.param(PAGE_BYTES - 1, 0, id="one-byte-short"),
        pytest.param(0, 0, id="empty"),
        pytest.param(2 * PAGE_BYTES, 2 * PAGE_BYTES, id="ends-where-the-region-starts"),
        pytest.param(2 * PAGE_BYTES - 1, PAGE_BYTES, id="ends-within-the-region"),
        # Python's mmap measures regular files itself: here nobody refuses but the client.
        pytest.param(None, 0, id="not-regular-and-of-no-size"),
    ],
)
def test_a_file_shorter_than_its_region_is_not_mapped(
    tmp_path: Path, files: list[int], size_bytes: int | None, offset: int
) -> None:
    """A load from behind the end of a file would be fatal to the process."""
    files.append(os.open("/dev/zero", os.O_RDWR) if size_bytes is None else file_of(size_bytes))
    with scripted_server(tmp_path, offering(files[0], offset)) as path, VfioUserFunction(path) as function:
        for _ in range(2):
            with pytest.raises(ProtocolError, match="descriptor of region 0 is shorter than 0x1000 bytes"):
                function.map_bar(0)


def test_a_bar_without_a_file_is_reached_by_messages(tmp_path: Path, files: list[int]) -> None:
    with scripted_server(tmp_path, offering(None)) as path, VfioUserFunction(path) as function:
        assert function.map_bar(0) is None
        assert function.read_bar(0, 0, 4) == 0x5A5A5A5A


@pytest.mark.parametrize(
    "other",
    [
        pytest.param((12, 0, 4), id="another offset"),
        pytest.param((8, 2, 4), id="another region"),
        pytest.param((8, 0, 2), id="another length"),
    ],
)
def test_a_reply_to_another_read_is_refused(tmp_path: Path, other: tuple[int, int, int]) -> None:
    def answer(message_id: int, command: int, payload: bytes) -> bytes:
        if command != Command.REGION_READ:
            return honest(message_id, command, payload)
        return reply(message_id, command, REGION_ACCESS.pack(*other) + bytes(4))

    with (
        scripted_server(tmp_path, answer) as path,
        VfioUserFunction(path, timeout_s=HANG_S) as function,
        pytest.raises(ProtocolError, match="for another access"),
    ):
        function.read_bar(0, 8, 4)


@pytest.mark.parametrize("length", [3, 5])
def test_a_reply_with_more_or_less_than_was_read_is_refused(tmp_path: Path, length: int) -> None:
    def answer(message_id: int, command: int, payload: bytes) -> bytes:
        if command != Command.REGION_READ:
            return honest(message_id, command, payload)
        return reply(message_id, command, REGION_ACCESS.pack(8, 0, 4) + bytes(length))

    with (
        scripted_server(tmp_path, answer) as path,
        VfioUserFunction(path, timeout_s=HANG_S) as function,
        pytest.raises(ProtocolError),
    ):
        function.read_bar(0, 8, 4)


def test_memory_given_to_a_server_cannot_shrink_under_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seals: list[int] = []

    def watch(self: VfioUserFunction, fd: int, *arguments: Any) -> None:
        seals.append(fcntl.fcntl(fd, fcntl.F_GET_SEALS))
        with pytest.raises(PermissionError):
            os.ftruncate(fd, 0)

    monkeypatch.setattr(VfioUserFunction, "map_dma", watch)
    with scripted_server(tmp_path, honest) as path, VfioUserFunction(path) as function:
        function.allocate_arena(PAGE_BYTES)
    wanted = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
    assert seals == [wanted]
