# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""The commands against a real device: output, JSON, exit status, and one clear line when something is wrong."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path

import pytest

from ihsm.bus import VfioUserFunction
from ihsm.embedded import EmbeddedDevice
from ihsm.uri import DEVICE_VARIABLE
from ihsm_abi.sockets import default_folder
from support.commands import run, uri


def test_info(device: EmbeddedDevice) -> None:
    result = run("info", "--device", uri(device), "--json")
    assert result.exit_code == 0, result.output
    record = json.loads(result.output)
    assert record["uri"] == uri(device)
    assert record["pci"]["id"] == "1414:c003"
    assert record["pci"]["bars"] == {"0": 4096, "2": 4096, "4": 4096}
    assert record["pci"]["serial_number"] == record["controller"]["identity"]["serial_number"]
    assert record["queues"] == {"hsm": 2, "aes": 4, "aes_gcm_workaround": True}
    assert record["hsm"]["tables"] == 2
    assert any("MSI-X" in entry for entry in record["pci"]["capabilities"])


def test_info_as_a_table_and_polled(device: EmbeddedDevice) -> None:
    result = run("info", "--device", uri(device), "--poll")
    assert result.exit_code == 0, result.output
    assert "controller.identity.firmware_revision" in result.output


def test_status(device: EmbeddedDevice) -> None:
    result = run("status", "--device", uri(device), "--json")
    assert result.exit_code == 0, result.output
    record = json.loads(result.output)
    assert record["pid"] == device.pid
    assert record["module"]["state"] == "fresh"
    assert record["module"]["self_tests"] == {"passed": True, "failed": []}
    assert record["module"]["sessions"] == {}
    assert record["module"]["vault"]["entries"] == 0
    table = run("status", "--device", uri(device))
    assert table.exit_code == 0
    assert f"pid{' ' * 10}" in table.output


def test_list_and_auto(device: EmbeddedDevice) -> None:
    link = default_folder() / "0.sock"
    assert run("list").output == "no device found\n"
    assert json.loads(run("list", "--json").output) == []
    os.link(device.socket_path, link)
    found = json.loads(run("list", "--json").output)
    usual = {"uri": f"vfio-user:{link}", "driver": None, "iommu_group": None, "nodes": [], "holder": None}
    assert found == [usual | {"listening": True}]
    link.unlink()
    with socket.socket(socket.AF_UNIX) as gone:
        gone.bind(os.fspath(link))
        assert json.loads(run("list", "--json").output) == [usual | {"listening": False}]
        assert "nobody listens" in run("list").output


def test_who_has_a_device_is_told(device: EmbeddedDevice) -> None:
    os.link(device.socket_path, default_folder() / "0.sock")
    os.link(f"{device.socket_path}.ctl", default_folder() / "0.sock.ctl")
    assert json.loads(run("status", "--device", uri(device), "--json").output)["client"] is None
    with VfioUserFunction(device.socket_path):
        client = json.loads(run("status", "--device", uri(device), "--json").output)["client"]
        assert (client["pid"], client["name"]) == (os.getpid(), Path("/proc/self/comm").read_text().strip())
        assert json.loads(run("list", "--json").output)[0]["holder"]["pid"] == os.getpid()
        assert f"in use by process {os.getpid()} (" in run("list").output
        result = run("info", "--device", uri(device))
        assert result.exit_code == 4
        assert f"is in use by process {os.getpid()} (" in result.output


def test_the_variable_names_the_device(device: EmbeddedDevice, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(DEVICE_VARIABLE, uri(device))
    for command in ("info", "status", "init"):
        result = run(command, "--json")
        assert result.exit_code == 0, result.output
    assert json.loads(run("info", "--json").output)["uri"] == uri(device)
    monkeypatch.setenv(DEVICE_VARIABLE, "usb:3")
    assert json.loads(run("info", "--device", uri(device), "--json").output)["uri"] == uri(device)
    for command in (["info"], ["status"], ["init", "--store", "other"], ["selftest"]):
        result = run(*command)
        assert result.exit_code == 2, result.output
        assert f"environment variable {DEVICE_VARIABLE}: device URI 'usb:3'" in result.output


@pytest.mark.parametrize("command", ["info", "init", "selftest"])
def test_a_busy_device_is_waited_for(command: str, device: EmbeddedDevice) -> None:
    """Until the time is over; then the message says who has it."""
    with VfioUserFunction(device.socket_path):
        result = run(command, "--device", uri(device), "--wait", "0.01")
    assert result.exit_code == 4, result.output
    assert f"is in use by process {os.getpid()} (" in result.output
    assert "--wait SECONDS" in result.output
    assert run("info", "--device", uri(device), "--wait", "1000").exit_code == 0


@pytest.mark.parametrize("command", ["bench", "info", "init", "selftest", "status"])
@pytest.mark.parametrize("wait", ["nan", "-1", "soon", "inf"])
def test_no_time_to_wait(command: str, wait: str) -> None:
    result = run(command, "--wait", wait)
    assert result.exit_code == 2, result.output
    assert "--wait" in result.output


@pytest.mark.parametrize(
    ("arguments", "status", "text"),
    [
        (("info", "--device", "usb:3"), 2, "vfio-user:PATH, pci:BDF, chardev:PATH or auto expected"),
        (("info", "--device", "vfio-user:/none.sock"), 3, "No such file"),
        (("info", "--device", "pci:ffff:ff:1f.7"), 3, "no such PCI function"),
        (("status", "--device", "vfio-user:/none.sock"), 3, "No such file"),
        (("status", "--device", "pci:ffff:ff:1f.7"), 3, "no such PCI function"),
        (("status",), 3, "no device found"),
        (("dance",), 2, "No such command"),
        (("--log-level", "loud", "list"), 2, "--log-level"),
    ],
)
def test_errors_are_one_line_and_a_status(arguments: tuple[str, ...], status: int, text: str) -> None:
    result = run(*arguments)
    assert result.exit_code == status, result.output
    assert text in result.output
    assert "Traceback" not in result.output
    assert result.output.strip().splitlines()[-1].startswith("Error: ")


def test_version_and_help() -> None:
    assert "version" in run("--version").output
    listing = run("--help").output
    assert all(name in listing for name in ("info", "init", "list", "selftest", "serve", "status", "verify-report"))
