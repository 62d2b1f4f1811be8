# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Replays the recorded key and crypto conversations (crypto-conversations.jsonl) against a security module.

Requests are the recorded ones; key numbers, masked keys and what depends on nonces are the device's own. Results that
are determined are compared with the recorded, independently computed ones. The unwrapping key is the recorded one, so
that the recorded wrapped blobs fit.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import cbor2
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, hmac
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed, encode_dss_signature
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.serialization import load_der_public_key

from ihsm.ddi import Credential, Partition, Session, SessionTicket, SoftwareTrustAnchor, verify_report
from ihsm_abi import mbor
from ihsm_abi.ddi import (
    OPERATIONS,
    AesOp,
    DdiOp,
    DdiStatus,
    DeviceKind,
    KeyAttributeFlags,
    KeyType,
    ReqHdr,
    decode_request_header,
    decode_response,
    encode_message,
)
from ihsm_abi.ddi.masked_key import MaskedKey, MaskedKeyAttributes, MaskedKeyMetadata, masked_key_head
from ihsm_abi.hsm_queue import ControlKind
from ihsm_abi.mbor import MborDecodeError, MborMap
from ihsm_device.hsm.device import DeviceOptions, HsmDevice
from ihsm_device.hsm.keystore import Handle, Owner
from support.fast_path_replay import FastPathReplay
from support.hsm import ModuleReply, ModuleTransport

TABLES = 3
FAST_PATH = ("gcm", "xts")
CLIENT_STEPS = {DdiOp.EstablishCredential, DdiOp.OpenSession, DdiOp.ReopenSession}
"""Steps that depend on the device's nonces: the client carries them out with the recorded secrets."""

# Crafted blobs are recorded in the simulator's form. In the firmware's form, which the default profile has, there is
# no application and no session id to contradict, fill is not examined, the size is that of the type, and a key that
# lacks its usage is refused where it is used (spec 05 §16.3; the unreachable rows of UnmaskKey in ddi-conditions.json).
CRAFTED_STATUS = {
    "other application": "Success",
    "other application and type 28": "InvalidArg",
    "type 28": "InvalidArg",
    "type Ecc256Public, 64 bytes": "InvalidArg",
    "type Ecc256Public, 32 bytes": "InvalidArg",
    "ciphertext of 48 bytes for AES-256": "InvalidArg",
    "non-zero fill": "Success",
    "ECC plaintext not parsable": "MaskedKeyDecodeFailed",
    "HKDF from it": "InvalidPermissions",
    "Hmac with it": "InvalidPermissions",
    "recorded session id of another session": "Success",
    "other session id and other application": "Success",
}
STORED_LENGTH = {KeyType.Secret521: 68, KeyType.Ecc256Private: 32}
REFUSED_KEYS = {"rsa-unwrap": "rsa2048", "rsa-crt-unwrap": "rsa2048-crt"}
"""Keys that the profile refuses to make (an RSA import for Unwrap): where one is used, another import stands in."""
RANDOM_KEY_STEPS = {"use of the unmasked key", "use of the session key"}
"""Uses of keys that the device generated: their results are computed anew."""


@dataclass(frozen=True)
class Step:
    """One recorded step."""

    number: int
    record: dict[str, Any]

    @property
    def name(self) -> str:
        return f"{self.number}: {self.record['conv']}, {self.record['step'].strip()}"

    @property
    def fast_path(self) -> bool:
        return self.record["op"] in FAST_PATH

    @property
    def status(self) -> str:
        """What the default profile answers."""
        if self.record["step"] in CRAFTED_STATUS and self.record["conv"].startswith("mask"):
            return CRAFTED_STATUS[self.record["step"]]
        if self.record.get("uses", {}).get("key_id") in REFUSED_KEYS:
            return "InvalidPermissions"  # no user's key unwraps, whatever its usage (spec 05 §12.4 row 2)
        if self.record["step"] == "GetCertificate(0, 1)":
            return "Success"  # the profile's chain has more than one certificate
        if self.record["conv"] == "capacity":
            return "Success"  # and its tables more room
        status: str = self.record.get("profile", {}).get("status", self.record["status"])
        return status

    def expected(self, name: str, recorded: Any) -> Any:
        """A value of the record, or the profile's in its place."""
        return self.record.get("profile", {}).get(name, recorded)


