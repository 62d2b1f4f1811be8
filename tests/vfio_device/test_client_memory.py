# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""A client that writes to private copies of its memory is told so, and the controller does not become ready."""

from __future__ import annotations

import mmap
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from ihsm.bus import VfioUserFunction
from ihsm_abi.registers import Register
from ihsm_device import client_memory
from ihsm_device.client_memory import ClientMemory, private_files
from ihsm_device.vfu import DmaRegion
from support.polled import PolledDriver
from support.process import serve

IOVA = 0x7000_0000_0000
BYTES = 16 << 12
MAPS = b"""\
7f0000000000-7f0000100000 rw-p 00000000 00:01 17 /memfd:guest (deleted)
7f0000200000-7f0000300000 rw-p 00000000 00:01 18 /memfd:both ways (deleted)
7f0000400000-7f0000500000 rw-s 00000000 00:01 18 /memfd:both ways (deleted)
7f0000600000-7f0000700000 rw-s 00000000 00:1a 17 /dev/shm/shared
7f0000800000-7f0000900000 r--p 00000000 fe:00 99 /usr/lib/read only.so
7f0000a00000-7f0000b00000 rw-p 00000000 00:00 0
7f0000c00000-7f0000d00000 rw-p 00001000 103:05 7 /data
7ffc00000000-7ffc00100000 rw-p 00000000 00:00 0 [stack]
"""


def test_files_mapped_private_and_nowhere_shared() -> None:
    assert private_files(MAPS) == {(os.makedev(0, 1), 17), (os.makedev(0x103, 5), 7)}


def enable(driver: PolledDriver, asq: int) -> None:
    driver.write(Register.AQA, 0x0007_0007)
    driver.write(Register.ASQ, asq, 8)
    driver.write(Register.ACQ, asq + 0x1000, 8)
    driver.write(Register.CC, 1)


@pytest.mark.parametrize("kind", ["memfd", "tmpfs"])
@pytest.mark.parametrize(
    ("rings", "later"),
    [("private", False), ("shared", False), ("shared", True)],
    ids=["all memory", "some memory", "memory plugged in while ready"],
)
def test_share_off(socket_folder: Path, kind: str, rings: str, later: bool) -> None:
    """QEMU passes the file in any case. One region is enough: buffers may lie there though the rings do not."""
    folder = Path("/dev/shm")
    if kind == "tmpfs" and not folder.is_dir():
        pytest.skip("no /dev/shm")
    fd = os.memfd_create("guest") if kind == "memfd" else os.open(folder, os.O_TMPFILE | os.O_RDWR)
    os.ftruncate(fd, BYTES)
    private = mmap.mmap(fd, BYTES, flags=mmap.MAP_PRIVATE)
    private[:] = b"\1" * BYTES
    with serve("--socket", str(socket_folder / "s")) as server:
        with VfioUserFunction(server.paths[0]) as function:
            arena = function.allocate_arena(BYTES)
            driver = PolledDriver(function)
            driver.enable()
            if later:
                function.map_dma(fd, 0, IOVA, BYTES)
                driver.create_pair(1)
            driver.disable()
            if not later:
                function.map_dma(fd, 0, IOVA, BYTES)
            enable(driver, IOVA if rings == "private" else arena.allocate_pages(0x2000).iova)
            assert driver.csts == 0
            function.unmap_dma(IOVA, BYTES)
            driver.enable()
        assert server.stop() == 0
    assert sum("share=on" in line and hex(IOVA) in line for line in server.errors) == 1 + later
    private.close()
    os.close(fd)


def region(number: int) -> DmaRegion:
    return DmaRegion(number << 12, 0x1000, True, (os.makedev(0, 1), number))


@pytest.fixture
def client() -> Iterator[socket.socket]:
    """A connection of this process's with itself."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours


def test_nothing_is_said_without_evidence(client: socket.socket) -> None:
    memory = ClientMemory()
    memory.mapped(region(1))
    assert memory.private_address(None) is None, "nobody is there"
    assert memory.private_address(client) is None


def test_nothing_is_said_of_a_client_that_is_gone(socket_folder: Path) -> None:
    code = "import socket, sys; socket.socket(socket.AF_UNIX).connect(sys.argv[1])"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(os.fspath(socket_folder / "s"))
        listener.listen()
        subprocess.run([sys.executable, "-c", code, socket_folder / "s"], check=True)
        connection, _ = listener.accept()
    memory = ClientMemory()
    memory.mapped(region(1))
    with connection:
        assert memory.private_address(connection) is None


def test_a_look_that_takes_too_long_is_left_behind(monkeypatch: pytest.MonkeyPatch, client: socket.socket) -> None:
    """The kernel may wait for the client; the function goes on, and looks no second time meanwhile."""
    go_on = threading.Event()
    looks = []

    def stuck(maps: bytes) -> set[tuple[int, int]]:
        looks.append(maps)
        go_on.wait()
        return {(os.makedev(0, 1), 1)}

    monkeypatch.setattr(client_memory, "LOOK_TIMEOUT_S", 0.01)
    monkeypatch.setattr(client_memory, "private_files", stuck)
    memory = ClientMemory()
    memory.mapped(region(1))
    assert memory.private_address(client) is None
    assert memory.private_address(client) is None
    go_on.set()
    assert len(looks) == 1
