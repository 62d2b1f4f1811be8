# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""What one client may have of the process: beyond that it is refused, by name, and others attach, map and work."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from typing import Final

import numpy as np
import pytest

from ihsm.bench.device import bulk_keys, provision
from ihsm.bus import VfioUserFunction
from ihsm.bus.vfio_abi import DmaFlags
from ihsm.control import ControlClient
from ihsm.ddi import Partition
from ihsm.driver import Controller, DriverOptions
from ihsm.errors import ControlError, RequestRefusedError
from ihsm_abi.admin import Psf
from ihsm_abi.aes_queue import SGL_DESCRIPTORS_PER_SEGMENT, AesStatus, SglType
from ihsm_abi.control import SUFFIX, ControlAnswer, ControlErrorCode
from ihsm_abi.ddi import AesKeySize, GetApiRevReq, encode_request
from ihsm_abi.hsm_queue import HSM_SQE, ControlKind, HsmStatus
from ihsm_device.limits import MAX_CONTROL_CONNECTIONS, Limits
from support.aes_rig import descriptor, gcm_sqe
from support.process import SERVE, ServeProcess, serve
from support.waiting import HANG_S, until

PAGE: Final = 4096
MIB: Final = 1 << 20
TIB: Final = 1 << 40
IOVA: Final = 0x7000_0000_0000
FEW_DESCRIPTORS: Final = 256
MANY_BLOCKS: Final = 1 << 20
"""Of a list, as many as may be (but for one)."""
MANY_FUNCTIONS: Final = 8
"""Enough for the limits of each to be small."""


@contextmanager
def sparse(size: int) -> Iterator[int]:
    """A file of that size in which there is nothing."""
    fd = os.memfd_create("sparse", os.MFD_ALLOW_SEALING)
    try:
        os.ftruncate(fd, size)
        yield fd
    finally:
        os.close(fd)


@contextmanager
def attacked(
    folder: Path, *, count: int = 2, descriptors: int | None = None
) -> Iterator[tuple[ServeProcess, VfioUserFunction]]:
    """A server, and a client of its first function; a client of the second works before, and after what is done."""
    limited = () if descriptors is None else ("prlimit", f"--nofile={descriptors}:{descriptors}")
    with serve("--socket", str(folder / "s"), "--count", str(count), program=(*limited, *SERVE)) as server:
        with Controller(VfioUserFunction(server.paths[1], timeout_s=HANG_S)) as neighbour:
            Partition(neighbour).api_revisions()
            with VfioUserFunction(server.paths[0], timeout_s=HANG_S) as client:
                yield server, client
                Partition(neighbour).api_revisions()
                neighbour.close()
                with Controller(VfioUserFunction(server.paths[1], timeout_s=HANG_S)) as another:
                    Partition(another).api_revisions()
        assert server.stop() == 0


def limit(server: ServeProcess, name: str) -> dict[str, int]:
    found: dict[str, int] = server.status()["limits"][name]
    return found


def refused(server: ServeProcess, client: VfioUserFunction, fd: int | None, iova: int, size: int, text: str) -> None:
    """A region that is refused twice, about which there is one line."""
    for _ in range(2):
        with pytest.raises(RequestRefusedError) as caught:
            client.map_dma(fd, 0, iova, size)
        assert caught.value.errno == errno.ENOSPC
    until(lambda: any(text in line for line in server.errors), "a line that names the limit")
    assert sum(text in line for line in server.errors) == 1
    assert not any("No space left" in line for line in server.errors), "the library's line says nothing more"


def test_regions(socket_folder: Path) -> None:
    with attacked(socket_folder, count=MANY_FUNCTIONS) as (server, client), sparse(2 * PAGE) as fd:
        most = limit(server, "regions")["limit"]
        for number in range(most):  # with room between: they do not become one mapping
            client.map_dma(fd, 0, IOVA + 2 * number * PAGE, PAGE)
        assert limit(server, "regions") == {"used": most, "limit": most}
        refused(server, client, fd, IOVA - PAGE, PAGE, "limit of regions")
        with pytest.raises(RequestRefusedError):
            client.map_dma(None, 0, IOVA - 2 * PAGE, PAGE)
        client.unmap_dma(IOVA, PAGE)
        client.map_dma(fd, 0, IOVA - PAGE, PAGE)