def load(path: Path) -> tuple[dict[str, str], list[Step]]:
    """Named keys of the file (hex) and its steps."""
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return lines[0]["keys"], [Step(number, line) for number, line in enumerate(lines[1:], start=2)]


class _RecordedUnwrappingKey:
    """A stock that hands out the recorded unwrapping key."""

    def __init__(self, device: HsmDevice, der: bytes) -> None:
        self._device, self._der = device, der

    def take(self, owner: Owner) -> Handle:
        secret = self._device.store.import_secret(self._der, owner)
        try:
            return self._device.store.rsa_import_der(secret, False, owner)
        finally:
            self._device.store.destroy(secret)

    try_take = take

    def close(self) -> None:
        """Nothing to stop."""


@dataclass
class Outcome:
    """What came of a step: nothing, or why it failed."""

    error: str | None = None


class CryptoReplay:
    """All conversations, in order, against one device."""

    def __init__(self, path: Path) -> None:
        self.keys, self.steps = load(path)
        self.device = HsmDevice(DeviceOptions(kind=DeviceKind.Virtual, validation_hooks=True))
        self.device.unwrapping_keys.close()
        (pkcs8,) = [
            s.record["derived"]["private_key_pkcs8"]
            for s in self.steps
            if "private_key_pkcs8" in s.record.get("derived", {})
        ]
        self.device.unwrapping_keys = _RecordedUnwrappingKey(self.device, bytes.fromhex(pkcs8))  # type: ignore[assignment]
        self.module = self.device.function(0, TABLES)
        self.fast_path = FastPathReplay(self.device.store, self.module.bulk_table)
        self.client = Partition(ModuleTransport(self.module))
        self.ids: dict[int, int] = {}
        """Key number of the recording → key number of the device, for the keys that live now."""
        self.names: dict[str, int] = {}
        self.blobs: dict[bytes, bytes] = {}
        self.public: dict[int, ec.EllipticCurvePublicKey] = {}
        self.masked_bk3 = self.bmk = self.masked_unwrapping_key = b""
        self.sessions: dict[int, Session] = {}
        self.outcomes: dict[int, Outcome] = {}

    def run(self) -> dict[int, Outcome]:
        """Replay every step; the outcome of each by its number."""
        try:
            for step in self.steps:
                self.outcomes[step.number] = self._run(step)
        finally:
            self.fast_path.close()
            self.device.close()
        return self.outcomes

    def _run(self, step: Step) -> Outcome:
        try:
            self._replay(step)
        except AssertionError as error:
            return Outcome(str(error) or "assertion")
        except Exception as error:
            return Outcome(f"{type(error).__name__}: {error}")
        return Outcome()

    # -- one step --------------------------------------------------------------------------------------------------

    def _replay(self, step: Step) -> None:
        record = step.record
        if step.fast_path:
            self.fast_path.run(record, lambda name, recorded: self._key_number(step, name, recorded))
            return
        if record["op"] == "NSSR":
            self.module.nssr()
            return
        if DdiOp[record["op"]] in CLIENT_STEPS:
            self._client_step(step)
            return
        message = bytes.fromhex(record["req"])
        header, request = _decode(message)
        mapped = None if request is None else self._map(step, request)
        if mapped is not None and mapped != request:
            assert header is not None
            message = encode_message(header, mapped)
        reply = ModuleTransport(self.module).exchange(message, ControlKind(record["kind"]), record["sess"])
        status = reply.header.status
        assert status == DdiStatus[step.status], f"status {status.name}, expected {step.status}"
        if status == DdiStatus.Success and header is not None and mapped is not None:
            _, response = decode_response(reply.message, OPERATIONS[header.op].response)
            assert response is not None
            self._check_session_fields(step, reply)
            self._take(step, mapped, response)

    def _check_session_fields(self, step: Step, reply: ModuleReply) -> None:
        fields = step.record.get("cqe")
        if fields is not None:
            flags = reply.completion.flags
            assert (flags.kind, reply.session_id) == (fields["kind"], fields["session_id"]), "completion fields"

    def _map(self, step: Step, request: MborMap) -> MborMap:
        """The request with key numbers and masked keys of the device in place of the recorded ones."""
        changes: dict[str, Any] = {}
        for name in ("key_id", "priv_key_id"):
            recorded = getattr(request, name, None)
            if recorded is not None:
                changes[name] = self._key_number(step, name, recorded)
        if step.record["op"] == "UnmaskKey":
            changes["masked_key"] = self._masked_key(step, request.masked_key)  # type: ignore[attr-defined]
        return replace(request, **changes) if changes else request

    def _key_number(self, step: Step, name: str, recorded: int) -> int:
        if "session object" in step.record["step"]:
            vault = self.module.partition.state.vault
            return next(n for n in range(256) if (entry := vault.get(n)) is not None and entry.content.type is None)
        key = step.record.get("uses", {}).get(name)
        return self.names[REFUSED_KEYS.get(key, key)] if key is not None else self.ids.get(recorded, recorded)

    def _take(self, step: Step, request: MborMap, response: MborMap) -> None:
        """Check a successful response and remember what it made."""
        record = step.record
        _, recorded = (
            decode_response(bytes.fromhex(record["resp"]), type(response)) if "resp" in record else (None, None)
        )
        if record["status"] != "Success":
            recorded = None
        for name in () if record["step"] in RANDOM_KEY_STEPS else record.get("checked", ()):
            self._compare(name, getattr(response, name), getattr(recorded, name))
        for name, number in record.get("makes", {}).items():
            ours = getattr(response, "key_id", None)
            ours = response.private_key_id if ours is None else ours  # type: ignore[attr-defined]
            self.names[name] = self.ids[number] = ours
        self._remember(request, response, recorded)
        self._check_derived(step, response)
        self._check_expected(step, request, response)
        if record["op"] == "AesEncryptDecrypt":
            self._check_cbc(request, response)

    def _compare(self, name: str, ours: Any, recorded: Any) -> None:
        if name in ("key_id", "bulk_key_id"):
            recorded = self.ids.get(recorded, recorded)
        assert ours == recorded, f"{name}: {ours!r}, expected {recorded!r}"

    def _remember(self, request: MborMap, response: MborMap, recorded: MborMap | None) -> None:
        masked = getattr(response, "masked_key", None)
        if masked is not None and recorded is not None:
            self.blobs[recorded.masked_key] = masked  # type: ignore[attr-defined]
            self._check_masked(response, masked)
        if type(request).__name__ == "GetUnwrappingKeyReq":
            self.masked_unwrapping_key = masked or b""
            if recorded is not None:
                self.names["unwrapping"] = self.ids[recorded.key_id] = response.key_id  # type: ignore[attr-defined]
        if type(request).__name__ == "InitBk3Req":
            self.masked_bk3 = response.masked_bk3  # type: ignore[attr-defined]
        public = getattr(response, "pub_key", None)
        number = getattr(response, "private_key_id", None) or getattr(response, "key_id", None)
        if public is not None and number is not None and public.der:
            key = load_der_public_key(public.der)
            if isinstance(key, ec.EllipticCurvePublicKey):
                self.public[number] = key

    # -- values ----------------------------------------------------------------------------------------------------

    def _check_derived(self, step: Step, response: MborMap) -> None:
        """Secret results, where they are determined: what lies in the store is what was computed independently."""
        derived = step.record.get("derived", {})
        value = derived.get("key") or derived.get("secret")
        if value is None and step.record["op"] in ("EcdhKeyExchange", "HkdfDerive"):
            value = derived.get("plaintext")
        if value is None:
            return
        entry = self.module.partition.state.vault.get(response.key_id)  # type: ignore[attr-defined]
        assert entry is not None
        assert self.device.store.hook_reveal(entry.content.handle).hex() == value, "derived value"

    def _check_cbc(self, request: Any, response: Any) -> None:
        entry = self.module.partition.state.vault.get(request.key_id)
        assert entry is not None
        cipher = Cipher(algorithms.AES(self._reveal(entry.content.handle)), modes.CBC(request.iv))
        context = cipher.encryptor() if request.op == AesOp.Encrypt else cipher.decryptor()
        assert response.msg == context.update(request.msg), "CBC"

    def _check_expected(self, step: Step, request: MborMap, response: MborMap) -> None:
        expect = step.record.get("expect", {})
        if "verifies" in expect:
            assert _verifies(self.public[request.key_id], request.digest, response.signature) == expect["verifies"]  # type: ignore[attr-defined]
        if "length" in expect:
            assert len(response.signature) == expect["length"]  # type: ignore[attr-defined]
        if step.record["op"] == "AttestKey":
            self._check_report(step, request, response.report)  # type: ignore[attr-defined]

    def _check_report(self, step: Step, request: MborMap, report: bytes) -> None:
        key = self.client.certificate_chain().certificates[-1].public_key()
        assert isinstance(key, ec.EllipticCurvePublicKey)
        verify_report(report, key, report_data=request.report_data)  # type: ignore[attr-defined]
        payload = cbor2.loads(cbor2.loads(report).value[2])
        fields = {
            name: payload[number]
            for number, name in enumerate(
                ("version", "public_key", "public_key_size", "flags", "app_uuid", "report_data", "vm_launch_id")
            )
        }
        for name, value in (step.record.get("expect", {}) | step.record.get("profile", {})).items():
            if name in fields:
                ours = fields[name].hex() if isinstance(fields[name], bytes) else fields[name]
                assert ours == value, f"{name}: {ours}, expected {value}"

    def _check_masked(self, response: MborMap, blob: bytes) -> None:
        """An independent look into a masked key: it opens under the masking key and holds what the store holds."""
        parts = MaskedKey.parse(blob)
        metadata, _ = mbor.decode(MaskedKeyMetadata, parts.metadata)
        number = getattr(response, "private_key_id", None) or getattr(response, "key_id", None)
        entry = self.module.partition.state.vault.get(number)
        assert entry is not None
        session = bool(metadata.key_attributes.flags & KeyAttributeFlags.SESSION)
        key = self._masking_key(0 if entry.content.session is None else entry.content.session.id, session)
        plain = _open(key, blob, parts)
        value = self.device.store.hook_reveal(entry.content.handle)
        assert plain.startswith(value), "masked value"
        assert not any(plain[len(value) :]), "fill of the masked value"

    @cached_property
    def _reveal(self) -> Callable[[Handle], bytes]:
        return self.device.store.hook_reveal

    def _masking_key(self, session_id: int, session_only: bool) -> bytes:
        partition = self.module.partition
        if session_only:
            session = partition.sessions.live(session_id)
            assert session is not None
            return self._reveal(session.masking_key)
        assert partition.state.provisioned is not None
        return self._reveal(partition.state.provisioned.masking_key)

    # -- masked keys of requests -----------------------------------------------------------------------------------

    def _masked_key(self, step: Step, recorded: bytes) -> bytes:
        inputs = step.record.get("in", {})
        if "plaintext" in inputs:
            return self._craft(step, inputs)
        if recorded in self.blobs:
            return self.blobs[recorded]
        return _damage(step.record["step"], self.blobs[self._nearest(recorded)])

    def _nearest(self, recorded: bytes) -> bytes:
        """The recorded blob that a damaged one was made from: the one with most bytes in common."""
        return max(self.blobs, key=lambda blob: sum(a == b for a, b in zip(blob, recorded, strict=False)))

    def _craft(self, step: Step, inputs: dict[str, Any]) -> bytes:
        key_type, flags = KeyType(inputs["key_type"]), KeyAttributeFlags(inputs["flags"])
        plain = bytes.fromhex(inputs["plaintext"])
        attributes = bytearray(MaskedKeyAttributes.of(flags).blob)
        attributes[10:26] = bytes.fromhex(inputs["app_id"])
        tag = inputs["a16"] if inputs["a16"] and not flags & KeyAttributeFlags.SESSION else None
        metadata = MaskedKeyMetadata(
            svn=1,
            key_type=key_type,
            key_attributes=MaskedKeyAttributes(blob=bytes(attributes)),
            bks2_index=0,
            key_tag=tag,
            key_label=b"",
            key_length=STORED_LENGTH.get(key_type, len(plain)),
        )
        padded = plain + (b"\xff" if "non-zero" in step.record["step"] else b"\0") * (16 - len(plain) % 16)
        key = self._masking_key(step.record["sess"], bool(flags & KeyAttributeFlags.SESSION))
        iv = bytes(range(16))
        head = masked_key_head(iv, mbor.encode(metadata), len(padded))
        encryptor = Cipher(algorithms.AES(key[:32]), modes.CBC(iv)).encryptor()
        body = head + encryptor.update(padded)
        mac = hmac.HMAC(key[32:], hashes.SHA384())
        mac.update(body)
        tag_bytes = mac.finalize()
        return body + (bytes(48) if step.record["step"] == "MAC wrong" else tag_bytes)

    # -- steps of the client ---------------------------------------------------------------------------------------

    def _client_step(self, step: Step) -> None:
        record, secrets = step.record, {k: bytes.fromhex(v) for k, v in step.record["in"].items()}
        credential = Credential(secrets["id"], secrets["pin"])
        if record["op"] == "EstablishCredential":
            anchor = SoftwareTrustAnchor(
                ec.derive_private_key(int.from_bytes(secrets["pota_scalar"], "big"), ec.SECP384R1())
            )
            sent = self.bmk
            self.bmk = self.client.establish_credential(
                credential, self.masked_bk3, anchor, bmk=sent, masked_unwrapping_key=self.masked_unwrapping_key
            )
            assert not sent or self.bmk == sent, "BMK is echoed"
            return
        if record["op"] == "OpenSession":
            session = self.client.open_session(credential, seed=secrets["seed"])
        else:
            old = self.sessions[record["sess"]]
            ticket = SessionTicket(old.session_id, secrets["seed"], old.ticket.bmk_session)
            session = self.client.reopen_session(credential, ticket)
        assert session.session_id == record["cqe"]["session_id"], "session id"
        self.sessions[session.session_id] = session


