# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Keys of every family in a partition under test, made when first asked for, and a vault that can be filled."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from ihsm.ddi.keys import Key, KeyRequest
from ihsm.ddi.session import Session
from ihsm_abi.ddi import AesKeySize, EccCurve, HashAlgorithm, KeyAttributeFlags, KeyClass, KeyType, KeyUsage
from ihsm_device.hsm.errors import RefusedError
from ihsm_device.hsm.keystore import Handle
from ihsm_device.hsm.partition import EncryptionPurpose, NewEntry
from ihsm_device.hsm.partition.vault import ATTRIBUTE_BYTES, BLOCK_BYTES
from support.hsm import Scene, Stage

EMPTY_ID: Final = 0xF0
NOT_OWNED_ID: Final = 0x300
TAG: Final = 0x55
FILLER: Final = Handle(0)
"""Stands for the key of an entry that only takes room."""
CBC, SIGN, DERIVE, UNWRAP = KeyUsage.EncryptDecrypt, KeyUsage.SignVerify, KeyUsage.Derive, KeyUsage.Unwrap
_DATA = Path(__file__).parents[1] / "data" / "crypto-conversations.jsonl"
PAYLOADS: Final[dict[str, bytes]] = {
    name: bytes.fromhex(value) for name, value in json.loads(_DATA.open().readline())["keys"].items()
}


class Keyring:
    """A provisioned partition with one open session, and keys made through it."""

    def __init__(self, scene: Scene) -> None:
        self.scene = scene
        scene.provision()
        self.session = scene.open_session()
        self._other: Session | None = None
        self._keys: dict[str, Key] = {}

    @property
    def other(self) -> Session:
        """A second session of the same application."""
        if self._other is None:
            self._other = self.scene.open_session(seed=bytes(range(48)))
        return self._other

    def __getitem__(self, name: str) -> Key:
        if name not in self._keys:
            self._keys[name] = _RECIPES[name](self)
        return self._keys[name]

    def id(self, name: str) -> int:
        """Number of a key, of an internal object, or of nothing."""
        state = self.scene.state
        internal: dict[str, Callable[[], Any]] = {
            "empty": lambda: EMPTY_ID,
            "not-owned": lambda: NOT_OWNED_ID,
            "unwrapping": lambda: state.provisioned.unwrapping_entry.key_id,
            "masking": lambda: state.provisioned.masking_entry.key_id,
            "k-sess": lambda: state.encryption_keys[EncryptionPurpose.SESSION].entry.key_id,
            "session-object": self._session_object,
        }
        return int(internal[name]()) if name in internal else self[name].key_id

    def _session_object(self) -> int:
        vault = self.scene.state.vault
        return next(n for n in range(256) if (entry := vault.get(n)) is not None and entry.content.type is None)

    def tidy(self) -> None:
        """Remove whatever a test left in the vault beside the keyring's keys."""
        partition, vault = self.scene.module.partition, self.scene.state.vault
        known = {key.key_id for key in self._keys.values()}
        for entry in [entry for n in range(256) if (entry := vault.get(n)) is not None and n not in known]:
            if entry.content.handle == FILLER:
                vault.remove(entry)
            elif not entry.content.internal and entry.content.type is not None:
                partition.remove_key(entry)

    # -- filling the vault -----------------------------------------------------------------------------------------

    def fill_bulk_slots(self) -> None:
        """No bulk key can be added any more."""
        self._fill(NewEntry(None, FILLER, 2, KeyAttributeFlags(0), bulk=True))

    def fill(self) -> None:
        """No key can be added any more."""
        for size in (2048, 64, 8):
            self._fill(_dummy(size))

    def fragment(self, blocks: int = 6) -> None:
        """Room for several keys, but in pieces of `blocks` blocks of 8 bytes."""
        pieces = [self._add(_dummy(blocks * BLOCK_BYTES - ATTRIBUTE_BYTES)) for _ in range(100)]
        self.fill()
        for piece in pieces[::2]:
            self.scene.state.vault.remove(piece)

    def _add(self, entry: NewEntry) -> Any:
        return self.scene.state.vault.add(entry)

    def _fill(self, entry: NewEntry) -> None:
        try:
            while True:
                self._add(entry)
        except RefusedError:
            return


