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

from ihsm.errors import AmbiguousDeviceError, BindError, DeviceNotFoundError, UriError
from ihsm.uri import DeviceUri, Scheme, choose_auto, open_function


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


def test_what_is_not_there_is_not_opened(tmp_path: Path) -> None:
    with pytest.raises(DeviceNotFoundError), open_function(f"vfio-user:{tmp_path}/none"):
        pass
    with pytest.raises((DeviceNotFoundError, BindError), match=r"pci:ffff:ff:1f\.7"), open_function("pci:ffff:ff:1f.7"):
        pass
