# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Attacks by a client that says what no driver would: messages, descriptors, mappings, and the control socket."""

from __future__ import annotations

import contextlib
import os
import random
import socket
import struct
from collections.abc import Iterator
from typing import Final

from ihsm.bus.vfio_user_wire import TYPE_COMMAND, Command
from ihsm_abi.control import SUFFIX
from ihsm_abi.pci import PAGE_BYTES, Bar
from support.raw_client import RawClient
from support.waiting import HANG_S

CONFIG_REGION: Final = 7
IOVA: Final = 0x1_0000_0000
NO_REPLY: Final = 1 << 4
MOST_REGIONS: Final = 5000
PORTION: Final = 200
"""How often a small thing is done in one attack."""


@contextlib.contextmanager
def memory(size: int) -> Iterator[int]:
    """A memfd of so many bytes."""
    fd = os.memfd_create("guest")
    try:
        os.ftruncate(fd, size)
        yield fd
    finally:
        os.close(fd)


def map_request(iova: int, size: int, offset: int = 0, flags: int = 3) -> bytes:
    """Body of DMA_MAP."""
    return struct.pack("<IIQQQ", 32, flags, offset, iova, size)


def interrupts_that_wrap(path: str, rng: random.Random) -> None:
    """SET_IRQS whose start and count add up to nothing, and other bounds of it."""
    with RawClient(path) as client:
        for start, count in ((1, 0xFFFFFFFF), (0xFFFFFFFF, 1), (31, 2), (rng.getrandbits(32), rng.getrandbits(32))):
            for flags in (1 << 2 | 1 << 5, 1 | 1 << 5, 1 << 1 | 1 << 4):
                client.request(Command.DEVICE_SET_IRQS, struct.pack("<IIIII", 20, flags, 2, start, count))


def configuration_beyond_an_access(path: str, rng: random.Random) -> None:
    """Writes and reads of configuration space and registers that begin anywhere and have any length."""
    with RawClient(path) as client:
        for _ in range(PORTION):
            offset, size = rng.choice([0xB4, 0xB8, 0xBB, rng.randrange(4096)]), rng.choice([1, 2, 3, 4, 8, 12, 17, 255])
            region = rng.choice([CONFIG_REGION, CONFIG_REGION, Bar.REGISTERS, Bar.DOORBELLS])
            if region == CONFIG_REGION or rng.random() < 0.5:
                client.write(region, offset, rng.randbytes(size))
            client.request(Command.REGION_READ, struct.pack("<QII", offset, region, size))


def descriptors_with_a_piece_of_a_header(path: str, rng: random.Random) -> None:
    """Many descriptors with four of sixteen bytes, and then nothing."""
    with memory(PAGE_BYTES) as fd:
        for _ in range(10):
            with RawClient(path) as client:
                socket.send_fds(client.socket, [b"\1\0\4\0"], [fd] * rng.randrange(1, 250))
                client.socket.shutdown(socket.SHUT_WR)
                client.is_closed()


def as_many_regions_as_there_are(path: str, rng: random.Random) -> None:
    """Regions with a descriptor each until one is refused, or there are very many; nothing is unmapped."""
    with memory(2 * PAGE_BYTES) as fd, RawClient(path) as client:
        for number in range(rng.randrange(100, MOST_REGIONS)):
            if client.request(Command.DMA_MAP, map_request(IOVA + number * 0x4000, PAGE_BYTES), [fd]).error:
                break


def sparse_files_of_terabytes(path: str, rng: random.Random) -> None:
    """The address space of all functions is what such files use up."""
    with memory(8 << 40) as fd, RawClient(path) as client:
        for number in range(16):
            client.request(Command.DMA_MAP, map_request(number << 43, 8 << 40), [fd])


def maps_and_unmaps(path: str, rng: random.Random) -> None:
    """Regions that come and go, overlap, end behind their file, and are cut while they are mapped."""
    with memory(1 << 20) as fd, RawClient(path) as client:
        for _ in range(PORTION):
            iova, size = IOVA + rng.randrange(64) * PAGE_BYTES, rng.randrange(1, 32) * PAGE_BYTES
            client.request(Command.DMA_MAP, map_request(iova, size, rng.choice([0, 0, PAGE_BYTES, 1 << 19])), [fd])
            if rng.random() < 0.1:
                os.ftruncate(fd, rng.choice([0, PAGE_BYTES, 1 << 20]))
            if rng.random() < 0.5:
                client.request(Command.DMA_UNMAP, struct.pack("<IIQQ", 24, 0, iova, size))