def _dummy(value_bytes: int) -> NewEntry:
    return NewEntry(None, FILLER, value_bytes, KeyAttributeFlags(0))


def keyring(scene: Scene) -> Keyring:
    """The keyring of a scene that `arrange` made."""
    ring: Keyring = scene.keyring  # type: ignore[attr-defined]
    return ring


def arrange(scene: Scene) -> int:
    """Bring a scene to a provisioned partition with a session and the keyring's keys; returns the session's id."""
    if hasattr(scene, "keyring"):
        keyring(scene).tidy()
    else:
        scene.keyring = Keyring(scene)  # type: ignore[attr-defined]
    return keyring(scene).session.session_id


class KeyStage(Stage):
    """A stage whose scenes keep their keys: provisioning and RSA keys take long to make."""

    def clean(self) -> Scene:
        """The same scene every time; `arrange` tidies it."""
        if self._used is None:
            self._used = self.fresh()
        return self._used


def _aes(size: AesKeySize, **more: Any) -> Callable[[Keyring], Key]:
    return lambda ring: ring.session.generate_aes_key(size, KeyRequest(CBC, **more))


def _ecc(usage: KeyUsage, curve: EccCurve = EccCurve.P256) -> Callable[[Keyring], Key]:
    return lambda ring: ring.session.generate_ecc_key(curve, KeyRequest(usage))


def _imported(payload: str, key_class: KeyClass, usage: KeyUsage) -> Callable[[Keyring], Key]:
    return lambda ring: ring.session.import_key(PAYLOADS[payload], key_class, KeyRequest(usage))


def _secret(ring: Keyring) -> Key:
    peer = ring["ecc-sign"].public_key_der
    assert peer is not None
    return ring.session.ecdh(ring["ecc-derive"], peer, KeyType.Secret256, KeyRequest(DERIVE))


def _hmac(
    usage: KeyUsage, key_type: KeyType = KeyType.HmacSha256, length: int | None = None
) -> Callable[[Keyring], Key]:
    return lambda ring: ring.session.hkdf(
        ring["secret"], HashAlgorithm.Sha256, key_type, KeyRequest(usage), key_length=length
    )


def _other_secret(ring: Keyring) -> Key:
    peer = ring["ecc-sign"].public_key_der
    assert peer is not None
    return ring.other.ecdh(ring["ecc-derive"], peer, KeyType.Secret256, KeyRequest(DERIVE, session=True))


def _other_hmac(ring: Keyring) -> Key:
    return ring.other.hkdf(ring["secret"], HashAlgorithm.Sha256, KeyType.HmacSha256, KeyRequest(SIGN, session=True))


_RECIPES: Final[dict[str, Callable[[Keyring], Key]]] = {
    "aes": _aes(AesKeySize.Aes256),
    "aes-tagged": _aes(AesKeySize.Aes128, tag=TAG),
    "aes-session": _aes(AesKeySize.Aes256, session=True),
    "bulk": _aes(AesKeySize.AesGcmBulk256Unapproved),
    "ecc-sign": _ecc(SIGN),
    "ecc-sign-384": _ecc(SIGN, EccCurve.P384),
    "ecc-sign-521": _ecc(SIGN, EccCurve.P521),
    "ecc-derive": _ecc(DERIVE),
    "rsa-decrypt": _imported("rsa2048", KeyClass.Rsa, CBC),
    "rsa-sign": _imported("rsa2048", KeyClass.RsaCrt, SIGN),
    "secret": _secret,
    "hmac": _hmac(SIGN),
    "hmac-derive": _hmac(DERIVE),
    "var-hmac": _hmac(SIGN, KeyType.VarHmac256, 40),
    "other-aes": lambda ring: ring.other.generate_aes_key(AesKeySize.Aes256, KeyRequest(CBC, session=True)),
    "other-ecc-sign": lambda ring: ring.other.generate_ecc_key(EccCurve.P256, KeyRequest(SIGN, session=True)),
    "other-ecc-derive": lambda ring: ring.other.generate_ecc_key(EccCurve.P256, KeyRequest(DERIVE, session=True)),
    "other-rsa": lambda ring: ring.other.import_key(PAYLOADS["rsa2048"], KeyClass.Rsa, KeyRequest(CBC, session=True)),
    "other-secret": _other_secret,
    "other-hmac": _other_hmac,
}
