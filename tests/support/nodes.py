# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""The client of a driver's node, over the driver model: its system calls are those of a process of the model."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ihsm.chardev import Calls, NodeDevice
from ihsm.driver import DriverOptions
from ihsm_kmod.kernel.process import Process
from support.hsm_driver import Driver
from support.hsm_program import NODE


def calls_of(process: Process) -> Calls:
    """The model's system calls."""
    return Calls(process.open, process.ioctl, process.close)


def node_of(driver: Driver, process: Process | None = None, path: str = NODE, **options: Any) -> NodeDevice:
    """A client with the node open, as a program of its own, or as one that has it open already."""
    return NodeDevice(path, DriverOptions(**options), calls=calls_of(process or driver.machine.process()))


def open_files(process: Process) -> int:
    """How many files a program has open."""
    return len(process._files)


class PairedCalls:
    """The same with a real descriptor beside each of the model's, which a child of fork() inherits as it is."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self._pid = os.getpid()
        self.pairs: dict[int, int] = {}
        self.calls = Calls(self._open, self._ioctl, self._close)

    def _open(self, path: str) -> int:
        fd = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        self.pairs[fd] = self._process.open(path)
        return fd

    def _ioctl(self, fd: int, number: int, argument: Any) -> int:
        return self._process.ioctl(self.pairs[fd], number, argument)

    def _close(self, fd: int) -> None:
        os.close(fd)
        if os.getpid() == self._pid:
            self._process.close(self.pairs.pop(fd))


@contextmanager
def another(driver: Driver) -> Iterator[NodeDevice]:
    """A second program that has the node open, too."""
    with node_of(driver) as node:
        yield node
