# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Discovery of sockets, and of PCI functions in folders that stand for sysfs."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest
import pyudev

from ihsm.bus import discovery
from ihsm.bus.discovery import FoundFunction, find_all, find_nodes, find_pci, find_sockets
from ihsm_abi import sockets
from ihsm_abi.pci import DEVICE_ID, VENDOR_ID


def test_listening_and_left_over_sockets(tmp_path: Path) -> None:
    live, dead = tmp_path / "0.sock", tmp_path / "1.sock"
    (tmp_path / "2.sock").write_text("no socket")
    (tmp_path / "0.sock.ctl").touch()
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as gone:
        listener.bind(os.fspath(live))
        listener.listen()
        gone.bind(os.fspath(dead))
        assert find_sockets(tmp_path) == [
            FoundFunction(f"vfio-user:{live}"),
            FoundFunction(f"vfio-user:{dead}", listening=False),
        ]
        live.rename(tmp_path / "3.sock")
        assert [found.listening for found in find_sockets(tmp_path)] == [False, True], "it is the file that counts"


@pytest.mark.parametrize("name", [b"\0caf\xe9", b"\0a\n1 2 3 zz 5 6 7 8", b"\0\xff\r\x85\x1c 00010000"])
def test_names_of_other_sockets_do_not_matter(tmp_path: Path, name: bytes) -> None:
    """Names of abstract sockets are any bytes."""
    with socket.socket(socket.AF_UNIX) as other, socket.socket(socket.AF_UNIX) as listener:
        other.bind(name)
        other.listen()
        listener.bind(os.fspath(tmp_path / "0.sock"))
        listener.listen()
        assert find_sockets(tmp_path) == [FoundFunction(f"vfio-user:{tmp_path / '0.sock'}")]


def test_a_served_function_is_not_disturbed(socket_folder: Path) -> None:
    """It is asked at its control socket; its own would make a client of whoever asks."""
    path = socket_folder / "0.sock"
    with socket.socket(socket.AF_UNIX) as function, socket.socket(socket.AF_UNIX) as control:
        for listener, name in ((function, os.fspath(path)), (control, os.fspath(path) + ".ctl")):
            listener.bind(name)
            listener.listen()
            listener.setblocking(False)
        assert find_sockets(socket_folder)[0].listening
        control.accept()[0].close()
        with pytest.raises(BlockingIOError):
            function.accept()


def test_no_folder_no_sockets(tmp_path: Path) -> None:
    assert find_sockets(tmp_path / "none") == []


def test_the_default_folder_follows_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", os.fspath(tmp_path))
    assert sockets.default_path(3) == tmp_path / "ihsm" / "3.sock"
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    assert sockets.default_path(0) == Path(f"/tmp/ihsm-{os.getuid()}/0.sock")
    assert [sockets.numbered_path(Path("/a/f.sock"), n).name for n in range(3)] == ["f.sock", "f.sock.1", "f.sock.2"]


def sysfs_function(root: Path, bdf: str, vendor: int = VENDOR_ID, device: int = DEVICE_ID) -> Path:
    """A PCI function in a folder that stands for sysfs: bus/pci/devices has a link to where it really is."""
    path = root / "devices" / "pci0000:00" / bdf
    path.mkdir(parents=True)
    (path / "vendor").write_text(f"{vendor:#06x}\n")
    (path / "device").write_text(f"{device:#06x}\n")
    (path / "uevent").write_text("PCI_CLASS=108000\n")
    bus = root / "bus"
    bus.mkdir(exist_ok=True)
    (bus / bdf).symlink_to(path)
    return path


def test_pci_functions_carry_driver_group_and_nodes(tmp_path: Path) -> None:
    plain = sysfs_function(tmp_path, "0000:00:05.0")
    driven = sysfs_function(tmp_path, "0000:00:04.0")
    sysfs_function(tmp_path, "0000:00:06.0", device=DEVICE_ID + 1)
    sysfs_function(tmp_path, "0000:00:07.0", vendor=VENDOR_ID + 1)
    (tmp_path / "bus" / "0000:00:08.0").symlink_to(tmp_path / "gone")
    for name in ("groups/7", "drivers/vfio-pci"):
        (tmp_path / name).mkdir(parents=True)
    (driven / "iommu_group").symlink_to(tmp_path / "groups" / "7")
    (driven / "driver").symlink_to(tmp_path / "drivers" / "vfio-pci")
    for name, node in (("class/n1", "sub/n1"), ("class/n0", "n0")):
        (driven / name).mkdir(parents=True)
        (driven / name / "uevent").write_text(f"MAJOR=1\nDEVNAME={node}\n")
    (plain / "power").mkdir()
    first, second = find_pci(tmp_path / "bus")
    assert (first.uri, first.driver, first.iommu_group) == ("pci:0000:00:04.0", "vfio-pci", 7)
    assert first.nodes == ("/dev/n0", "/dev/sub/n1")
    assert first.record()["nodes"] == ["/dev/n0", "/dev/sub/n1"]
    assert second == FoundFunction("pci:0000:00:05.0")


def test_a_machine_without_pci_has_none(tmp_path: Path) -> None:
    assert find_pci(tmp_path / "none") == []


def test_the_real_sysfs_and_udev_agree() -> None:
    asked = pyudev.Context().list_devices(subsystem="pci").match_property("PCI_ID", f"{VENDOR_ID:04X}:{DEVICE_ID:04X}")
    assert [function.uri for function in find_pci()] == sorted(f"pci:{device.sys_name}" for device in asked)


def test_watching_reports_changes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", os.fspath(tmp_path))
    folder = tmp_path / "ihsm"
    folder.mkdir()
    changes = discovery.watch(interval_s=0.01)
    before = next(changes)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(os.fspath(folder / "0.sock"))
        listener.listen()
        after = next(changes)
    assert len(after) == len(before) + 1
    changes.close()


def test_nodes_of_the_driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By name and kind: whoever lists devices opens none."""
    for name in ("azihsm10", "azihsm2", "azihsm-mgmt0", "azihsm", "null"):
        (tmp_path / name).symlink_to("/dev/null")
    (tmp_path / "azihsm3").touch()
    (tmp_path / "azihsm4").symlink_to(tmp_path / "gone")
    found = find_nodes(tmp_path)
    assert [node.uri for node in found] == [f"chardev:{tmp_path}/azihsm2", f"chardev:{tmp_path}/azihsm10"]
    assert {node.driver for node in found} == {"azihsm"}
    assert find_nodes(tmp_path / "none") == []
    function = FoundFunction("pci:0000:00:04.0", driver="azihsm", nodes=("/dev/azihsm-mgmt0", f"{tmp_path}/azihsm10"))
    assert function.hsm_nodes == [f"{tmp_path}/azihsm10"]
    monkeypatch.setattr(discovery, "find_pci", lambda: [function])
    monkeypatch.setattr(discovery, "find_sockets", lambda: [])
    monkeypatch.setattr(discovery, "find_nodes", lambda: found)
    assert find_all() == [function, found[0]], "each once"
