# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""All secrets of a served device, computed from its state directory and from what a client knows, without its help.

A secret's name begins with what it is: "key:NAME" for its own bytes, "schedule:NAME", "ghash:NAME", "hmac:NAME" for
what is as good as the key, "passing:NAME" for what a command needs for a moment only, "told:NAME" for what the client
has.
"""

from __future__ import annotations

import hmac
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import load_der_private_key, load_der_public_key

from ihsm.store import Store
from ihsm_abi.ddi import DdiOp, DeviceKind, HashAlgorithm, KeyType
from support import golden_path, key_forms, oracle, points

_CURVES: Final = {
    KeyType.Ecc256Private: (256, ec.SECP256R1()),
    KeyType.Ecc384Private: (384, ec.SECP384R1()),
    KeyType.Ecc521Private: (521, ec.SECP521R1()),
}
_RSA: Final = {
    KeyType.Rsa2kPrivate: 2048, KeyType.Rsa3kPrivate: 3072, KeyType.Rsa4kPrivate: 4096, KeyType.RsaUnwrap: 2048,
}  # fmt: skip
_RSA_CRT: Final = {
    KeyType.Rsa2kPrivateCrt: 2048, KeyType.Rsa3kPrivateCrt: 3072, KeyType.Rsa4kPrivateCrt: 4096,
}  # fmt: skip
_HASH_NAMES: Final = {
    HashAlgorithm.Sha256: "sha256", HashAlgorithm.Sha384: "sha384", HashAlgorithm.Sha512: "sha512",
}  # fmt: skip
_HMAC_HASHES: Final = {
    KeyType.HmacSha256: "sha256", KeyType.HmacSha384: "sha384", KeyType.HmacSha512: "sha512",
    KeyType.VarHmac256: "sha256",
}  # fmt: skip
_AES: Final = (KeyType.Aes128, KeyType.Aes192, KeyType.Aes256)
_BULK: Final = (KeyType.AesXtsBulk256, KeyType.AesGcmBulk256, KeyType.AesGcmBulk256Unapproved)
_MASKS: Final = 64
"""Of the data unit of tweak 0, which the client uses."""
_EXPONENT: Final = 65537
_LONGEST_OTHER: Final = 100
"""Bytes of what a client has that is no RSA key."""


@dataclass
class DeviceSecrets:
    """What was computed so far."""

    state: Path
    values: dict[str, list[bytes]] = field(default_factory=dict)
    device: set[str] = field(default_factory=set)
    """Names of those that the device has as long as it runs."""
    partition: set[str] = field(default_factory=set)
    """Of those that it has while it is provisioned."""
    _masking: list[bytes] = field(default_factory=list)
    _pairs: dict[str, rsa.RSAPrivateNumbers] = field(default_factory=dict)

    def add(self, name: str, *values: bytes) -> str:
        """More forms of a secret."""
        self.values.setdefault(name, []).extend(values)
        return name

    def learn_device(self) -> None:
        """The identity, from the device-unique secret."""
        secret = (self.state / "device.secret").read_bytes()[-80:-32]
        record = json.loads((self.state / "partition-0.json").read_text())
        hierarchy = golden_path.device_hierarchy(self.state)
        lasting = {
            "device-secret": secret,
            "bks1": hierarchy.bks1,
            "bks2": hierarchy.bks2,
            "state-files": oracle.kbkdf(secret, b"StateFiles", b"", 48),
        }
        identities = {
            "device-id": (b"DeviceID", b""),
            "alias": (b"CPAlias", b""),
            "partition-id": (b"PartitionID", bytes.fromhex(record["partition_id"])),
        }
        for name, value in lasting.items():
            self.device.add(self.add(f"key:{name}", value))
        for name, inputs in identities.items():
            self.device.add(self._scalar(name, _derived_scalar(secret, *inputs), 384))
        self.add("hmac:device-secret", *key_forms.hmac_states(secret, "sha384"))
        self.add("hmac:state-files", *key_forms.hmac_states(lasting["state-files"], "sha384"))
        for label in (b"DeviceID", b"CPAlias"):
            self.add("passing:serial-number", oracle.kbkdf(secret, b"SerialNumber", label, 48))
        stick = oracle.kbkdf(secret, b"BKS1Key", b"", 48)
        for _ in range(64):
            self.add("passing:hash-stick", stick)
            stick = oracle.kbkdf(stick, b"BKS1Key", bytes(48), 48)

    def _scalar(self, name: str, scalar: int, bits: int) -> str:
        plain, *others = key_forms.scalar_forms(scalar, bits)
        self.add(f"passing:{name}-forms", *others)
        return self.add(f"key:{name}", plain)

    def learn_provisioning(self, client: Mapping[str, str], tell: Mapping[str, Any]) -> None:
        """Keys of the partition and of its sessions, from what passed."""
        from ihsm_device.hsm.identity.hierarchy import BKX_CONSTANT

        told = {name: bytes.fromhex(value) for name, value in tell["told"].items()}
        told.pop("id")  # attestation reports tell it
        for name, value in told.items():
            self.add(
                f"told:{name}", *(key_forms.rsa_forms(self._pairs[name]) if self._is_rsa(name, value) else [value])
            )
        exchanges = golden_path.decode(tell["records"], DeviceKind.Physical)
        seeds = golden_path.device_hierarchy(self.state)
        hierarchy = oracle.Hierarchy(told["bk3"], seeds.bks1, seeds.bks2)
        bkx = oracle.kbkdf(BKX_CONSTANT, b"BK_BOOT_MK_DEFAULT", hierarchy.bks1 + hierarchy.bks2)
        self._masking_key("passing:bkx", bkx)
        self.device.add(self._masking_key("key:bk-boot", golden_path.boot_key(self.state, hierarchy, BKX_CONSTANT)))
        owner = ec.derive_private_key(int(client["pota"], 16), ec.SECP384R1())
        backup = hierarchy.partition_backup_key(points.spki(owner.public_key()))
        self._masking_key("passing:bk-partition", backup)
        self.partition.add(self.add("key:bk3-session", hierarchy.session_root))
        session_backup = hierarchy.session_backup_key(told["seed"])
        self._masking_key("passing:bk-session", session_backup)
        ephemeral = ec.derive_private_key(int(client["ephemeral"], 16), ec.SECP384R1())
        for exchange in exchanges:
            match exchange.op:
                case DdiOp.GetEstablishCredEncryptionKey | DdiOp.GetSessionEncryptionKey:
                    self._channel(ephemeral, exchange.response)
                case DdiOp.EstablishCredential:
                    masking_key = oracle.open_masked(exchange.response.bmk, backup).key
                    self.partition.add(self._masking_key("key:mk", masking_key))
                    self._masking.append(masking_key)
                case DdiOp.OpenSession | DdiOp.ReopenSession:
                    opened = oracle.open_masked(exchange.response.bmk_session, session_backup).key
                    number = exchange.completion[0]
                    self._masking_key(f"key:smk-{number}", opened)
                    self._masking.append(opened)
                case DdiOp.GetUnwrappingKey:
                    # Kept across resets.
                    self.device.update(self.learn_key("unwrapping", exchange.response.masked_key))

    def learn_store(self, store: Store) -> set[str]:
        """Keys of a store whose device's state this is; names of what lives while the device has them."""
        from ihsm_device.hsm.identity.hierarchy import BKX_CONSTANT

        seeds = golden_path.device_hierarchy(self.state)
        boot = golden_path.boot_key(self.state, seeds, BKX_CONSTANT)
        self.device.add(self._masking_key("key:bk-boot", boot))
        bk3 = oracle.open_masked(store.masked_bk3, boot).key
        self.add("told:bk3", bk3)
        owner = load_der_private_key(store.secrets.owner_key, None)
        assert isinstance(owner, ec.EllipticCurvePrivateKey)
        self.add("told:owner", owner.private_numbers().private_value.to_bytes(48))
        self.add("told:credential", store.secrets.credential_pin)
        hierarchy = oracle.Hierarchy(bk3, seeds.bks1, seeds.bks2)
        backup = hierarchy.partition_backup_key(points.spki(owner.public_key()))
        self._masking.append(oracle.open_masked(store.bmk, backup).key)
        self.partition.add(self._masking_key("key:mk", self._masking[-1]))
        self.partition.add(self.add("key:bk3-session", hierarchy.session_root))
        return {
            name
            for record in store.keys()  # noqa: SIM118 (no dictionary)
            for usage, masked in record.newest.usages.items()
            for name in self.learn_key(f"{record.label}-{usage}", masked)
        }

    def _is_rsa(self, name: str, value: bytes) -> bool:
        """Whether it is an RSA key, whose public half is no secret."""
        if len(value) > _LONGEST_OTHER:
            pair = load_der_private_key(value, None)
            assert isinstance(pair, rsa.RSAPrivateKey)
            self._pairs[name] = pair.private_numbers()
        return name in self._pairs

    def _masking_key(self, name: str, value: bytes) -> str:
        """AES-256-CBC and HMAC-SHA-384 in one."""
        short = name.partition(":")[2]
        schedules = (*_beyond_key(value[:32]), *key_forms.decryption_keys(value[:32]))
        self.add(f"passing:{short}-schedule", *schedules)
        self.add(f"passing:{short}-states", *key_forms.hmac_states(value[32:], "sha384"))
        return self.add(name, value)

    def _channel(self, ephemeral: ec.EllipticCurvePrivateKey, offered: Any) -> None:
        key = load_der_public_key(offered.pub_key.der)
        assert isinstance(key, ec.EllipticCurvePublicKey)
        shared = ephemeral.exchange(ec.ECDH(), key)
        aes_key, mac_key = oracle.channel_keys(shared, offered.nonce)
        self._masking_key("passing:channel", aes_key + mac_key)
        self.add("passing:shared", shared, _extract(b"", shared, "sha384"))

    def learn_key(self, name: str, masked: bytes) -> list[str]:
        """A key of the client's, from its masked form: names of what lives as long as the key."""
        opened = self._opened(masked)
        metadata, plain = opened.metadata, opened.plaintext
        kind: KeyType = metadata.key_type
        if kind in _CURVES:
            bits, _ = _CURVES[kind]
            return [self._scalar(name, int.from_bytes(plain[: _padded(bits)], "little"), bits)]
        if kind in _RSA or kind in _RSA_CRT:
            return [self.add(f"key:{name}", *_rsa_values(plain, kind))]
        # The length in the metadata of a bulk key is not that of its bytes.
        value = plain[:32] if kind in _BULK else plain[: int(metadata.key_length)]
        lasting = [self.add(f"key:{name}", value)]
        if kind in _AES:
            self.add(f"passing:{name}-schedule", *_beyond_key(value), *key_forms.decryption_keys(value))
        elif kind in _BULK:
            lasting.append(self.add(f"schedule:{name}", *_beyond_key(value), *key_forms.decryption_keys(value)))
            if kind == KeyType.AesXtsBulk256:
                self.add(f"passing:{name}-masks", *key_forms.xts_masks(value, bytes(16), _MASKS))
            else:
                lasting.append(self.add(f"ghash:{name}", *key_forms.ghash_keys(value)))
        elif kind in _HMAC_HASHES:
            self.add(f"passing:{name}-states", *key_forms.hmac_states(value, _HMAC_HASHES[kind]))
        return lasting

    def _opened(self, masked: bytes) -> oracle.Opened:
        for key in self._masking:
            try:
                return oracle.open_masked(masked, key)
            except AssertionError:  # another's
                continue
        raise AssertionError("a key that is masked under no known key")

    def learn_uses(self, tell: Mapping[str, Any]) -> None:
        """What commands had in their hands: nonces, residues, what HKDF extracts."""
        for name, digest, signature in tell["signed"]:
            scalar_bytes = self.values[f"key:{name}"][0]
            bits = {32: 256, 48: 384, 66: 521}[len(scalar_bytes)]
            number = key_forms.nonce(
                bytes.fromhex(digest), bytes.fromhex(signature), int.from_bytes(scalar_bytes), bits
            )
            for value in (number, key_forms.ORDERS[bits] - number):
                self.add(f"passing:nonce-{name}", *key_forms.scalar_forms(value, bits))
        for name, result in tell["raised"]:
            self.add(f"passing:residue-{name}", *key_forms.rsa_passing(self._pairs[name], bytes.fromhex(result)))
        for name, algorithm, salt in tell["extracted"]:
            digest_name = _HASH_NAMES[HashAlgorithm(algorithm)]
            secret = self.values[f"key:{name}"][0]
            extracted = _extract(bytes.fromhex(salt), secret, digest_name)
            self.add(f"passing:extracted-{name}", extracted, *key_forms.hmac_states(extracted, digest_name))
        for kek in tell["keks"]:
            value = bytes.fromhex(kek)
            self.add("passing:kek", value, *key_forms.aes_schedules(value))


