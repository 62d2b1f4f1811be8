# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""What tests of hosts ask a served device for: whether it works, and is the one of before."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

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
