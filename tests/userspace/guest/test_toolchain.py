# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Finding QEMU, a kernel and busybox, and what is said when they are missing."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from bootstrap import layout
from bootstrap import qemu as set_up_qemu
from ihsm.guest import accel, toolchain
from ihsm.guest.errors import KernelNotFoundError, QemuNotFoundError, ToolchainError
from ihsm.guest.kernel import find_kernel


@pytest.fixture
def bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine on which nothing was set up; the folder is its PATH."""
    programs = tmp_path / "bin"
    programs.mkdir()
    monkeypatch.setenv("PATH", str(programs))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv(toolchain.QEMU_VARIABLE, raising=False)
    return programs


def fake_qemu(path: Path, version: str, devices: str = "", status: int = 0) -> Path:
    """A program that answers as a QEMU does when asked for its version and its devices."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        "#!/bin/sh\n"
        f"[ {status} = 0 ] || {{ echo 'cannot run' >&2; exit {status}; }}\n"
        f"case $1 in --version) echo 'QEMU emulator version {version} (Debian)';; -device) echo '{devices}';; esac\n"
    )
    path.chmod(0o755)
    return path


WITH = 'name "vfio-user-pci", bus PCI, desc "VFIO over socket PCI device assignment"'


def test_no_qemu_at_all(bare: Path) -> None:
    with pytest.raises(QemuNotFoundError, match="not found; scripts/setup provides one"):
        toolchain.find_qemu()


def test_a_qemu_that_is_too_old_is_named_with_its_version(bare: Path) -> None:
    old = fake_qemu(bare / toolchain.QEMU_PROGRAM, "7.2.22", 'name "vfio-pci", bus PCI')
    with pytest.raises(QemuNotFoundError, match=r"version 7\.2\.22 has no device vfio-user-pci.* QEMU 10\.1") as caught:
        toolchain.find_qemu()
    assert str(old) in str(caught.value)


def test_the_private_qemu_is_taken_when_the_one_on_path_is_too_old(bare: Path) -> None:
    fake_qemu(bare / toolchain.QEMU_PROGRAM, "7.2.22")
    for version in ("9.2.0", "11.1.3", "10.1.0"):
        fake_qemu(toolchain.cache_root() / "qemu" / version / "bin" / toolchain.QEMU_PROGRAM, version, WITH)
    found = toolchain.find_qemu()
    assert found.version == (11, 1, 3)
    assert found.version_text == "11.1.3"
    assert found.program.is_relative_to(toolchain.cache_root())


def test_a_named_qemu_wins_and_is_not_replaced_by_another(bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_qemu(bare / toolchain.QEMU_PROGRAM, "11.1.3", WITH)
    named = fake_qemu(bare / "other", "10.1.0", WITH)
    monkeypatch.setenv(toolchain.QEMU_VARIABLE, str(named))
    assert toolchain.find_qemu().program == named
    fake_qemu(named, "10.1.0", status=3)
    with pytest.raises(QemuNotFoundError, match="other --version: cannot run"):
        toolchain.find_qemu()
    monkeypatch.setenv(toolchain.QEMU_VARIABLE, str(bare / "absent"))
    with pytest.raises(QemuNotFoundError, match="absent: No such file or directory"):
        toolchain.find_qemu()


def test_no_kernel(bare: Path, tmp_path: Path) -> None:
    with pytest.raises(KernelNotFoundError, match="no guest kernel below"):
        find_kernel()
    with pytest.raises(KernelNotFoundError, match="no such kernel image"):
        find_kernel(tmp_path / "absent")
    with pytest.raises(KernelNotFoundError, match="found 0"):
        find_kernel(tmp_path)
    text = tmp_path / "text"
    text.write_text("no kernel")
    with pytest.raises(KernelNotFoundError, match="not a Linux kernel image"):
        find_kernel(text)


def test_busybox_must_be_static(monkeypatch: pytest.MonkeyPatch) -> None:
    assert toolchain.find_busybox() == toolchain.BUSYBOX
    monkeypatch.setattr(toolchain, "BUSYBOX", Path("/bin/sh").resolve())
    with pytest.raises(ToolchainError, match="dynamically linked; install the package busybox-static"):
        toolchain.find_busybox()
    monkeypatch.setattr(toolchain, "BUSYBOX", Path("/nowhere/busybox"))
    with pytest.raises(ToolchainError, match="not found; install the package busybox-static"):
        toolchain.find_busybox()


@pytest.mark.parametrize("cache", [None, "", "/somewhere/else"])
def test_set_up_and_guests_agree_on_where_things_are(monkeypatch: pytest.MonkeyPatch, cache: str | None) -> None:
    monkeypatch.setenv("HOME", "/home/of/tests")
    if cache is None:
        monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    else:
        monkeypatch.setenv("XDG_CACHE_HOME", cache)
    assert toolchain.cache_root() == layout.cache_root()
    assert str(toolchain.cache_root()) == f"{cache or '/home/of/tests/.cache'}/ihsm"


@pytest.mark.parametrize("variables", [{"HOME": ""}, {"HOME": "relative"}, {"HOME": "", "XDG_CACHE_HOME": "relative"}])
def test_set_up_and_guests_agree_on_what_is_no_folder(
    variables: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    for root, kind in ((toolchain.cache_root, ToolchainError), (layout.cache_root, SystemExit)):
        with pytest.raises(kind, match=r"no cache folder: user \d+ has no home; set HOME or XDG_CACHE_HOME"):
            root()


def test_a_user_without_home_has_the_qemu_on_path(bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "")
    on_path = fake_qemu(bare / toolchain.QEMU_PROGRAM, "11.1.3", WITH)
    assert toolchain.find_qemu().program == on_path


@pytest.mark.parametrize("cache", ["/proc/none", "/dev/null/cache"])
def test_a_cache_that_takes_nothing_costs_time_only(cache: str, monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = find_kernel()
    monkeypatch.setenv("XDG_CACHE_HOME", cache)
    assert not toolchain.keep(toolchain.cache_root() / "file", b"data")
    assert kernel.bootable() == kernel.image
    node = Path("/dev/null")
    monkeypatch.setattr(accel, "KVM_NODE", node)
    monkeypatch.setattr(accel, "_boot", lambda qemu, kernel: accel.KvmVerdict(True, "boots"))
    assert accel.kvm_verdict(toolchain.Qemu(Path("/q"), (11, 0)), kernel).works


def test_a_full_cache_keeps_no_half_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, data: bytes) -> None:
        path.touch()
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_bytes", full)
    assert not toolchain.keep(tmp_path / "folder" / "file", b"data")
    assert list((tmp_path / "folder").iterdir()) == []


def test_a_qemu_whose_words_are_no_text_is_refused_in_one_line(bare: Path) -> None:
    program = bare / toolchain.QEMU_PROGRAM
    program.write_bytes(b"#!/bin/sh\nprintf '\\377\\n' >&2; exit 1\n")
    program.chmod(0o755)
    with pytest.raises(QemuNotFoundError, match="--version: \ufffd"):
        toolchain.find_qemu()


def test_set_up_and_guests_want_the_same_qemu() -> None:
    assert (toolchain.QEMU_PROGRAM, toolchain.QEMU_MINIMUM) == (set_up_qemu.PROGRAM, set_up_qemu.MINIMUM)