def _decode(message: bytes) -> tuple[ReqHdr | None, MborMap | None]:
    """Header and data of a request, None for what does not decode or has no known operation."""
    try:
        header, offset = decode_request_header(message)
        operation = OPERATIONS.get(header.op)
        if operation is None:
            return header, None
        request, _ = mbor.decode(operation.request, message, offset + 2)
    except MborDecodeError:
        return None, None
    return header, request


def _verifies(key: ec.EllipticCurvePublicKey, digest: bytes, signature: bytes) -> bool:
    """ECDSA over a digest of any length: OpenSSL insists on a hash's length, so high zeros make one up."""
    half = len(signature) // 2
    size = min(n for n in (20, 28, 32, 48, 64) if n >= min(len(digest), 64))
    order_bytes = (key.curve.key_size + 7) // 8
    digest = digest[:order_bytes] if len(digest) > size else digest
    algorithm: Any = {
        20: hashes.SHA1(),
        28: hashes.SHA224(),
        32: hashes.SHA256(),
        48: hashes.SHA384(),
        64: hashes.SHA512(),
    }[size]
    der = encode_dss_signature(int.from_bytes(signature[:half], "big"), int.from_bytes(signature[half:], "big"))
    try:
        key.verify(der, digest[:size].rjust(size, b"\0"), ec.ECDSA(Prehashed(algorithm)))
    except InvalidSignature:
        return False
    return True


