# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Fixtures: a kernel whose time the test moves, and one with a fake function on its bus."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from ihsm_kmod.kernel.clock import StillClock
from ihsm_kmod.kernel.kernel import Kernel
from ihsm_kmod.kernel.pci import pci_unregister_driver
from support.fake_function import FakeFunction
from support.pci_drivers import Bench, running


@pytest.fixture
def clock() -> StillClock:
    return StillClock()


@pytest.fixture
def kernel(clock: StillClock) -> Iterator[Kernel]:
    """A kernel, of which no thread is left when the test is over."""
    before = set(threading.enumerate())
    kernel = Kernel(clock)
    yield kernel
    kernel.close()
    assert set(threading.enumerate()) <= before


@pytest.fixture
def bench() -> Iterator[Bench]:
    """The function has a driver that has only said how it addresses memory."""
    with FakeFunction() as function, running() as kernel:
        bench = Bench(kernel, function)
        yield bench
        bench.run(pci_unregister_driver, bench.driver)
