# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Device URIs and what `auto` makes of the devices there are."""

from __future__ import annotations

import contextlib
import os
import socket
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ihsm.bus.discovery import FoundFunction
from ihsm.errors import AmbiguousDeviceError, BindError, DeviceNotFoundError, UriError
from ihsm.uri import GUEST_VARIABLE, DeviceUri, Scheme, choose_auto, open_function


@pytest.mark.parametrize(
    ("text", "scheme", "address"),
    [
        ("vfio-user:/run/x.sock", Scheme.VFIO_USER, "/run/x.sock"),
        ("vfio-user:a:b", Scheme.VFIO_USER, "a:b"),
        ("pci:0000:00:04.0", Scheme.PCI, "0000:00:04.0"),
        ("pci:0A:1f.7", Scheme.PCI, "0000:0a:1f.7"),
    ],
)
def test_good_uris(text: str, scheme: Scheme, address: str) -> None:
    uri = DeviceUri.parse(text)
    assert (uri.scheme, uri.address) == (scheme, address)
    assert DeviceUri.parse(str(uri)) == uri


@pytest.mark.parametrize("text", ["", "auto", "usb:1", "vfio-user:", "pci:", "pci:00:20.0", "pci:00:04.8", "pci:xyz"])
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
    assert choose_auto() is None
    with socket.socket(socket.AF_UNIX) as first, socket.socket(socket.AF_UNIX) as second:
        first.bind(os.fspath(folder / "0.sock"))
        first.listen()
        assert str(choose_auto()) == f"vfio-user:{folder}/0.sock"
        second.bind(os.fspath(folder / "1.sock"))
        assert str(choose_auto()) == f"vfio-user:{folder}/0.sock"  # nobody listens on the second yet
        second.listen()
        with pytest.raises(AmbiguousDeviceError, match=r"2 devices found.*0\.sock, .*1\.sock") as caught:
            choose_auto()
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
        assert str(choose_auto()) == f"vfio-user:{folder}/0.sock"
        assert caplog.messages == [f"auto: taking vfio-user:{folder}/0.sock"]
        uid = os.geteuid()
        monkeypatch.setattr("os.geteuid", lambda: uid + 1)
        with pytest.raises(DeviceNotFoundError, match=r"pci:0000:00:04\.0, vfio-user:.*0\.sock"):
            choose_auto()
    (folder / "0.sock").unlink()
    monkeypatch.setenv(GUEST_VARIABLE, "1")
    assert str(choose_auto()) == "pci:0000:00:04.0"


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