def _open(key: bytes, blob: bytes, parts: MaskedKey) -> bytes:
    mac = hmac.HMAC(key[32:], hashes.SHA384())
    mac.update(blob[: parts.tagged_bytes])
    mac.verify(parts.tag)
    decryptor = Cipher(algorithms.AES(key[:32]), modes.CBC(parts.iv)).decryptor()
    return decryptor.update(parts.encrypted_key)


def _damage(step: str, blob: bytes) -> bytes:
    """The damage that a step describes, done to a blob of the device."""
    parts = MaskedKey.parse(blob)
    at = parts.encrypted_key_offset
    ranges = {
        "header": (0, 4),
        "lengths": (4, 18),
        "reserved": (18, 52),
        "IV": (52, 68),
        "metadata": (68, 68 + len(parts.metadata)),
        "ciphertext": (at, at + len(parts.encrypted_key)),
        "tag": (len(blob) - len(parts.tag), len(blob)),
    }
    if step.endswith("filled with ff"):
        first, end = ranges[step.removesuffix(" filled with ff")]
        return blob[:first] + b"\xff" * (end - first) + blob[end:]
    return {
        "empty": b"",
        "3 bytes": blob[:3],
        "one byte short": blob[:-1],
        "one byte longer": blob + b"\0",
        "zero filled to 3072": blob.ljust(3072, b"\0"),
        "version 2 without new MAC": b"\2" + blob[1:],
    }[step]
