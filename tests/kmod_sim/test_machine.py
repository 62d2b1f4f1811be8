# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""A machine: the driver is loaded, functions are plugged in, programs run."""

from __future__ import annotations

import errno
from collections.abc import Iterator

import pytest

from ihsm.bus import VfioUserFunction
from ihsm_kmod.hsm.module import HsmModule
from ihsm_kmod.kernel.clock import StillClock
from ihsm_kmod.kernel.errors import Errno
from ihsm_kmod.machine import Machine
from support.fake_function import FakeFunction
from support.process import ServeProcess, serve
from support.waiting import HANG_S


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServeProcess]:
    with serve("--socket", str(tmp_path_factory.mktemp("machine") / "s"), "--count", "2") as server:
        yield server


def test_a_machine_without_devices() -> None:
    with Machine() as machine:
        assert isinstance(machine.module, HsmModule)
        assert machine.kernel.vfs.listdir("/sys/bus/pci/drivers") == ["azihsm"]
        assert machine.kernel.vfs.listdir("/dev") == []
    assert machine.kernel.reports == []
    machine.close()


def test_functions_have_nodes_and_counters(server: ServeProcess) -> None:
    clock = StillClock()
    with (
        VfioUserFunction(server.paths[0], timeout_s=HANG_S) as first,
        VfioUserFunction(server.paths[1], timeout_s=HANG_S) as second,
        Machine(first, second, clock=clock, panic_on_warn=True, num_hsm_slots=8) as machine,
    ):
        assert machine.clock is clock
        assert [machine.kernel.pci.probe_error(bdf) for bdf in machine.bdfs] == [0, 0]
        assert machine.bdfs == ["0000:00:04.0", "0000:00:05.0"]
        assert machine.kernel.vfs.listdir("/dev") == ["azihsm0", "azihsm1"]
        assert machine.kernel.vfs.read_text("/sys/module/azihsm/parameters/num_hsm_slots") == "8\n"
        program = machine.process("signer")
        assert program.comm == "signer"
        program.close(program.open("/dev/azihsm1"))
    assert machine.kernel.reports == []


def test_a_function_that_the_driver_refuses_is_on_the_bus_all_the_same() -> None:
    with FakeFunction(bars={0: 4096, 2: 8192, 4: 4096}) as function, Machine(function) as machine:
        assert machine.kernel.pci.probe_error(machine.bdfs[0]) == errno.ENOMEM
        assert machine.kernel.vfs.listdir("/dev") == []
    assert machine.kernel.reports == []


def test_a_parameter_that_there_is_not() -> None:
    with pytest.raises(Errno, match="num_hsm_slot"):
        Machine(num_hsm_slot=8)


def test_a_build_is_this_machine_s_own() -> None:
    with Machine() as plain, Machine(quirks={"minor_leaks_at_level_2": False}, test_hooks=True) as other:
        assert [plain.module.test_hooks, other.module.test_hooks] == [False, True]
        assert plain.module.quirks.minor_leaks_at_level_2
        assert not other.module.quirks.minor_leaks_at_level_2