def test_every_function_can_have_all_its_regions_at_once() -> None:
    most = int(Path("/proc/sys/vm/max_map_count").read_text())
    for functions in (1, 2, 8, 64):
        assert functions * Limits.of(functions).regions < most


def test_regions_of_a_file_keep_one_descriptor(socket_folder: Path) -> None:
    with attacked(socket_folder, descriptors=FEW_DESCRIPTORS) as (server, client), sparse(2 * PAGE) as fd:
        before = server.open_files()
        for number in range(2 * FEW_DESCRIPTORS):
            client.map_dma(fd, 0, IOVA + 2 * number * PAGE, PAGE)
        until(lambda: server.open_files() <= before + 1, "one descriptor more")
        client.map_dma(fd, 0, IOVA, PAGE)  # the same once more
        with sparse(2 * PAGE) as other, pytest.raises(RequestRefusedError, match="Invalid argument"):
            client.map_dma(other, 0, IOVA, PAGE)
        until(lambda: server.open_files() <= before + 1, "one descriptor more")


def test_addresses(socket_folder: Path) -> None:
    with attacked(socket_folder) as (server, client), sparse(8 * TIB) as fd:
        most = limit(server, "mapped_bytes")["limit"]
        for number in range(most // (8 * TIB)):
            client.map_dma(fd, 0, number * 8 * TIB, 8 * TIB)
        refused(server, client, fd, most, 8 * TIB, "limit of mapped bytes")
        client.map_dma(None, 0, most, PAGE)  # costs no addresses
        client.unmap_dma(0, 8 * TIB)
        client.map_dma(fd, 0, most + 8 * TIB, 8 * TIB)


class Encrypting:
    """A client that has its own memory encrypted where it lies."""

    def __init__(self, path: Path, stack: ExitStack) -> None:
        self.function = VfioUserFunction(path, timeout_s=HANG_S)
        self.controller = stack.enter_context(Controller(self.function, DriverOptions(timeout_s=HANG_S)))
        self.session = stack.enter_context(provision(self.controller))
        (self.key,) = stack.enter_context(bulk_keys(self.session, AesKeySize.AesGcmBulk256Unapproved))

    def encrypt(self, source: int, destination: int, size: int) -> int:
        """The status of a command on two stretches of memory."""
        return self.encrypt_list(descriptor(source, size), destination, size)

    def encrypt_list(self, source: bytes, destination: int, size: int) -> int:
        """The status of one whose source a descriptor names."""
        entry = gcm_sqe(
            session_id=self.session.session_id,
            short_app_id=self.session.short_app_id,
            key_id=self.key,
            src_len=size,
            dst_len=size,
            src=source,
            dst=descriptor(destination, size),
        )
        (completion,) = self.controller.aes_queues[0].submit(entry, HANG_S).result()
        return int(completion["psf"]) >> 1

    def answer_at(self, destination: int) -> int:
        """The status of an HSM command whose response belongs there."""
        queue = self.controller.hsm_queues[0]
        usual = queue._builder(encode_request(GetApiRevReq()), ControlKind.NONE, None, PAGE)

        def build(cid: int) -> bytes:
            entry = np.frombuffer(usual(cid), HSM_SQE).copy()
            entry["dst_prp1"] = destination
            return entry.tobytes()

        return int(queue.submit_one(build, lambda cid, cqe: Psf(cqe.psf).sc, HANG_S).result())


def file_bytes(fd: int) -> int:
    """Memory that a file of memory takes."""
    return os.fstat(fd).st_blocks * 512


OWN_MIB: Final = 8 * MIB
"""More than rings and buffers of a client take, which raise the limit as all that is in its files."""


def test_holes_that_the_device_fills(socket_folder: Path) -> None:
    """A sparse file costs the server no more than the limit, however often and however it is named."""
    with serve("--socket", str(socket_folder / "s"), "--count", "64") as server, ExitStack() as stack:
        neighbour = stack.enter_context(closing(Controller(VfioUserFunction(server.paths[1], timeout_s=HANG_S))))
        client = Encrypting(server.paths[0], stack)
        most = limit(server, "filled_bytes")["limit"]
        size = 2 * most
        fd = stack.enter_context(sparse(size))
        client.function.map_dma(fd, 0, IOVA, size)
        assert client.encrypt(IOVA, IOVA, most // 2) == AesStatus.SUCCESS
        used = limit(server, "filled_bytes")["used"]
        assert most // 2 <= used < most
        assert client.encrypt(IOVA, IOVA, most // 2) == AesStatus.SUCCESS
        assert limit(server, "filled_bytes")["used"] == used, "what is there is no hole"
        for _ in range(2):
            assert client.encrypt(IOVA, IOVA, size) == AesStatus.RETRIES_EXCEEDED
        assert most // 2 < file_bytes(fd) <= most + OWN_MIB
        until(lambda: any("limit of filled bytes" in line for line in server.errors), "a line that names the limit")

        # a response finds no more room than data do, and the command is as one whose destination is out of reach
        assert client.answer_at(IOVA) == HsmStatus.SUCCESS
        assert client.answer_at(IOVA + size - PAGE) == HsmStatus.DMA_ERROR
        assert not os.pread(fd, PAGE, size - PAGE).strip(b"\0")
        assert client.answer_at(IOVA) == HsmStatus.SUCCESS

        # what was refused is the client's memory all the same
        text = os.urandom(MIB)
        for offset in (0, size - MIB):
            os.pwrite(fd, text, offset)
            assert client.encrypt(IOVA + offset, IOVA + offset, MIB) == AesStatus.SUCCESS
        assert os.pread(fd, MIB, size - MIB) == os.pread(fd, MIB, 0) != text
        client.function.unmap_dma(IOVA, size)
        client.function.map_dma(fd, 0, IOVA, size)
        assert client.encrypt(IOVA, IOVA, size) == AesStatus.RETRIES_EXCEEDED, "it remains filled"
        Partition(neighbour).api_revisions()
        stack.close()
        with VfioUserFunction(server.paths[0], timeout_s=HANG_S):
            assert limit(server, "filled_bytes")["used"] == 0, "another client, another count"


def test_a_client_with_memory_in_use_has_as_much_filled(socket_folder: Path) -> None:
    """A guest does not meet the limit: data that the device reads are in its memory already."""
    with serve("--socket", str(socket_folder / "s"), "--count", "64") as server, ExitStack() as stack:
        client = Encrypting(server.paths[0], stack)
        size = 2 * limit(server, "filled_bytes")["limit"]
        full, fd = stack.enter_context(sparse(size)), stack.enter_context(sparse(size))
        for offset in range(0, size, MIB):
            os.pwrite(full, b"\1" * MIB, offset)
        client.function.map_dma(full, 0, IOVA, size)
        client.function.map_dma(fd, 0, IOVA + size, size)
        for _ in range(2):
            assert client.encrypt(IOVA, IOVA + size, size) == AesStatus.SUCCESS
            assert file_bytes(fd) == size
            os.ftruncate(fd, 0)  # as a balloon gives memory back
            os.ftruncate(fd, size)


def test_memory_that_cannot_be_watched_counts_by_its_holes(socket_folder: Path) -> None:
    with attacked(socket_folder, count=64) as (server, client), sparse(TIB) as fd, sparse(MIB) as full:
        reading = os.open(f"/proc/self/fd/{fd}", os.O_RDONLY)
        most = limit(server, "filled_bytes")["limit"]
        client.map_dma(reading, 0, IOVA, most // 2, DmaFlags.READ)
        assert limit(server, "filled_bytes")["used"] == most // 2
        for iova in (IOVA + most, IOVA + 2 * most):
            with pytest.raises(RequestRefusedError, match="No space left"):
                client.map_dma(reading, 0, iova, 2 * most, DmaFlags.READ)
        os.close(reading)
        os.pwrite(full, b"\1" * MIB, 0)
        reading = os.open(f"/proc/self/fd/{full}", os.O_RDONLY)
        client.map_dma(reading, 0, IOVA + most, MIB, DmaFlags.READ)
        os.close(reading)
        assert limit(server, "filled_bytes")["used"] == most // 2, "no holes, no limit"
        until(lambda: any("limit of filled bytes" in line for line in server.errors), "a line that names the limit")


def test_memory_in_the_place_of_a_cut_file(socket_folder: Path) -> None:
    """What the device writes where the file has ended takes memory of its own, of which little is kept."""
    with serve("--socket", str(socket_folder / "s"), "--count", "64") as server, ExitStack() as stack:
        client = Encrypting(server.paths[0], stack)
        size = 128 * MIB
        fd = stack.enter_context(sparse(size))
        client.function.map_dma(fd, 0, IOVA, size)
        os.ftruncate(fd, 0)
        before = server.status_field("RssAnon")
        for _ in range(2):
            assert client.encrypt(IOVA, IOVA, size) == AesStatus.SUCCESS
        # 8192 single pages at most, then what Limits.scratch_bytes says
        assert (server.status_field("RssAnon") - before) * 1024 < 8192 * PAGE + Limits.of(64).scratch_bytes + 16 * MIB


def list_of_one_block(blocks: int, block: int, where: int) -> bytes:
    """Segments, to lie at `where`, of a list that names the same 16 bytes again and again."""
    full, data = SGL_DESCRIPTORS_PER_SEGMENT, SGL_DESCRIPTORS_PER_SEGMENT - 1
    segments = []
    while blocks > full:
        blocks -= data
        where += PAGE
        length, kind = (PAGE, SglType.SEGMENT) if blocks > full else (blocks * 16, SglType.LAST_SEGMENT)
        segments.append(descriptor(block, 16) * data + descriptor(where, length, kind))
    return b"".join(segments) + descriptor(block, 16) * blocks


def test_long_lists_leave_no_memory_behind(socket_folder: Path) -> None:
    with serve("--socket", str(socket_folder / "s")) as server, ExitStack() as stack:
        client = Encrypting(server.paths[0], stack)
        block, text, lists = IOVA, IOVA + TIB, IOVA + 2 * TIB
        segments = list_of_one_block(MANY_BLOCKS, block, lists)
        for iova, size in ((block, PAGE), (text, MANY_BLOCKS * 16), (lists, len(segments) + PAGE)):
            fd = stack.enter_context(sparse(size))
            if iova == lists:
                os.pwrite(fd, segments, 0)
            client.function.map_dma(fd, 0, iova, size)
        before = server.status_field("RssAnon")
        source = descriptor(lists, PAGE, SglType.SEGMENT)
        assert client.encrypt_list(source, text, MANY_BLOCKS * 16) == AesStatus.SUCCESS
        assert (server.status_field("RssAnon") - before) * 1024 < MANY_BLOCKS * 24 // 4, "a piece takes 24 bytes"


def connection(server: ServeProcess, index: int) -> socket.socket:
    client = socket.socket(socket.AF_UNIX)
    client.settimeout(HANG_S)
    client.connect(os.fspath(server.paths[index]) + SUFFIX)
    return client


def first_answer(client: socket.socket) -> ControlAnswer | None:
    """To a request for the status, or to coming in; None: the connection has ended."""
    with suppress(ConnectionError):  # it has been told, and hung up on
        client.sendall(b'{"command":"status"}\n')
    with client.makefile("rb") as lines:
        return ControlAnswer.decode(line) if (line := lines.readline()) else None


def test_control_connections(socket_folder: Path) -> None:
    with serve("--socket", str(socket_folder / "s"), "--count", "2") as server, ExitStack() as stack:
        for _ in range(MAX_CONTROL_CONNECTIONS):
            held = stack.enter_context(connection(server, 0))
            found = first_answer(held)
            assert found is not None
            status = found.result
            assert status is not None
        assert status["limits"]["control_connections"] == {
            "used": MAX_CONTROL_CONNECTIONS,
            "limit": MAX_CONTROL_CONNECTIONS,
        }
        for _ in range(2):
            with connection(server, 0) as more:
                found = first_answer(more)
                assert found is not None
                assert found.error_code == ControlErrorCode.TOO_MANY_CONNECTIONS
                assert "limit of control connections" in found.message
        with ControlClient(server.paths[0], HANG_S) as more, pytest.raises(ControlError) as caught:
            more.status()
        assert str(caught.value) == f"{ControlErrorCode.TOO_MANY_CONNECTIONS}: {found.message}"
        assert server.status(1)["limits"]["control_connections"]["used"] == 1
        until(lambda: any("limit of control connections" in line for line in server.errors), "a line about it")
        assert sum("limit of control connections" in line for line in server.errors) == 1
        held.close()

        def admitted() -> bool:
            with connection(server, 0) as another:
                found = first_answer(another)
            return found is not None and found.result is not None

        until(admitted, "a place that is free again")
