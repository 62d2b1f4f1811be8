# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""NIST's vectors for AES-256-GCM and AES-256-XTS that AES commands can express, and their run on a driver's AES queue.

A GCM command has an IV of 96 bits and a tag of 128; an XTS command has whole blocks.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from ihsm.ddi import Key, KeyRequest, Session
from ihsm.driver.aes_queue import AesQueue
from ihsm.errors import AuthenticationFailedError
from ihsm_abi.ddi import KeyClass, KeyUsage
from support import cavp
from support.waiting import HANG_S

GCM_GROUPS: Final = ("gcmEncryptExtIV256", "gcmDecrypt256")
XTS_GROUPS: Final = ("tweak-128hexstr", "tweak-dataunitseqno")
IV_BYTES: Final = 12
TAG_BYTES: Final = 16
KEY_BYTES: Final = 32
BLOCK_BITS: Final = 128
ENCRYPT: Final = KeyRequest(KeyUsage.EncryptDecrypt)


@dataclass(frozen=True)
class GcmCase:
    """`result` is None where the tag must be refused."""

    name: str
    decrypt: bool
    key: bytes
    iv: bytes
    aad: bytes
    tag: bytes
    text: bytes
    result: bytes | None


@dataclass(frozen=True)
class XtsCase:
    """`keys` are data key and tweak key; the whole text is one data unit."""

    name: str
    decrypt: bool
    keys: tuple[bytes, bytes]
    tweak: bytes
    text: bytes
    result: bytes


def gcm_cases(group: str) -> Iterator[GcmCase]:
    """The cases of one response file, in its order."""
    decrypt = "Decrypt" in group
    for number, (_, fields) in enumerate(cavp.cases(f"ciphers/AES/GCM/{group}.rsp")):
        iv, tag = bytes.fromhex(fields["IV"]), bytes.fromhex(fields["Tag"])
        if (len(iv), len(tag)) != (IV_BYTES, TAG_BYTES):
            continue
        key, aad, cipher = (bytes.fromhex(fields[name]) for name in ("Key", "AAD", "CT"))
        plain = None if "FAIL" in fields else bytes.fromhex(fields["PT"])
        text, result = (cipher, plain) if decrypt else (plain or b"", cipher)
        yield GcmCase(f"{group} {number}", decrypt, key, iv, aad, tag, text, result)


def xts_cases(group: str) -> Iterator[XtsCase]:
    """The cases of one response file, in its order."""
    for number, (section, fields) in enumerate(cavp.cases(f"ciphers/AES/XTS/{group}/XTSGenAES256.rsp")):
        if int(fields["DataUnitLen"]) % BLOCK_BITS:
            continue
        decrypt = section == "DECRYPT"
        key, plain, cipher = (bytes.fromhex(fields[name]) for name in ("Key", "PT", "CT"))
        number_of_unit = fields.get("DataUnitSeqNumber")
        tweak = bytes.fromhex(fields["i"]) if number_of_unit is None else int(number_of_unit).to_bytes(16, "little")
        text, result = (cipher, plain) if decrypt else (plain, cipher)
        yield XtsCase(f"{group} {number}", decrypt, (key[:KEY_BYTES], key[KEY_BYTES:]), tweak, text, result)


def every_nth(n: int) -> dict[str, list[GcmCase] | list[XtsCase]]:
    """Every nth case of each group, from the first."""
    gcm = {group: list(gcm_cases(group))[::n] for group in GCM_GROUPS}
    return gcm | {group: list(xts_cases(group))[::n] for group in XTS_GROUPS}


class NistRun:
    """Imports the key of each case, submits it on an AES queue and deletes the key again."""

    def __init__(self, session: Session, queue: AesQueue) -> None:
        self._session = session
        self._queue = queue
        self._ids = session.fast_path

    def differing(self, cases: Iterable[GcmCase | XtsCase]) -> list[str]:
        """Names of the cases in which the device disagrees."""
        return [case.name for case in cases if not (self._gcm(case) if isinstance(case, GcmCase) else self._xts(case))]

    def _gcm(self, case: GcmCase) -> bool:
        (key,) = self._imported(KeyClass.AesGcmBulkUnapproved, case.key)
        assert key.bulk_key_id is not None
        try:
            if not case.decrypt:
                sealed = self._queue.gcm_encrypt(
                    self._ids, key.bulk_key_id, case.text, aad=case.aad, iv=case.iv, timeout_s=HANG_S
                )
                return (sealed.ciphertext, sealed.tag, sealed.iv) == (case.result, case.tag, case.iv)
            opened = self._queue.gcm_decrypt(
                self._ids, key.bulk_key_id, case.text, case.tag, case.iv, aad=case.aad, timeout_s=HANG_S
            )
            return opened.data == case.result
        except AuthenticationFailedError:
            return case.decrypt and case.result is None
        finally:
            self._session.delete_key(key)

    def _xts(self, case: XtsCase) -> bool:
        keys = self._imported(KeyClass.AesXtsBulk, *case.keys)
        data_key, tweak_key = (key.bulk_key_id for key in keys)
        assert data_key is not None
        assert tweak_key is not None
        try:
            done = self._queue.xts(
                self._ids, (data_key, tweak_key), case.tweak, case.text, decrypt=case.decrypt, timeout_s=HANG_S
            )
            return done.data == case.result
        finally:
            for key in keys:
                self._session.delete_key(key)

    def _imported(self, key_class: KeyClass, *raw: bytes) -> list[Key]:
        return [self._session.import_key(secret, key_class, ENCRYPT) for secret in raw]
