# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Discovery of sockets, and of PCI functions through an emulated udev."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Any

import pytest

from ihsm.bus import discovery
from ihsm.bus.discovery import FoundFunction, find_all, find_nodes, find_pci, find_sockets
from ihsm_abi import sockets


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


class UdevDevice:
    """What discovery reads of a pyudev.Device, over a folder that stands for sysfs."""

    def __init__(self, path: Path, driver: str | None, device_node: str | None = None) -> None:
        self.sys_path, self.sys_name = os.fspath(path), path.name
        self.driver, self.device_node = driver, device_node


class UdevContext:
    def __init__(self, devices: list[UdevDevice], children: list[UdevDevice]) -> None:
        self.devices, self.children = devices, children
        self.asked: dict[str, str] = {}

    def list_devices(self, **criteria: Any) -> Any:
        if "parent" in criteria:
            return self.children
        return self

    def match_property(self, name: str, value: str) -> list[UdevDevice]:
        self.asked[name] = value
        return self.devices


def test_pci_functions_carry_driver_group_and_nodes(tmp_path: Path) -> None:
    paths = [tmp_path / "0000:00:05.0", tmp_path / "0000:00:04.0"]
    for path in paths:
        path.mkdir()
    (tmp_path / "7").mkdir()
    (paths[1] / "iommu_group").symlink_to(tmp_path / "7")
    context = UdevContext(
        [UdevDevice(paths[0], None), UdevDevice(paths[1], "vfio-pci")], [UdevDevice(tmp_path / "n", None, "/dev/n0")]
    )
    found = find_pci(context)  # type: ignore[arg-type]
    assert context.asked == {"PCI_ID": "1414:C003"}
    assert [function.uri for function in found] == ["pci:0000:00:04.0", "pci:0000:00:05.0"]
    assert (found[0].driver, found[0].iommu_group, found[0].nodes) == ("vfio-pci", 7, ("/dev/n0",))
    assert found[0].record()["nodes"] == ["/dev/n0"]


def test_the_real_udev_answers() -> None:
    assert isinstance(find_pci(), list)


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
