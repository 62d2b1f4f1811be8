# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Device URIs, what `auto` makes of the devices there are, and waiting for one that others have."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ihsm import uri as uri_module
from ihsm.bus import VfioUserFunction, vfio_user_wire
from ihsm.bus.discovery import FoundFunction, find_all
from ihsm.bus.holder import Holder, find_holder
from ihsm.bus.vfio_bind import GUEST_VARIABLE
from ihsm.embedded import EmbeddedDevice
from ihsm.errors import (
    AmbiguousDeviceError,
    ArgumentError,
    ArgumentTypeError,
    BindError,
    DeviceBusyError,
    DeviceNotFoundError,
    UriError,
)
from ihsm.uri import (
    DEVICE_VARIABLE,
    DeviceUri,
    Scheme,
    choose_device,
    find_device,
    named_device,
    open_config,
    open_controller,
    open_function,
    open_uri,
)
from support.waiting import HANG_S, ended


@pytest.mark.parametrize(
    ("text", "scheme", "address"),
    [
        ("vfio-user:/run/x.sock", Scheme.VFIO_USER, "/run/x.sock"),
        ("vfio-user:a:b", Scheme.VFIO_USER, "a:b"),
        ("pci:0000:00:04.0", Scheme.PCI, "0000:00:04.0"),
        ("pci:0A:1f.7", Scheme.PCI, "0000:0a:1f.7"),
        ("chardev:/dev/azihsm0", Scheme.CHARDEV, "/dev/azihsm0"),
    ],
)
def test_good_uris(text: str, scheme: Scheme, address: str) -> None:
    uri = DeviceUri.parse(text)
    assert (uri.scheme, uri.address) == (scheme, address)
    assert DeviceUri.parse(str(uri)) == uri


@pytest.mark.parametrize(
    "text",
    ["", "auto", "usb:1", "vfio-user:", "pci:", "chardev:", "chardev:a\0b", "pci:00:20.0", "pci:00:04.8", "pci:xyz"],
)
def test_bad_uris(text: str) -> None:
    with pytest.raises(UriError):
        DeviceUri.parse(text)


@given(st.text(max_size=40))
def test_any_text_is_a_uri_or_an_error(text: str) -> None:
    with contextlib.suppress(UriError):
        assert str(DeviceUri.parse(text))


