# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""QEMU's command line, and whether KVM is taken."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from ihsm.guest import accel
from ihsm.guest.errors import GuestError
from ihsm.guest.kernel import find_kernel
from ihsm.guest.machine import Accelerator, Channel, Iommu, MachineConfig
from ihsm.guest.toolchain import Qemu, find_qemu


def config(**fields: object) -> MachineConfig:
    base = {"kernel": Path("/k"), "initramfs": Path("/i"), "console": Path("/c,d"), "accelerator": Accelerator.TCG}
    return MachineConfig(**{**base, **fields})  # type: ignore[arg-type]


def value(words: list[str], option: str) -> list[str]:
    return [words[index + 1] for index, word in enumerate(words) if word == option]


def test_memory_is_shared_and_sockets_become_devices() -> None:
    words = config(sockets=(Path("/run/a b.sock"), Path("/run/c.sock")), memory="768M").arguments()
    assert value(words, "-object") == ["memory-backend-memfd,id=ihsm-memory,size=768M,share=on"]
    devices = [json.loads(word) for word in value(words, "-device") if word.startswith("{")]
    assert [device["socket"]["path"] for device in devices] == ["/run/a b.sock", "/run/c.sock"]
    assert {device["driver"] for device in devices} == {"vfio-user-pci"}


@pytest.mark.parametrize(
    ("iommu", "word", "device"),
    [("off", "intel_iommu=off", False), ("pt", "iommu=pt", True), ("on", "iommu=nopt", True)],
)
def test_iommu_modes(iommu: str, word: str, device: bool) -> None:
    words = config(iommu=Iommu(iommu)).arguments()
    assert word in value(words, "-append")[0].split()
    assert any(text.startswith("intel-iommu,caching-mode=on") for text in value(words, "-device")) == device
    assert "split" not in value(words, "-machine")[0]
    kvm = config(iommu=Iommu(iommu), accelerator=Accelerator.KVM).arguments()
    assert ("kernel-irqchip=split" in value(kvm, "-machine")[0]) == device


def test_paths_with_commas_and_line_breaks() -> None:
    words = config(shares=(Path("/a,b"),)).arguments()
    assert value(words, "-chardev")[0] == "file,id=console,path=/c,,d"
    assert "path=/a,,b" in value(words, "-virtfs")[1]
    assert "readonly=on" in value(words, "-virtfs")[0]
    assert "readonly=on" not in value(words, "-virtfs")[1]
    with pytest.raises(GuestError, match="line break"):
        config(shares=(Path("/a\nb"),)).arguments()


def test_debugger_channels_and_further_words() -> None:
    words = config(gdb_port=1234, channels=(Channel("ihsm.control", 7),), extra=("-trace", "x")).arguments()
    assert value(words, "-gdb") == ["tcp:127.0.0.1:1234"]
    assert "-S" in words
    assert "socket,id=ihsm.control,fd=7" in value(words, "-chardev")
    assert words[-2:] == ["-trace", "x"]


def test_what_users_paste() -> None:
    command = [sys.executable, "-m", "ihsm", "qemu-args", "--socket", "/run/x y.sock", "--iommu", "pt"]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    words = json.loads(subprocess.run([*command, "--json"], capture_output=True, text=True, check=True).stdout)
    assert shlex.split(text.replace("\\\n", " ")) == words
    assert json.loads(words[-1])["socket"] == {"type": "unix", "path": "/run/x y.sock"}
    # QEMU itself accepts every word but for the server that is not there.
    qemu = [find_qemu().program, "-display", "none", "-accel", "tcg", *words]
    done = subprocess.run(qemu, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "/run/x y.sock" in done.stderr


class TestKvm:
    """Whether KVM is taken is decided by booting with it, once."""

    @pytest.fixture
    def boots(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[accel.KvmVerdict]:
        """Verdicts that boots give, last first; a node everyone may use."""
        node = tmp_path / "kvm"
        node.touch()
        monkeypatch.setattr(accel, "KVM_NODE", node)
        verdicts: list[accel.KvmVerdict] = []
        monkeypatch.setattr(accel, "_boot", lambda qemu, kernel: verdicts.pop())
        kernel = find_kernel()
        monkeypatch.setattr(accel, "cache_root", lambda: tmp_path / "cache")
        self.known = Qemu(Path("/q"), (11, 0)), kernel
        return verdicts

    def test_a_node_that_boots_nothing_means_tcg(self, boots: list[accel.KvmVerdict]) -> None:
        boots.append(accel.KvmVerdict(False, "no sign of life"))
        assert accel.choose(Accelerator.AUTO, *self.known) is Accelerator.TCG
        with pytest.raises(GuestError, match="no sign of life; --accel tcg"):
            accel.choose(Accelerator.KVM, *self.known)

    def test_the_verdict_is_remembered_until_asked_anew(self, boots: list[accel.KvmVerdict]) -> None:
        boots += [accel.KvmVerdict(False, "later"), accel.KvmVerdict(True, "first")]
        assert accel.choose(Accelerator.AUTO, *self.known) is Accelerator.KVM
        assert accel.choose(Accelerator.KVM, *self.known) is Accelerator.KVM
        assert accel.kvm_verdict(*self.known, fresh=True).reason == "later"

    def test_a_damaged_memory_is_no_verdict(self, boots: list[accel.KvmVerdict], tmp_path: Path) -> None:
        (tmp_path / "cache").mkdir()
        (tmp_path / "cache/kvm.json").write_text('{"key": 3')
        boots.append(accel.KvmVerdict(True, "booted"))
        assert accel.kvm_verdict(*self.known) == accel.KvmVerdict(True, "booted")

    def test_without_a_node_nothing_is_booted(self, boots: list[accel.KvmVerdict]) -> None:
        accel.KVM_NODE.unlink()
        assert not accel.kvm_verdict(*self.known).works
        assert accel.choose(Accelerator.TCG, *self.known) is Accelerator.TCG
