# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Hosts: what tests ask a served device for there, and one that is broken for this process alone."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ihsm.bus import VfioUserFunction
from ihsm.ddi import Partition
from ihsm.driver import Controller, DriverOptions
from support.waiting import HANG_S


@contextmanager
def client(path: Path) -> Iterator[Partition]:
    """A client of the function at `path`, which has nobody else meanwhile."""
    with Controller(VfioUserFunction(path, timeout_s=HANG_S), DriverOptions(timeout_s=HANG_S)) as controller:
        yield Partition(controller)


def chain(path: Path) -> bytes:
    """The certificate of the partition at `path`: only a device that works has one, and it is stored with the state."""
    with client(path) as partition:
        return partition.certificate_chain().der[-1]


@contextmanager
def no_threads_here() -> Iterator[None]:
    """This process, and a fork of it for good, is refused every thread meanwhile, in Python's words."""

    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(threading.Thread, "start", refuse)
        yield