def _derived_scalar(secret: bytes, label: bytes, context: bytes) -> int:
    """A P-384 key that follows from the device secret (SP 800-56A, by testing candidates)."""
    for counter in range(16):
        candidate = int.from_bytes(oracle.kbkdf(secret, label, context + bytes([counter]), 48))
        if candidate < key_forms.ORDERS[384] - 1:
            return candidate + 1
    raise AssertionError("no candidate")


def _extract(salt: bytes, secret: bytes, name: str) -> bytes:
    return hmac.digest(salt or bytes(1), secret, name)


def _padded(bits: int) -> int:
    return 68 if bits == 521 else bits // 8


def _beyond_key(key: bytes) -> list[bytes]:
    """The encryption schedule without the key, with which it begins."""
    return [b"".join(key_forms.round_keys(key))[len(key) :]]


def _rsa_values(plain: bytes, kind: KeyType) -> Iterable[bytes]:
    if kind in _RSA_CRT:
        half = _RSA_CRT[kind] // 16
        return [plain[at : at + half][::-1] for at in range(0, 4 * half, half)]
    full = _RSA[kind] // 8
    exponent, modulus = (int.from_bytes(plain[at : at + full], "little") for at in (0, full))
    p, q = rsa.rsa_recover_prime_factors(modulus, _EXPONENT, exponent)
    return [plain[:full][::-1], p.to_bytes(full // 2), q.to_bytes(full // 2)]
