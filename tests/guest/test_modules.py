# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Modules under test: built, loaded with parameters, and what is told when something goes wrong."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from ihsm.guest.errors import GuestPanicError, GuestTimeoutError, ModuleLoadError
from ihsm.guest.kernel import find_kernel
from ihsm.guest.modbuild import build_modules
from support.guests import MODULES, run_guest

pytestmark = pytest.mark.guest


@pytest.fixture(scope="module")
def probe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The probe module, built for the guest's kernel."""
    (module,) = build_modules(MODULES / "probe", find_kernel(), tmp_path_factory.mktemp("probe"))
    return module


def test_a_source_is_built_and_loaded_and_a_file_gets_its_parameters(probe: Path, tmp_path: Path) -> None:
    second = tmp_path / "second"
    shutil.copytree(MODULES / "probe", second)
    (second / "probe.c").rename(second / "second.c")
    (second / "Kbuild").write_text("obj-m := second.o\n")
    show = "cat /sys/module/probe/parameters/action; ls -d /sys/module/second /sys/module/vfio_pci"
    done = run_guest(show, build=[second], modules=[f"{probe} action=given", "vfio-pci"])
    assert done.out.split() == ["given", "/sys/module/second", "/sys/module/vfio_pci"]


def test_a_module_that_refuses_to_load(probe: Path) -> None:
    with pytest.raises(ModuleLoadError) as caught:
        run_guest("true", modules=[f"{probe} action=refuse"])
    assert str(probe) in str(caught.value)
    assert any("No such device or address" in line for line in caught.value.lines)
    assert any("probe: refuse" in line for line in caught.value.lines)


@pytest.mark.parametrize(
    ("action", "first"), [("panic", "Kernel panic - not syncing: probe: asked to panic"), ("oops", "BUG: kernel NULL")]
)
def test_a_panic_is_shown_from_its_first_line(probe: Path, action: str, first: str) -> None:
    with pytest.raises(GuestPanicError) as caught:
        run_guest("true", modules=[f"{probe} action={action}"])
    assert first in caught.value.console[0]
    assert any("probe_init" in line for line in caught.value.console)
    assert any("Kernel panic" in line for line in caught.value.console)


def test_a_guest_that_hangs_is_ended(probe: Path) -> None:
    hang = "echo 'the last words' > /dev/kmsg; echo 1 > /sys/module/probe/parameters/hang"
    with pytest.raises(GuestTimeoutError, match="no sign of life for 10 s"):
        run_guest(hang, modules=[str(probe)], cpus=1, silence_limit_s=10.0)


def test_a_module_that_never_finishes_loading_meets_the_boot_limit(probe: Path) -> None:
    with pytest.raises(GuestTimeoutError, match="not ready within 15 s"):
        run_guest("true", modules=[f"{probe} action=sleep"], boot_limit_s=15.0)


def test_a_command_that_does_not_end_meets_its_limit_and_shows_what_it_waits_for(probe: Path) -> None:
    hang = f"echo '<2>the last words' > /dev/kmsg; echo said last; /sbin/insmod {probe} action=sleep"
    with pytest.raises(GuestTimeoutError, match="did not end within 15 s") as caught:
        run_guest(hang, command_limit_s=15.0)
    assert any("the last words" in line for line in caught.value.console)
    assert caught.value.output == ("said last",)
    assert any("task:insmod" in line for line in caught.value.blocked)
    assert any("probe_init" in line for line in caught.value.blocked)
    assert "tasks that are blocked:" in str(caught.value)
