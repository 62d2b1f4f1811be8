# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Who must notice nothing: a client with a session and keys on a function of its own, whose commands are counted."""

from __future__ import annotations

import secrets
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Self

import numpy as np
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, utils

from ihsm.closing import Closing
from ihsm.control import ControlClient
from ihsm.ddi import Credential, KeyRequest, Partition, SoftwareTrustAnchor
from ihsm.driver import Controller, DriverOptions
from ihsm.driver.aes_queue import FastPathSession
from ihsm.uri import DeviceUri, open_uri
from ihsm_abi.ddi import AesKeySize, EccCurve, HashAlgorithm, KeyUsage
from support.waiting import HANG_S, until

SIGNATURES_AT_ONCE: Final = 8
TEXT_BYTES: Final = 4096


class Client(Closing):
    """A provisioned function with an open session, a P-256 key and a bulk AES key."""

    def __init__(self, path: str | Path, **options: Any) -> None:
        """Bring the function up and provision it."""
        function = open_uri(DeviceUri.parse(f"vfio-user:{path}"))
        self.controller = Controller(function, DriverOptions(**{"timeout_s": HANG_S, **options}))
        try:
            partition = Partition(self.controller)
            credential = Credential(id=secrets.token_bytes(16), pin=secrets.token_bytes(16))
            owner = SoftwareTrustAnchor(ec.generate_private_key(ec.SECP384R1()))
            masked = partition.init_bk3(secrets.token_bytes(48)).masked_bk3
            partition.establish_credential(credential, masked, owner)
            self.session = partition.open_session(credential)
            self.signing = self.session.generate_ecc_key(EccCurve.P256, KeyRequest(KeyUsage.SignVerify, session=True))
            self.bulk = self.new_bulk_key()
        except BaseException:
            self.controller.close()
            raise
        self.fast = FastPathSession(self.session.session_id, self.session.short_app_id)

    def new_bulk_key(self) -> Any:
        """An AES-GCM key for the fast path."""
        request = KeyRequest(KeyUsage.EncryptDecrypt, session=True)
        return self.session.generate_aes_key(AesKeySize.AesGcmBulk256Unapproved, request)

    def close(self) -> None:
        """Close the driver; keys and session end with the client."""
        self.controller.close()


@dataclass
class Account:
    """What the victim has seen since the last account."""

    hsm_commands: int = 0
    aes_commands: int = 0
    worst_s: float = 0.0
    errors: list[str] = field(default_factory=list)


class Victim(Closing):
    """Signs and encrypts, verifies every answer by another library, and compares its counts with the device's."""

    def __init__(self, path: str | Path) -> None:
        """Bring a client up on the function of `path` and take the device's counts from there on."""
        self._client = Client(path)
        self._control = ControlClient(path, HANG_S)
        public = self._client.signing.public_key
        assert isinstance(public, ec.EllipticCurvePublicKey)
        self._public = public
        self._iv = 0
        self._sent = {"hsm_commands": 0, "aes_commands": 0}
        self._counted = self._counts()
        self.account = Account()

    def __enter__(self) -> Self:
        return self

    def _counts(self) -> dict[str, int]:
        counters = self._control.status()["counters"]
        return {name: counters[name] for name in self._sent}

    def work(self) -> None:
        """One signature, several at once, and a text encrypted and decrypted."""
        begin = time.monotonic()
        client, digest = self._client, secrets.token_bytes(32)
        self._verify(client.session.ecc_sign(client.signing, digest, HashAlgorithm.Sha256), digest)
        self.account.worst_s = max(self.account.worst_s, time.monotonic() - begin)
        digests = np.frombuffer(secrets.token_bytes(32 * SIGNATURES_AT_ONCE), np.uint8).reshape(-1, 32)
        signatures = client.session.ecc_sign_many(client.signing, digests, HashAlgorithm.Sha256)
        for signature, each in zip(signatures, digests, strict=True):
            self._verify(signature.tobytes(), each.tobytes())
        self._sent["hsm_commands"] += 1 + SIGNATURES_AT_ONCE
        self._encrypt()

    def _encrypt(self) -> None:
        client, text = self._client, secrets.token_bytes(TEXT_BYTES)
        self._iv += 1
        iv = self._iv.to_bytes(12, "big")
        queue = client.controller.aes_queues[self._iv % len(client.controller.aes_queues)]
        sealed = queue.gcm_encrypt(client.fast, client.bulk.bulk_key_id, text, timeout_s=HANG_S, iv=iv)
        plain = queue.gcm_decrypt(
            client.fast, client.bulk.bulk_key_id, sealed.ciphertext, sealed.tag, timeout_s=HANG_S, iv=iv
        )
        if plain.data != text:
            self.account.errors.append("a text came back as another")
        self._sent["aes_commands"] += 2

    def _verify(self, signature: bytes, digest: bytes) -> None:
        half = len(signature) // 2
        r, s = (int.from_bytes(part, "big") for part in (signature[:half], signature[half:]))
        algorithm = ec.ECDSA(utils.Prehashed(hashes.SHA256()))
        self._public.verify(utils.encode_dss_signature(r, s), digest, algorithm)

    def settle(self) -> Account:
        """Compare what was sent with what the device has counted, and begin a new account.

        A completion is seen before it is counted, so that the counts may come a moment later.
        """
        wanted = {name: self._counted[name] + sent for name, sent in self._sent.items()}
        counts: dict[str, int] = {}

        def all_counted() -> bool:
            counts.update(self._counts())
            return all(counts[name] >= number for name, number in wanted.items())

        try:
            until(all_counted, "the device's counts")
        except AssertionError:
            self.account.errors.append(f"lost: sent {wanted}, counted {counts}")
        if any(counts[name] > number for name, number in wanted.items()):
            self.account.errors.append(f"doubled: sent {wanted}, counted {counts}")
        controller = self._client.controller
        if strays := sum(queue.stray_completions for queue in (*controller.hsm_queues, *controller.aes_queues)):
            self.account.errors.append(f"doubled: {strays} completions of no command")
        account, self.account = self.account, Account()
        account.hsm_commands, account.aes_commands = self._sent["hsm_commands"], self._sent["aes_commands"]
        self._counted = counts
        self._sent = dict.fromkeys(self._sent, 0)
        return account

    def close(self) -> None:
        """Close the driver."""
        self._control.close()
        self._client.close()