def much_to_log(path: str, rng: random.Random) -> None:
    """What the device would like to tell of, over and over."""
    with RawClient(path) as client:
        for _ in range(PORTION):
            client.write(CONFIG_REGION, 0x104, bytes(4))
            client.write(CONFIG_REGION, 4, b"\x40\0")
            unmap = struct.pack("<IIQQ", 24, 8, 0, 0)
            client.send(client.message(Command.DMA_UNMAP, unmap, flags=TYPE_COMMAND | NO_REPLY))
            client.write(Bar.REGISTERS, 0x14, struct.pack("<I", 1))
            client.write(Bar.REGISTERS, 0x14, struct.pack("<I", 0))
            client.request(77, bytes(16))


def messages_that_stop(path: str, rng: random.Random) -> None:
    """Half a message; the client waits until it is given up."""
    with RawClient(path) as client:
        whole = client.message(Command.DEVICE_GET_INFO, struct.pack("<IIII", 16, 0, 0, 0))
        client.send(whole[: rng.randrange(1, len(whole))])
        client.is_closed()


def connections_that_say_nothing(path: str, rng: random.Random) -> None:
    """As many as the backlog takes, and one that is greeted after them."""
    held = []
    for _ in range(50):
        connection = socket.socket(socket.AF_UNIX)
        connection.setblocking(False)
        held.append(connection)
        if connection.connect_ex(path):
            break
    for connection in held:
        connection.close()
    with RawClient(path) as client:
        client.in_step()


def messages_of_any_content(path: str, rng: random.Random) -> None:
    """Proper messages with some bytes changed; the device answers or hangs up."""
    for _ in range(5):
        with contextlib.suppress(OSError, AssertionError, struct.error), RawClient(path) as client:
            client.socket.settimeout(0.5)  # some get no reply
            for _ in range(PORTION):
                message = bytearray(client.message(rng.randrange(16), rng.randbytes(rng.choice([0, 16, 20, 32, 64]))))
                for _ in range(rng.randrange(3)):
                    message[rng.randrange(len(message))] = rng.randrange(256)
                struct.pack_into("<I", message, 4, len(message))
                client.send(message)
                client.receive()


def replies_that_are_not_read(path: str, rng: random.Random) -> None:
    """Requests without end; the device gives such a client up."""
    with RawClient(path) as client:
        request = struct.pack("<QII", 0, Bar.REGISTERS, PAGE_BYTES)
        with contextlib.suppress(OSError):
            client.socket.settimeout(HANG_S)
            for _ in range(20_000):
                client.send(client.message(Command.REGION_READ, request))


def doorbells_of_any_value(path: str, rng: random.Random) -> None:
    """Whole pages of them at once."""
    with RawClient(path) as client:
        for _ in range(20):
            client.write(Bar.DOORBELLS, 0, rng.randbytes(PAGE_BYTES))


def resets_and_connections(path: str, rng: random.Random) -> None:
    """Function level resets, one after the other, of clients that come and go."""
    for _ in range(20):
        with RawClient(path) as client:
            for _ in range(rng.randrange(10)):
                client.request(Command.DEVICE_RESET)


def control_lines_of_any_kind(path: str, rng: random.Random) -> None:
    """Endless, deep, mutated and unread ones, and many connections."""
    address, lines = path + SUFFIX, [
        bytes(1000), b"[" * 60_000, b'{"command":' + b"9" * 60_000 + b"}", b"\xff\xfe", b"", b"1", b"a" * 70_000,
        b'{"command":"status","id":' + b"[" * 30_000 + b"]" * 30_000 + b"}", b'{"command":"status","id":1e400}',
        b'{"command":"status","id":"\\ud800"}', b'{"command":null}',
        b'{"command":"trace.start","arguments":{"kinds":[1]}}',
    ]  # fmt: skip
    for _ in range(PORTION):
        line = bytearray(b'{"command":"status","id":1,"arguments":{}}')
        for _ in range(rng.randrange(1, 6)):
            line[rng.randrange(len(line))] = rng.randrange(256)
        lines.append(bytes(line))
    for sent in lines:
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(address)  # waits while others are on their way in, which it does not with a timeout
            client.settimeout(HANG_S)
            with contextlib.suppress(ConnectionError):
                client.sendall(sent + b"\n")
                client.shutdown(socket.SHUT_WR)
                while client.recv(1 << 16):
                    pass
    held = []
    for _ in range(100):
        client = socket.socket(socket.AF_UNIX)
        client.setblocking(False)
        held.append(client)
        if client.connect_ex(address) == 0:
            with contextlib.suppress(OSError):
                client.send(b'{"command":"status"}\n' * 500)
    for client in held:
        client.close()
