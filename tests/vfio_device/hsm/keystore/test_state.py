# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Sealed blobs and the file of the device-unique secret."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ihsm_device.hsm.keystore import (
    AuthenticationError,
    Curve,
    DecodeError,
    KeySizeError,
    KeyStore,
    KeyStoreError,
    Kind,
    Owner,
    StateFileError,
    StatePermissionError,
)

OWNER = Owner()


def test_sealed_keys_of_every_kind(store: KeyStore) -> None:
    sealing = store.generate_secret(32, OWNER)
    keys = [store.generate_secret(length, OWNER) for length in (1, 32, 48, 80)]
    keys += [store.ec_generate(curve, OWNER) for curve in Curve]
    keys += [store.rsa_generate(2048, OWNER, crt=crt) for crt in (False, True)]
    for key in keys:
        blob = store.seal(key, sealing, b"partition 3")
        form = store.hook_reveal(key)
        assert len(form) < 16 or form[:16] not in blob  # shorter ones can occur by chance
        back = store.unseal(blob, sealing, b"partition 3", OWNER)
        assert (store.kind(back), store.hook_reveal(back)) == (store.kind(key), form)
        assert store.seal(key, sealing, b"partition 3") != blob


def test_seals_that_do_not_open(store: KeyStore) -> None:
    sealing = store.generate_secret(32, OWNER)
    blob = store.seal(store.generate_secret(48, OWNER), sealing, b"a")
    with pytest.raises(AuthenticationError):
        store.unseal(blob, sealing, b"b", OWNER)
    with pytest.raises(AuthenticationError):
        store.unseal(blob, store.generate_secret(32, OWNER), b"a", OWNER)
    with pytest.raises(KeySizeError):
        store.unseal(blob, store.generate_secret(48, OWNER), b"a", OWNER)
    with pytest.raises(KeySizeError):
        store.seal(sealing, store.generate_secret(31, OWNER), b"")
    for bad in (b"", blob[:-1], blob + b"\0", b"XX" + blob[2:], blob[:2] + b"\x09" + blob[3:]):
        with pytest.raises(DecodeError):
            store.unseal(bad, sealing, b"a", OWNER)


@given(position=st.integers(0, 83), bit=st.integers(0, 7))
@settings(max_examples=80)
def test_every_bit_of_a_seal_counts(position: int, bit: int) -> None:
    store = KeyStore()
    try:
        sealing = store.import_secret(bytes(range(32)), OWNER)
        blob = bytearray(store.seal(store.generate_secret(48, OWNER), sealing, b""))
        assert len(blob) == 84
        blob[position] ^= 1 << bit
        with pytest.raises((AuthenticationError, DecodeError)):
            store.unseal(bytes(blob), sealing, b"", OWNER)
    finally:
        store.close()


def test_device_secret_survives(store: KeyStore, tmp_path: Path) -> None:
    path = str(tmp_path / "device.key")
    secret = store.create_device_secret(path, OWNER)
    assert (store.kind(secret), store.size(secret)) == (Kind.SECRET, 48)
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
    assert os.listdir(tmp_path) == ["device.key"]
    again = store.load_device_secret(path, OWNER)
    assert store.secrets_equal(secret, again)
    assert not store.is_zero(again)
    with pytest.raises(FileExistsError):
        store.create_device_secret(path, OWNER)
    assert store.secrets_equal(secret, store.load_device_secret(path, OWNER))
    assert os.listdir(tmp_path) == ["device.key"]


def test_mode_does_not_depend_on_umask(store: KeyStore, tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        store.create_device_secret(str(tmp_path / "device.key"), OWNER)
    finally:
        os.umask(old)
    assert stat.S_IMODE(os.stat(tmp_path / "device.key").st_mode) == 0o600


def test_files_that_are_refused(store: KeyStore, tmp_path: Path) -> None:
    path = tmp_path / "device.key"
    with pytest.raises(FileNotFoundError):
        store.load_device_secret(str(path), OWNER)
    with pytest.raises(FileNotFoundError):
        store.create_device_secret(str(tmp_path / "missing" / "device.key"), OWNER)
    store.create_device_secret(str(path), OWNER)
    good = path.read_bytes()
    for mode in (0o640, 0o604, 0o620, 0o700, 0o666):
        path.chmod(mode)
        with pytest.raises(StatePermissionError, match="0600"):
            store.load_device_secret(str(path), OWNER)
    path.chmod(0o600)
    for bad in (b"", good[:-1], good + b"\0", b"X" + good[1:], good[:7] + b"\x02" + good[8:],
                good[:20] + bytes([good[20] ^ 1]) + good[21:], good[:-1] + bytes([good[-1] ^ 1])):  # fmt: skip
        path.write_bytes(bad)
        with pytest.raises(StateFileError, match="damaged"):
            store.load_device_secret(str(path), OWNER)
    path.write_bytes(good)
    link = tmp_path / "link"
    link.symlink_to(path)
    with pytest.raises(StatePermissionError):
        store.load_device_secret(str(link), OWNER)
    with pytest.raises(KeyStoreError):
        store.load_device_secret(str(tmp_path), OWNER)
    store.load_device_secret(str(path), OWNER)


def test_leftovers_of_a_killed_process_do_not_matter(store: KeyStore, tmp_path: Path) -> None:
    (tmp_path / "device.key.new").write_bytes(b"half")
    secret = store.create_device_secret(str(tmp_path / "device.key"), OWNER)
    assert os.listdir(tmp_path) == ["device.key"]
    assert store.secrets_equal(secret, store.load_device_secret(str(tmp_path / "device.key"), OWNER))


def test_a_path_that_leads_through_a_file(store: KeyStore, tmp_path: Path) -> None:
    """What the system says is in the error: neither a file that is there nor one that is missing."""
    (tmp_path / "file").write_bytes(b"")
    path = str(tmp_path / "file" / "secret")
    for use in (store.create_device_secret, store.load_device_secret):
        with pytest.raises(StateFileError, match=f"^{path}: Not a directory$"):
            use(path, OWNER)
