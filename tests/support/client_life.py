# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""A client in a process of its own that makes, brings, uses and deletes keys of every kind on a served device.

It tells what passed between it and the device, and the secrets that it was given or drew itself; from that and from the
device's state directory the other side computes all the rest.
"""

from __future__ import annotations

import contextlib
import os
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from ihsm.bus import VfioUserFunction
from ihsm.ddi import Credential, Entropy, Key, KeyRequest, Partition, SoftwareTrustAnchor
from ihsm.ddi.wrapping import wrap_key
from ihsm.driver import Controller, OpenDevice
from ihsm.uri import open_device
from ihsm_abi.ddi import AesKeySize, AesOp, EccCurve, HashAlgorithm, KeyClass, KeyType, KeyUsage, RsaOpType
from support.commanded import Commanded
from support.golden_path import Recorder
from support.waiting import HANG_S

CURVES: Final = {EccCurve.P256: ec.SECP256R1(), EccCurve.P384: ec.SECP384R1(), EccCurve.P521: ec.SECP521R1()}
SIGNS: Final = {
    KeyType.Ecc256Private: (32, HashAlgorithm.Sha256),
    KeyType.Ecc384Private: (48, HashAlgorithm.Sha384),
    KeyType.Ecc521Private: (64, HashAlgorithm.Sha512),
}
"""Bytes and hash of what is signed."""
AES: Final = (KeyType.Aes128, KeyType.Aes192, KeyType.Aes256)
HMACS: Final = (KeyType.HmacSha256, KeyType.HmacSha384, KeyType.HmacSha512, KeyType.VarHmac256)
RSA_BYTES: Final = {
    KeyType.Rsa2kPrivate: 256, KeyType.Rsa3kPrivate: 384, KeyType.Rsa4kPrivate: 512,
    KeyType.Rsa2kPrivateCrt: 256, KeyType.Rsa3kPrivateCrt: 384, KeyType.Rsa4kPrivateCrt: 512,
}  # fmt: skip
TEXT_BYTES: Final = (64, 1024, 300_000)
"""Texts that go through each of the paths that code for AES has: short, some blocks, many blocks, several lists."""
CBC, SIGN, DERIVE = KeyUsage.EncryptDecrypt, KeyUsage.SignVerify, KeyUsage.Derive
SECRETS: Final = {
    EccCurve.P256: KeyType.Secret256,
    EccCurve.P384: KeyType.Secret384,
    EccCurve.P521: KeyType.Secret521,
}
BULK: Final = ("AesGcmBulk256", "AesGcmBulk256Unapproved", "AesXtsBulk256")


class ClientLife(Commanded):
    """The commands."""

    def keep(self, secret: str) -> dict[str, str]:
        """Put known bytes on the ordinary heap."""
        self.kept = bytes.fromhex(secret)
        return {}

    def connect(self, path: str) -> dict[str, Any]:
        """Draw what a client has of its own, and connect."""
        self.held = contextlib.ExitStack()
        self.told: dict[str, bytes] = {
            "id": os.urandom(16),
            "pin": os.urandom(16),
            "bk3": os.urandom(48),
            "seed": os.urandom(48),
        }
        self.ephemeral = ec.generate_private_key(ec.SECP384R1())
        scalar = self.ephemeral.private_numbers().private_value.to_bytes(48)
        self.owner = ec.generate_private_key(ec.SECP384R1())
        self.controller: OpenDevice = (
            self.held.enter_context(open_device(path))
            if path.startswith("chardev:")
            else Controller(VfioUserFunction(path, timeout_s=HANG_S))
        )
        self.recorder = Recorder(self.controller)
        self.partition = Partition(self.recorder, entropy=Entropy(ephemeral_key=lambda: self.ephemeral))
        self.keys: dict[str, Key] = {}
        self.signed: list[tuple[str, str, str]] = []
        self.raised: list[tuple[str, str]] = []
        self.extracted: list[tuple[str, int, str]] = []
        self.keks: list[str] = []
        return {"ephemeral": scalar.hex(), "pota": self.owner.private_numbers().private_value.to_bytes(48).hex()}

    def provision(self) -> dict[str, Any]:
        """The first time."""
        anchor = SoftwareTrustAnchor(self.owner)
        self.masked_bk3 = self.partition.init_bk3(self.told["bk3"]).masked_bk3
        self.bmk = self.partition.establish_credential(self._credential(), self.masked_bk3, anchor)
        self.session = self.partition.open_session(self._credential(), seed=self.told["seed"])
        self.other = self.partition.open_session(self._credential(), seed=self.told["seed"])
        self.unwrapping = self.session.unwrapping_key()
        return self.tell()

    def _credential(self) -> Credential:
        return Credential(self.told["id"], self.told["pin"])

    def tell(self) -> dict[str, Any]:
        """What passed, and what the client knows besides."""
        return {
            "records": self.recorder.exchanges,
            "told": {name: value.hex() for name, value in self.told.items()},
            "signed": self.signed,
            "raised": self.raised,
            "extracted": self.extracted,
            "keks": self.keks,
        }

    def make(self, *sizes: str) -> dict[str, Any]:
        """Keys of every kind, of these sizes of RSA, each used by all that it is for."""
        session = self.session
        for name, bits in (("aes-128", 128), ("aes-192", 192), ("aes-256", 256)):
            self._add(name, session.generate_aes_key(AesKeySize[f"Aes{bits}"], self._request(CBC, name)))
        self.make_bulk()
        for curve in CURVES:
            self._curve(curve)
        self._derived()
        self._imported([int(size) for size in sizes])
        self._add("session-aes", self.session.generate_aes_key(AesKeySize.Aes256, KeyRequest(CBC, session=True)))
        self._add("session-ec", session.generate_ecc_key(EccCurve.P256, KeyRequest(SIGN, session=True)))
        self.use()
        return self.tell()

    def make_bulk(self) -> dict[str, Any]:
        """Keys for the AES queues alone."""
        for kind in BULK:
            for number in range(2 if "Xts" in kind else 1):
                name = f"{kind}-{number}"
                self._add(name, self.session.generate_aes_key(AesKeySize[kind], self._request(CBC, name)))
        return {}

    def seal(self, size: str, aad: str) -> dict[str, Any]:
        """AES-GCM of one text, there and back."""
        queue, ids = self.controller.aes_queues[0], self.session.fast_path
        number, more = self._bulk(f"{BULK[0]}-0"), bytes(int(aad))
        sealed = queue.gcm_encrypt(ids, number, bytes(int(size)), aad=more, timeout_s=HANG_S)
        queue.gcm_decrypt(ids, number, sealed.ciphertext, sealed.tag, sealed.iv, aad=more, timeout_s=HANG_S)
        return {}

    def _bulk(self, name: str) -> int:
        number = self.keys[name].bulk_key_id
        assert number is not None
        return number

    def _request(self, usage: KeyUsage, label: str) -> KeyRequest:
        return KeyRequest(usage, label=label.encode())

    def _add(self, name: str, key: Key) -> Key:
        self.keys[name] = key
        return key

    def _curve(self, curve: EccCurve) -> None:
        session, name = self.session, curve.name
        self._add(f"sign-{name}", session.generate_ecc_key(curve, self._request(SIGN, f"sign-{name}")))
        derive = self._add(f"derive-{name}", session.generate_ecc_key(curve, self._request(DERIVE, name)))
        peer = ec.generate_private_key(CURVES[curve])
        spki = peer.public_key().public_bytes(Encoding.DER, _SPKI)
        self._add(f"agreed-{name}", session.ecdh(derive, spki, SECRETS[curve], self._request(DERIVE, name)))

    def _hkdf(self, name: str, algorithm: HashAlgorithm, kind: KeyType, usage: KeyUsage, length: int | None) -> None:
        salt = os.urandom(32)
        self.extracted.append(("agreed-P256", algorithm, salt.hex()))
        request = self._request(usage, name)
        secret = self.keys["agreed-P256"]
        self._add(name, self.session.hkdf(secret, algorithm, kind, request, salt=salt, info=b"info", key_length=length))

    def _derived(self) -> None:
        for bits in (256, 384, 512):
            kind, algorithm = KeyType[f"HmacSha{bits}"], HashAlgorithm[f"Sha{bits}"]
            self._hkdf(f"hmac-{bits}", algorithm, kind, SIGN, None)
            request = self._request(SIGN, f"kbkdf-{bits}")
            self._add(f"kbkdf-{bits}", self.session.kbkdf(self.keys["agreed-P521"], algorithm, kind, request))
        self._hkdf("var-hmac", HashAlgorithm.Sha256, KeyType.VarHmac256, SIGN, 40)
        self._hkdf("derived-aes", HashAlgorithm.Sha384, KeyType.Aes256, CBC, None)

    def _bring(self, name: str, payload: bytes, key_class: KeyClass, request: KeyRequest) -> None:
        kek = os.urandom(32)
        self.keks.append(kek.hex())
        blob = wrap_key(payload, self.unwrapping.public_key, HashAlgorithm.Sha256, kek=kek)
        self._add(name, self.session.rsa_unwrap(self.unwrapping, blob, key_class, request))

    def _imported(self, sizes: list[int]) -> None:
        # The label is the key itself: what is put beside the arena must be found there.
        planted = self.told["planted"] = os.urandom(32)
        self._bring("planted", planted, KeyClass.Aes, KeyRequest(CBC, label=planted))
        for curve, group in CURVES.items():
            pair = ec.generate_private_key(group)
            name = f"brought-{curve.name}"
            self.told[name] = pair.private_numbers().private_value.to_bytes(-(-group.key_size // 8))
            self._bring(name, pair.private_bytes(*_PKCS8), KeyClass.Ecc, self._request(SIGN, name))
        for bits in sizes:
            for key_class in (KeyClass.Rsa, KeyClass.RsaCrt):
                rsa_pair = rsa.generate_private_key(65537, bits)
                name = f"brought-{key_class.name}-{bits}"
                self.told[name] = rsa_pair.private_bytes(*_PKCS8)
                self._bring(name, self.told[name], key_class, self._request(SIGN, name))

    def use(self) -> dict[str, Any]:
        """Use every key by all that it is for."""
        for name, key in self.keys.items():
            if not name.startswith("derive-"):
                self._use(name, key)
        queue, ids = self.controller.aes_queues[0], self.session.fast_path
        for kind in BULK[:2]:
            if f"{kind}-0" not in self.keys:
                continue
            number = self._bulk(f"{kind}-0")
            for size in TEXT_BYTES:
                sealed = queue.gcm_encrypt(ids, number, bytes(size), aad=bytes(20), timeout_s=HANG_S)
                queue.gcm_decrypt(
                    ids, number, sealed.ciphertext, sealed.tag, sealed.iv, aad=bytes(20), timeout_s=HANG_S
                )
        if f"{BULK[2]}-1" not in self.keys or f"{BULK[2]}-0" not in self.keys:
            return {}
        pair = self._bulk(f"{BULK[2]}-0"), self._bulk(f"{BULK[2]}-1")
        for size in TEXT_BYTES:
            data = bytes(size // 16 * 16)
            sealed_text = queue.xts(ids, pair, bytes(16), data, decrypt=False, timeout_s=HANG_S).data
            queue.xts(ids, pair, bytes(16), sealed_text, decrypt=True, timeout_s=HANG_S)
        return {}

    def _use(self, name: str, key: Key) -> None:
        session, kind = self.session, key.key_type
        if kind in SIGNS:
            size, algorithm = SIGNS[kind]
            digest = os.urandom(size)
            self.signed.append((name, digest.hex(), session.ecc_sign(key, digest, algorithm).hex()))
        elif kind in AES:
            data, _ = session.aes_cbc(key, AesOp.Encrypt, bytes(1024), os.urandom(16))
            session.aes_cbc(key, AesOp.Decrypt, data, os.urandom(16))
        elif kind in RSA_BYTES:
            number = b"\x01" + os.urandom(RSA_BYTES[kind] - 1)
            self.raised.append((name, session.rsa_mod_exp(key, number, RsaOpType.Sign).hex()))
        elif kind in HMACS:
            session.hmac(key, os.urandom(200))

    def delete(self, *names: str) -> dict[str, Any]:
        """Delete keys."""
        for name in names:
            self.session.delete_key(self.keys.pop(name))
        return {}

    def masked(self) -> dict[str, str]:
        """Masked forms of the keys that are there, by name; the client can read none of them."""
        return {name: key.masked_key.hex() for name, key in self.keys.items()}

    def close_session(self) -> dict[str, Any]:
        """End the session with its keys; another one stays open."""
        self.ticket = self.session.ticket
        self.session.close()
        self.session = self.other
        self.keys = {name: key for name, key in self.keys.items() if not name.startswith("session-")}
        return {}

    def change_pin(self) -> dict[str, Any]:
        """Another PIN."""
        self.told["old-pin"] = self.told["pin"]
        self.told["pin"] = os.urandom(16)
        self.session.change_pin(self.told["pin"])
        return self.tell()

    def attest(self) -> dict[str, Any]:
        """A signature of the partition's identity key."""
        self.partition.certificate_chain()
        self.session.attest(self.keys["sign-P384"], os.urandom(64))
        return self.tell()

    def reset(self) -> dict[str, Any]:
        """NSSR."""
        self.controller.reset(subsystem=True)
        return {}

    def restore(self) -> dict[str, Any]:
        """Bring everything back after a reset."""
        names = self.masked()
        self.partition.establish_credential(
            self._credential(), self.masked_bk3, SoftwareTrustAnchor(self.owner), bmk=self.bmk,
            masked_unwrapping_key=self.unwrapping.masked_key,
        )  # fmt: skip
        self.session = self.partition.reopen_session(self._credential(), self.other.ticket)
        for name, masked in names.items():
            self.keys[name] = self.session.unmask(bytes.fromhex(masked))
        self.use()
        return self.tell()

    def leave(self) -> dict[str, Any]:
        """Close everything as a client should."""
        self.session.close()
        self.controller.close()
        return {}


_SPKI: Final = PublicFormat.SubjectPublicKeyInfo
_PKCS8: Final = (Encoding.DER, PrivateFormat.PKCS8, NoEncryption())


if __name__ == "__main__":
    ClientLife().obey()
