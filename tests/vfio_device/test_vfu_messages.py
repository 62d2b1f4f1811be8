# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Messages of clients that keep to no rule: every command at every length, counts at their bounds, broken streams.

Each leaves the process, its descriptors and the next client as they were. The same tests run under AddressSanitizer
(tests/vfio_device/native/test_sanitizers.py), which sees what is read or written beside an object.
"""

from __future__ import annotations

import errno
import itertools
import json
import logging
import os
import resource
import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from ihsm.bus.vfio_abi import Region
from ihsm.bus.vfio_user_wire import FLAG_NO_REPLY, HEADER, TYPE_REPLY, Command
from ihsm_abi.pci import MSIX_VECTORS
from ihsm_device.server import Server
from support.descriptors import open_descriptors
from support.modules import ReversingModule
from support.raw_client import RawClient
from support.waiting import until

DIRTY_PAGES = 14
COMMANDS = (0, *Command, DIRTY_PAGES, DIRTY_PAGES + 1, 0xFFFF)
LONGEST = 80
"""Bytes of payload: more than the longest structure, DMA_UNMAP with its part for dirty pages, has."""
MAX_DATA = 1 << 20
MAX_MESSAGE = MAX_DATA + HEADER.size + 16
"""A region write of the longest data there may be."""
ONES32, ONES64 = 2**32 - 1, 2**64 - 1
PAGE = 4096


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture) -> None:
    """Thousands of refusals would hide what failed."""
    caplog.set_level(logging.CRITICAL, logger="libvfio-user")


@pytest.fixture
def path(socket_folder: Path) -> Iterator[Path]:
    """Socket of a device."""
    server = Server([socket_folder / "f.sock"], lambda index: ReversingModule())
    server.start()
    try:
        yield socket_folder / "f.sock"
    finally:
        server.stop()


@pytest.fixture
def client(path: Path) -> Iterator[RawClient]:
    with RawClient(path) as client:
        yield client


@pytest.fixture
def memory() -> Iterator[int]:
    """A file of four pages."""
    fd = os.memfd_create("guest", os.MFD_CLOEXEC)
    os.ftruncate(fd, 4 * PAGE)
    yield fd
    os.close(fd)


@contextmanager
def nothing_left_open(path: Path) -> Iterator[None]:
    """Descriptors that exist after the body and did not before, with no client connected."""
    with RawClient(path) as before:
        assert before.in_step()
    before_count = open_descriptors()
    yield
    with RawClient(path) as after:
        assert after.in_step()
    until(lambda: open_descriptors() <= before_count, "no more descriptors than before")


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("fill", [b"\0", b"\1", b"\xff"], ids=["zeros", "small", "ones"])
def test_every_command_at_every_length(client: RawClient, command: int, fill: bytes) -> None:
    for size in range(LONGEST + 1):
        for argsz in (None, 0, size, MAX_DATA, ONES32):
            payload = fill * size if argsz is None else (struct.pack("<I", argsz) + fill * size)[:size]
            assert client.request(command, payload).error in (0, errno.EINVAL, errno.ENOTSUP, errno.ENOENT)
    assert client.in_step()


@pytest.mark.parametrize("flags", range(4))
def test_unmap_requests_at_every_length(client: RawClient, flags: int, memory: int) -> None:
    """Those that say that they are long enough, too, and those that ask for dirty pages."""
    whole = struct.pack("<IIQQQQ", MAX_DATA, flags, 0, 0, PAGE, 8)
    for size in range(len(whole) + 1):
        error = client.request(Command.DMA_UNMAP, whole[:size]).error
        assert error or size >= 24
    assert client.in_step()


def bounds(limit: int, ones: int) -> tuple[int, ...]:
    """Counts worth trying where `limit` is the largest that makes sense and `ones` the largest that can be said."""
    return (0, 1, limit - 1, limit, limit + 1, ones // 2 + 1, ones - limit + 1, ones)


@pytest.mark.parametrize("action", range(8), ids=lambda bits: f"action{bits}")
@pytest.mark.parametrize("kind", range(8), ids=lambda bits: f"kind{bits}")
def test_interrupt_requests_at_every_bound(client: RawClient, action: int, kind: int) -> None:
    """With and without a descriptor, and with one byte for each vector where the request counts few of them."""
    event = os.eventfd(0, os.EFD_NONBLOCK)
    for index in (0, 1, 2, 3, 4, 5, ONES32):
        for start, count in itertools.product(bounds(MSIX_VECTORS, ONES32), repeat=2):
            request = struct.pack("<IIIII", 20, action << 3 | kind, index, start, count)
            flags = bytes([1]) * (count if count <= MSIX_VECTORS + 1 else 1)
            for data, fds in ((b"", ()), (flags, ()), (b"", (event,))):
                error = client.request(Command.DEVICE_SET_IRQS, request + data, fds).error
                assert error == errno.EINVAL or (error == 0 and index == 2 and start + count <= MSIX_VECTORS)
    os.close(event)
    assert client.in_step()


@pytest.mark.parametrize("with_file", [False, True])
def test_mappings_at_every_bound(client: RawClient, memory: int, with_file: bool) -> None:
    values = bounds(4 * PAGE, ONES64)
    for flags, offset, address, size in itertools.product((0, 3, 4, ONES32), values, (0, PAGE + 1, ONES64), values):
        request = struct.pack("<IIQQQ", 32, flags, offset, address, size)
        error = client.request(Command.DMA_MAP, request, (memory,) if with_file else ()).error
        if error == 0:
            assert flags <= 3
            assert 0 < size < ONES64 - address
            assert not with_file or offset + size <= 4 * PAGE
        assert client.request(Command.DMA_UNMAP, struct.pack("<IIQQ", 24, 2, 0, 0)).error == 0
    for address, size in itertools.product(values, values):
        client.request(Command.DMA_MAP, struct.pack("<IIQQQ", 32, 3, 0, PAGE, 2 * PAGE), (memory,))
        client.request(Command.DMA_UNMAP, struct.pack("<IIQQ", 24, 0, address, size))
    assert client.in_step()


@pytest.mark.parametrize("command", [Command.REGION_READ, Command.REGION_WRITE])
def test_region_accesses_at_every_bound(client: RawClient, command: Command) -> None:
    for region in (*range(11), ONES32):
        for offset, count in itertools.product(bounds(PAGE, ONES64), (0, 1, 3, 8, PAGE - 1, PAGE, PAGE + 1, MAX_DATA)):
            data = b"\xa5" * count if command is Command.REGION_WRITE else b""
            answer = client.request(command, struct.pack("<QII", offset, region, count) + data)
            inside = region in (0, 2, 4, Region.CONFIG) and offset + count <= PAGE
            assert answer.error == 0 or not inside
            assert answer.error or count == 0 or inside
    for count in (MAX_DATA + 1, 2**31, ONES32):
        assert client.request(command, struct.pack("<QII", 0, Region.CONFIG, count)).error == errno.EINVAL
    assert client.in_step()


@pytest.mark.parametrize("command", [Command.DEVICE_GET_REGION_INFO, Command.DEVICE_GET_REGION_IO_FDS])
def test_questions_at_every_bound(client: RawClient, command: Command) -> None:
    sizes = (0, 15, 16, 31, 32, 33, 63, 64, MAX_DATA, MAX_DATA + 1, ONES32)
    for argsz, index in itertools.product(sizes, (*range(12), ONES32)):
        for rest in (0, 1, ONES32):
            client.request(command, struct.pack("<IIIIQQ", argsz, rest, index, rest, rest, rest))
    assert client.in_step()


def test_descriptors_that_no_command_asked_for_are_closed(path: Path, memory: int) -> None:
    with nothing_left_open(path), RawClient(path) as client:
        for command in COMMANDS:
            for size in (0, 4, 32):
                client.request(command, b"\1" * size, [memory] * 250)
        for flags in (TYPE_REPLY, 0xF):
            client.send(client.message(Command.DMA_MAP, bytes(32), flags=flags), [memory] * 9)
            assert client.receive().error == errno.EINVAL
        assert client.in_step()


def test_descriptors_with_a_part_of_a_header_are_closed(path: Path, memory: int) -> None:
    with nothing_left_open(path):
        for size in range(1, HEADER.size):
            for greeted in (False, True):
                with RawClient(path, greet=greeted) as client:
                    client.send(bytes(size), [memory] * 250)


def test_descriptors_with_a_part_of_a_body_are_closed(path: Path, memory: int) -> None:
    with nothing_left_open(path), RawClient(path) as client:
        message = client.message(Command.DEVICE_GET_INFO, struct.pack("<IIII", 16, 0, 0, 0))
        client.send(message[:20], [memory])
        client.send(message[20:25], [memory] * 100)
        client.send(message[25:], [memory])
        assert client.receive().error == 0


@contextmanager
def full_descriptor_table(room: int) -> Iterator[None]:
    """No more than `room` further descriptors for this process, and thus the device in it."""
    held: list[int] = []
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        highest = max(int(name) for name in os.listdir("/proc/self/fd"))
        resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 2, hard))
        with suppress(OSError):
            while True:
                held.append(os.dup(0))
        for _ in range(room):
            os.close(held.pop())
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for fd in held:
            os.close(fd)


@pytest.mark.parametrize("room", [0, 1])
def test_a_process_without_room_for_descriptors_refuses_the_request_alone(path: Path, memory: int, room: int) -> None:
    """The stream stays in step: what followed on the socket is still the next request."""
    with nothing_left_open(path), RawClient(path) as client:
        request = struct.pack("<IIQQQ", 32, 3, 0, PAGE, PAGE)
        with full_descriptor_table(room):
            for _ in range(20):
                assert client.request(Command.DMA_MAP, request, [memory] * 2).error == errno.EMFILE
                assert client.in_step()
        assert client.request(Command.DMA_MAP, request, [memory]).error == 0


def test_messages_may_come_in_pieces(client: RawClient) -> None:
    for cut in range(1, 32):
        message = client.message(Command.DEVICE_GET_INFO, struct.pack("<IIII", 16, 0, 0, 0))
        client.send(message[:cut])
        client.send(message[cut:])
        assert client.receive().error == 0
    message = client.message(Command.DEVICE_GET_INFO, struct.pack("<IIII", 16, 0, 0, 0))
    for at in range(len(message)):
        client.send(message[at : at + 1])
    assert client.receive().error == 0


@pytest.mark.parametrize("size", [1, 16, 31])
@pytest.mark.parametrize("leaves", [False, True])
def test_a_message_that_does_not_end_ends_its_client(path: Path, size: int, leaves: bool) -> None:
    """By itself, or because the rest does not come; its beginning is never taken for a request."""
    with nothing_left_open(path), RawClient(path) as client:
        client.send(client.message(Command.DEVICE_GET_INFO, struct.pack("<IIII", 16, 0, 0, 0))[:size])
        if leaves:
            client.socket.close()
        else:
            assert client.is_closed()


@pytest.mark.parametrize("size", [0, 1, 15, MAX_MESSAGE + 1, 2**31, ONES32])
@pytest.mark.parametrize("payload", [b"", bytes(64), b"\xff" * 4096], ids=len)
def test_a_size_that_cannot_be_ends_its_client(path: Path, size: int, payload: bytes) -> None:
    """With an answer; what follows would be read as something that it is not."""
    with nothing_left_open(path), RawClient(path) as client:
        client.send(client.message(Command.DEVICE_GET_INFO, payload, size=size))
        assert client.receive().error == errno.EINVAL
        assert client.is_closed()


def test_the_longest_message_is_read_whole(client: RawClient) -> None:
    access = struct.pack("<QII", 0, Region.CONFIG, MAX_DATA)
    assert client.request(Command.REGION_WRITE, access + bytes(MAX_DATA)).error == errno.EINVAL
    assert client.in_step()


def test_a_client_that_takes_no_replies_is_given_up(path: Path) -> None:
    """Requests with replies until neither side can send any more; the next client is served."""
    with RawClient(path) as client:
        request = client.message(Command.REGION_READ, struct.pack("<QII", 0, Region.CONFIG, PAGE))
        with suppress(BrokenPipeError, ConnectionResetError):
            while True:
                client.socket.sendall(request)
        with RawClient(path) as following:
            assert following.in_step()


JSON = (
    "", "{", "null", "1", "[]", '"x"', "{}", "[" * 200, '{"a":' * 100, '{"capabilities":null}', '{"capabilities":[]}',
    *(
        f'{{"capabilities":{{{json.dumps(name)}:{value}}}}}'
        for name in ("max_msg_fds", "max_data_xfer_size", "migration")
        for value in (-1, 0, 1, 2**31, 2**32 + 1, 2**63, 10**40, 1.5, "null", '"1"', "[]", "{}", '{"pgsize":0}')
    ),
)  # fmt: skip


@pytest.mark.parametrize("ends", [b"\0", b"", b"\0\0", b"\xff\0"], ids=["terminated", "open", "twice", "not UTF-8"])
def test_greetings_of_every_content(path: Path, ends: bytes) -> None:
    """Taken or refused; a client with a proper greeting comes after each."""
    with nothing_left_open(path):
        for text in JSON:
            with RawClient(path, greet=False) as stranger, suppress(ConnectionResetError):
                if stranger.request(Command.VERSION, bytes(4) + text.encode() + ends).error == 0:
                    assert stranger.in_step()
    with RawClient(path) as client:
        assert client.in_step()


@pytest.mark.parametrize("command", COMMANDS)
def test_greetings_of_every_command_and_length(path: Path, memory: int, command: int) -> None:
    """With descriptors too, which no greeting has."""
    with nothing_left_open(path):
        for size, fds in itertools.product((0, 1, 3, 4, 5, 24), ([], [memory] * 3)):
            with RawClient(path, greet=False) as stranger, suppress(ConnectionError):
                stranger.send(stranger.message(command, b"\0" * size), fds)
                answer = stranger.receive()
                assert answer.error or (command == Command.VERSION and size >= 4 and not fds)


def test_requests_without_reply_keep_the_stream_in_step(client: RawClient) -> None:
    for command in COMMANDS:
        client.send(client.message(command, bytes(20), flags=FLAG_NO_REPLY))
    assert client.in_step()