def test_auto(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", os.fspath(tmp_path))
    monkeypatch.setattr("ihsm.bus.discovery.find_pci", lambda: [])
    folder = tmp_path / "ihsm"
    folder.mkdir()
    assert find_device() is None
    with socket.socket(socket.AF_UNIX) as first, socket.socket(socket.AF_UNIX) as second:
        first.bind(os.fspath(folder / "0.sock"))
        first.listen()
        assert str(find_device()) == f"vfio-user:{folder}/0.sock"
        second.bind(os.fspath(folder / "1.sock"))
        assert str(find_device()) == f"vfio-user:{folder}/0.sock"  # nobody listens on the second yet
        second.listen()
        with pytest.raises(AmbiguousDeviceError, match=r"2 devices found.*0\.sock, .*1\.sock") as caught:
            find_device()
        assert len(caught.value.uris) == 2


def test_auto_takes_nothing_of_others(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A PCI function has to be named, but in a guest that this user started; so has a socket of another user."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", os.fspath(tmp_path))
    monkeypatch.delenv(GUEST_VARIABLE, raising=False)
    monkeypatch.setattr("ihsm.bus.discovery.find_pci", lambda: [FoundFunction("pci:0000:00:04.0")])
    with pytest.raises(DeviceNotFoundError, match=r"did not start.*--device: pci:0000:00:04\.0"), open_function():
        pass
    assert not caplog.messages
    folder = tmp_path / "ihsm"
    folder.mkdir()
    with socket.socket(socket.AF_UNIX) as served:
        served.bind(os.fspath(folder / "0.sock"))
        served.listen()
        assert str(find_device()) == f"vfio-user:{folder}/0.sock"
        assert caplog.messages == [f"auto: taking vfio-user:{folder}/0.sock"]
        uid = os.geteuid()
        monkeypatch.setattr("os.geteuid", lambda: uid + 1)
        with pytest.raises(DeviceNotFoundError, match=r"pci:0000:00:04\.0, vfio-user:.*0\.sock"):
            find_device()
    (folder / "0.sock").unlink()
    monkeypatch.setenv(GUEST_VARIABLE, "1")
    assert str(find_device()) == "pci:0000:00:04.0"


def test_auto_says_that_it_started_a_device(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", os.fspath(tmp_path))
    monkeypatch.setattr("ihsm.bus.discovery.find_pci", lambda: [])
    with open_function() as function:
        assert function.bar_bytes(0) == 4096
    assert any("a private one" in message for message in caplog.messages)


def test_what_is_not_there_is_not_opened(tmp_path: Path) -> None:
    with pytest.raises(DeviceNotFoundError), open_function(f"vfio-user:{tmp_path}/none"):
        pass
    with pytest.raises((DeviceNotFoundError, BindError), match=r"pci:ffff:ff:1f\.7"), open_function("pci:ffff:ff:1f.7"):
        pass


@pytest.fixture
def folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The default folder, with nothing in it; no PCI function and no variable either."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", os.fspath(tmp_path))
    monkeypatch.delenv(DEVICE_VARIABLE, raising=False)
    monkeypatch.delenv(GUEST_VARIABLE, raising=False)
    monkeypatch.setattr("ihsm.bus.discovery.find_pci", lambda: [])
    made = tmp_path / "ihsm"
    made.mkdir()
    return made


@pytest.fixture(scope="module")
def device() -> Iterator[EmbeddedDevice]:
    with EmbeddedDevice(count=2) as made:
        yield made


@pytest.fixture
def served(device: EmbeddedDevice, folder: Path) -> list[Path]:
    """Two functions in the default folder."""
    paths = []
    for number, path in enumerate(device.socket_paths):
        paths.append(folder / f"{number}.sock")
        for ending in ("", ".ctl"):
            os.link(f"{path}{ending}", f"{paths[-1]}{ending}")
    return paths


def test_the_order_of_what_is_taken(served: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """What is given, the variable, the store's own, the one found, none."""
    served[1].unlink()
    own = DeviceUri(Scheme.VFIO_USER, "/own.sock")
    monkeypatch.setenv(DEVICE_VARIABLE, "pci:0000:00:05.0")
    assert str(choose_device("vfio-user:/given.sock", own=own)) == "vfio-user:/given.sock"
    assert str(choose_device(own=own)) == "pci:0000:00:05.0"
    for nothing in ("", "auto"):
        monkeypatch.setenv(DEVICE_VARIABLE, nothing)
        assert choose_device(own=own) == own
        assert named_device() is None
    monkeypatch.delenv(DEVICE_VARIABLE)
    assert choose_device(own=own) == own
    assert str(choose_device()) == f"vfio-user:{served[0]}"
    served[0].unlink()
    assert choose_device() is None


@pytest.mark.parametrize("value", ["usb:3", "/run/x.sock", "pci:1", " ", "AUTO"])
def test_a_bad_value_of_the_variable_is_named(value: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(DEVICE_VARIABLE, value)
    with pytest.raises(UriError, match=f"environment variable {DEVICE_VARIABLE}: device URI {value!r}"):
        choose_device(own=DeviceUri(Scheme.VFIO_USER, "/own.sock"))
    assert str(choose_device("vfio-user:/given.sock")) == "vfio-user:/given.sock"


def test_the_variable_s_device_is_opened(device: EmbeddedDevice, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(DEVICE_VARIABLE, f"vfio-user:{device.socket_path}")
    with open_function() as function:
        assert function.uri == f"vfio-user:{device.socket_path}"
    monkeypatch.setenv(DEVICE_VARIABLE, f"vfio-user:{folder}/none.sock")
    with pytest.raises(DeviceNotFoundError, match=r"none\.sock"), open_function():
        pass


def test_a_device_that_others_have_is_passed_over(served: list[Path], caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(AmbiguousDeviceError):
        find_device()
    for held, free in (served, served[::-1]):
        with VfioUserFunction(held):
            assert str(find_device()) == f"vfio-user:{free}"
            assert caplog.messages[-1] == f"auto: taking vfio-user:{free}"
            with pytest.raises(AmbiguousDeviceError):
                find_device(busy=True)
    with VfioUserFunction(served[0]), VfioUserFunction(served[1]):
        who = rf"in use by process {os.getpid()} \("
        with pytest.raises(DeviceBusyError, match=rf"0\.sock is {who}.*1\.sock is {who}.*--wait"):
            find_device()
        with pytest.raises(DeviceBusyError, match=who), open_function():
            pass
        with pytest.raises(AmbiguousDeviceError):
            choose_device(busy=True)
        served[1].unlink()
        assert str(choose_device(busy=True)) == f"vfio-user:{served[0]}"


def test_a_function_with_another_driver_is_not_free(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(GUEST_VARIABLE, "1")
    found = [FoundFunction("pci:0000:00:04.0", driver="azihsm")]
    monkeypatch.setattr("ihsm.bus.discovery.find_pci", lambda: found)
    with pytest.raises(DeviceBusyError, match=r"pci:0000:00:04\.0 is in use by the driver azihsm"):
        find_device()
    found.append(FoundFunction("pci:0000:00:05.0", driver="vfio-pci"))
    assert str(find_device()) == "pci:0000:00:05.0"


def test_a_private_device_is_started_only_where_that_is_allowed(folder: Path) -> None:
    with (
        pytest.raises(DeviceNotFoundError, match=rf"ihsm serve.*--device or {DEVICE_VARIABLE}"),
        open_function(private=False),
    ):
        pass
    with pytest.raises(DeviceNotFoundError), open_controller(private=False):
        pass


class Waiter(threading.Thread):
    """Opens a device in a thread, which ends when it has been open."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(daemon=True)
        self._arguments, self._options = arguments, options
        self.uris: list[str] = []
        self.start()

    def run(self) -> None:
        with open_function(*self._arguments, **self._options) as function:
            assert function.read_bar(0, 0, 8)
            self.uris.append(function.uri)


def test_a_busy_device_is_waited_for(device: EmbeddedDevice, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever waits has been told that it is busy, and gets it as soon as it is free."""
    asked = threading.Event()

    def ask(path: str) -> Holder | None:
        asked.set()
        return find_holder(path)

    monkeypatch.setattr(vfio_user_wire, "find_holder", ask)
    with VfioUserFunction(device.socket_path):
        waiter = Waiter(f"vfio-user:{device.socket_path}", wait_s=HANG_S)
        assert asked.wait(HANG_S)
        assert not waiter.uris
    ended(waiter)
    assert waiter.uris == [f"vfio-user:{device.socket_path}"]


def test_auto_waits_for_whichever_becomes_free(served: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uri_module, "RETRY_S", 0.001)
    functions = [VfioUserFunction(path) for path in served]
    looked = threading.Event()

    def look() -> list[FoundFunction]:
        found = find_all()
        looked.set()
        return found

    monkeypatch.setattr("ihsm.bus.discovery.find_all", look)
    waiter = Waiter(wait_s=HANG_S)
    assert looked.wait(HANG_S)
    assert not waiter.uris
    functions[1].close()
    ended(waiter)
    assert waiter.uris == [f"vfio-user:{served[1]}"]
    functions[0].close()


def test_the_holder_is_named_when_the_time_is_over(device: EmbeddedDevice) -> None:
    with VfioUserFunction(device.socket_path):
        who = rf"in use by process {os.getpid()} \(.+\) since .*--wait SECONDS"
        for open_it in _openings(f"vfio-user:{device.socket_path}", 0.01):
            with pytest.raises(DeviceBusyError, match=who):
                open_it()


def test_one_who_waits_is_refused_whoever_has_it_in_the_end(
    socket_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The function may have gone to another client since; without the wait that one would have been one to wait for."""
    later = Holder(77, "other", datetime(9999, 1, 1, tzinfo=UTC))
    monkeypatch.setattr(vfio_user_wire, "find_holder", lambda path: later)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(os.fspath(socket_folder / "a.sock"))
        listener.listen()
        with pytest.raises(DeviceBusyError, match="in use by process 77"):
            VfioUserFunction(socket_folder / "a.sock", timeout_s=HANG_S, wait_s=0.01)


def test_a_pci_function_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[str] = []

    class Stub:
        def __init__(self, bdf: str) -> None:
            tried.append(bdf)
            if len(tried) < 4:
                raise DeviceBusyError(f"pci:{bdf} is in use by process 1 (x)")

    monkeypatch.setattr(uri_module, "RETRY_S", 0.0)
    monkeypatch.setattr("ihsm.bus.vfio_kernel.KernelVfioFunction", Stub)
    pci = DeviceUri.parse("pci:0000:00:04.0")
    with pytest.raises(DeviceBusyError, match="process 1"):
        open_uri(pci)
    assert len(tried) == 1
    assert isinstance(open_uri(pci, wait_s=HANG_S), Stub)
    assert tried == ["0000:00:04.0"] * 4


@pytest.mark.parametrize("wait_s", [float("nan"), -0.001, -float("inf")])
def test_no_time_to_wait(wait_s: float, device: EmbeddedDevice) -> None:
    for open_it in _openings(f"vfio-user:{device.socket_path}", wait_s):
        with pytest.raises(ArgumentError, match="wait_s"):
            open_it()


def test_a_time_is_a_number(device: EmbeddedDevice) -> None:
    text: Any = "1"
    for open_it in _openings(f"vfio-user:{device.socket_path}", text):
        with pytest.raises(ArgumentTypeError, match="wait_s"):
            open_it()


def test_a_free_device_is_had_at_once_however_long_one_would_wait(device: EmbeddedDevice) -> None:
    for open_it in _openings(f"vfio-user:{device.socket_path}", float("inf")):
        open_it()


def _openings(text: str, wait_s: float) -> list[Callable[[], None]]:
    """Every way to open a device, and to close it again."""

    def function() -> None:
        with open_function(text, wait_s=wait_s):
            pass

    def controller() -> None:
        with open_controller(text, wait_s=wait_s):
            pass

    return [
        function,
        controller,
        lambda: open_uri(DeviceUri.parse(text), wait_s=wait_s).close(),
        lambda: VfioUserFunction(text.removeprefix("vfio-user:"), wait_s=wait_s).close(),
    ]


def test_auto_takes_no_node(monkeypatch: pytest.MonkeyPatch) -> None:
    """A driver's node is there for all programs: which one is meant has to be said."""
    node = FoundFunction("chardev:/dev/null", driver="azihsm", nodes=("/dev/null",))
    monkeypatch.setattr("ihsm.bus.discovery.find_all", lambda: [node])
    with pytest.raises(DeviceNotFoundError, match=r"name it with --device: chardev:/dev/null$"):
        find_device()


def test_a_driver_that_has_the_function_is_named_with_its_node(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(GUEST_VARIABLE, "1")
    found = FoundFunction("pci:0000:00:04.0", driver="azihsm", nodes=("/dev/azihsm-mgmt0", "/dev/azihsm0"))
    monkeypatch.setattr("ihsm.bus.discovery.find_all", lambda: [found])
    with pytest.raises(DeviceBusyError, match="in use by the driver azihsm, behind chardev:/dev/azihsm0;"):
        find_device()


def test_configuration_space_is_had_beside_a_driver(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    found = FoundFunction("pci:0000:00:04.0", driver="azihsm", nodes=("/dev/azihsm0",))
    monkeypatch.setattr("ihsm.bus.discovery.find_pci", lambda: [found])
    monkeypatch.setattr("ihsm.bus.sysfs_config.SYSFS_DEVICES", folder)
    (folder / "0000:00:04.0").mkdir()
    (folder / "0000:00:04.0" / "config").write_bytes(bytes(4096))
    with pytest.raises(DeviceNotFoundError, match=r"name it with --device: pci:0000:00:04\.0$"), open_config():
        pass
    monkeypatch.setenv(GUEST_VARIABLE, "1")
    for text in ("auto", "pci:00:04.0"):
        with open_config(text) as config:
            assert config.uri == "pci:0000:00:04.0"
            assert config.read_config(0x100, 4) == bytes(4)
    with pytest.raises(UriError, match="a function itself is needed"), open_config("chardev:/dev/azihsm0"):
        pass


def test_configuration_space_of_a_socket(device: EmbeddedDevice) -> None:
    uri = f"vfio-user:{device.socket_path}"
    with open_config(uri) as config:
        assert config.config_bytes == 4096
        with pytest.raises(DeviceBusyError), open_config(uri):
            pass
