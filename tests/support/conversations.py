# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Recorded conversations with the simulator, led again with the device.

A recorded request holds values of the recorded device: nonces, masked keys, key numbers. The translator replaces each
by the value that the device at hand gave in the same place. Credentials are encrypted anew from the recorded secrets;
what a step damaged is found by comparison with what an honest client would have sent, and damaged in the same way.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_der_public_key

from ihsm.ddi.pota import SoftwareTrustAnchor, der_signature, endorse
from ihsm_abi.ddi import (
    OPERATIONS,
    ChangePinReq,
    DdiOp,
    DerPublicKey,
    EstablishCredentialReq,
    OpenSessionReq,
    ReopenSessionReq,
    ReqHdr,
    decode_request,
    decode_response,
    encode_message,
)
from ihsm_abi.ddi.masked_key import HEADER_BYTES, MaskedKey
from ihsm_abi.mbor import MborDecodeError, MborMap
from support import oracle, points

DATA = Path(__file__).parents[1] / "data" / "lifecycle-conversations.jsonl"
_P384 = ec.SECP384R1()
OTHER_ANCHOR = SoftwareTrustAnchor(ec.derive_private_key(0xBAD, _P384))
"""Signs where the recorded client used another POTA key than before."""


def conversations() -> dict[str, list[dict[str, Any]]]:
    """All recorded conversations by name."""
    found: dict[str, list[dict[str, Any]]] = {}
    for line in DATA.read_text().splitlines()[1:]:
        step = json.loads(line)
        found.setdefault(step["conv"], []).append(step)
    return found


def private_key(scalar: str) -> ec.EllipticCurvePrivateKey:
    """P-384 key of a hexadecimal scalar."""
    return ec.derive_private_key(int(scalar, 16), _P384)


def xor(first: bytes, second: bytes) -> bytes:
    """Difference of two byte strings of equal length."""
    return bytes(a ^ b for a, b in zip(first, second, strict=True))


def damaged_alike(recorded: bytes, honest: bytes, ours: bytes) -> bytes:
    """`ours` with the difference that there is between what was sent and what an honest client would have sent."""
    if len(recorded) < len(honest):
        return ours[: len(recorded)]
    return xor(ours, xor(recorded, honest)) if len(ours) == len(recorded) else recorded


@dataclasses.dataclass
class Translator:
    """Keeps, for one conversation, which value of the device stands for which recorded one."""

    bk3: bytes
    id: bytes
    pin: bytes
    anchor: SoftwareTrustAnchor
    nonces: dict[bytes, bytes] = dataclasses.field(default_factory=dict)
    device_keys: dict[str, ec.EllipticCurvePublicKey] = dataclasses.field(default_factory=dict)
    """The device's K_est and K_sess, from the latest responses."""
    scalars: dict[str, str] = dataclasses.field(default_factory=dict)
    """The recorded device's, from the latest event."""
    blobs: dict[bytes, bytes] = dataclasses.field(default_factory=dict)
    key_ids: dict[int, int] = dataclasses.field(default_factory=dict)
    outputs: dict[bytes, bytes] = dataclasses.field(default_factory=dict)
    """Results that later requests may carry, such as ciphertext."""
    identity: ec.EllipticCurvePublicKey | None = None

    @classmethod
    def of(cls, power_on: dict[str, Any]) -> Translator:
        """For the conversation that starts with this event."""
        client = power_on["client"]
        translator = cls(
            bk3=bytes.fromhex(client["bk3"]),
            id=bytes.fromhex(client["id"]),
            pin=bytes.fromhex(client["pin"]),
            anchor=SoftwareTrustAnchor(private_key(client["pota_scalar"])),
        )
        translator.scalars = power_on["device"]
        return translator

    # -- requests --------------------------------------------------------------------------------------------------

    def request(self, step: dict[str, Any]) -> bytes:
        """The step's request for the device at hand; what does not decode is sent as it was."""
        recorded = bytes.fromhex(step["req"])
        try:
            header, data = decode_request(recorded)
        except MborDecodeError:
            return recorded
        refused_before_decoding = isinstance(data, OpenSessionReq) and "client" not in step
        if refused_before_decoding or encode_message(header, data) != recorded:
            return recorded
        return encode_message(header, self._data(step, header, data))

    def _data(self, step: dict[str, Any], header: ReqHdr, data: MborMap) -> MborMap:
        if isinstance(data, EstablishCredentialReq):
            return self._establish(step, data)
        if isinstance(data, OpenSessionReq | ReopenSessionReq | ChangePinReq):
            return self._login(step, data)
        changes: dict[str, Any] = {}
        for field in data.mbor_fields:
            value = getattr(data, field.name)
            if field.name == "key_id":
                changes[field.name] = self.key_ids.get(value, value)
            elif field.name in ("masked_key", "sealed_bk3"):
                changes[field.name] = self.blob(value)
            elif isinstance(value, bytes):
                changes[field.name] = self.outputs.get(value, value)
        return dataclasses.replace(data, **changes)  # type: ignore[type-var]

    def _establish(self, step: dict[str, Any], data: EstablishCredentialReq) -> MborMap:
        assert self.identity is not None
        recorded_identity = private_key(self.scalars["K_att"]).public_key()
        anchor, spki = self.anchor, points.spki(self.anchor.public_key())
        sound = True
        if data.pota_pub_key.der != spki:
            try:
                other = load_der_public_key(data.pota_pub_key.der)
            except ValueError:
                other = None
            if isinstance(other, ec.EllipticCurvePublicKey):
                anchor = OTHER_ANCHOR
                sound = _endorses(other, data.pota_sig, recorded_identity)
        else:
            sound = _endorses(self.anchor.public_key(), data.pota_sig, recorded_identity)
        signature, key = endorse(anchor, self.identity)
        if len(data.pota_sig) != len(signature):
            signature = signature[: len(data.pota_sig)]
        elif not sound:
            signature = signature[:-1] + bytes([signature[-1] ^ 1])
        der = key.der if anchor is OTHER_ANCHOR or data.pota_pub_key.der == spki else data.pota_pub_key.der
        return dataclasses.replace(
            data,
            encrypted_credential=self._seal(step, data.encrypted_credential, "K_est"),
            masked_bk3=self.blob(data.masked_bk3),
            bmk=self.blob(data.bmk),
            masked_unwrapping_key=self.blob(data.masked_unwrapping_key),
            pota_sig=signature,
            pota_pub_key=DerPublicKey(der=der, key_kind=data.pota_pub_key.key_kind),
        )

    def _login(self, step: dict[str, Any], data: OpenSessionReq | ReopenSessionReq | ChangePinReq) -> MborMap:
        """The client's ephemeral key is sent as it was: its scalar is recorded."""
        if isinstance(data, ChangePinReq):
            return dataclasses.replace(data, new_pin=self._seal(step, data.new_pin, "K_sess"))
        sealed = self._seal(step, data.encrypted_credential, "K_sess")
        if isinstance(data, ReopenSessionReq):
            return dataclasses.replace(data, encrypted_credential=sealed, bmk_session=self.blob(data.bmk_session))
        return dataclasses.replace(data, encrypted_credential=sealed)

    def _seal(self, step: dict[str, Any], sealed: Any, device_key: str) -> Any:
        """The encrypted credential for the device at hand, damaged as the recorded one was."""
        plain = self._plaintext(step["client"], sealed)
        nonce = self.nonces.get(sealed.nonce, sealed.nonce)
        ephemeral = private_key(step["client"]["eph"])
        peer = self.device_keys.get(device_key, ephemeral.public_key())
        theirs = _Sealer(oracle.channel_keys(bytes.fromhex(step["device"]["Z"]), sealed.nonce), sealed.iv, sealed.nonce)
        ours = _Sealer(oracle.channel_keys(ephemeral.exchange(ec.ECDH(), peer), nonce), sealed.iv, nonce)
        honest, our_honest = theirs.encrypt(plain), ours.encrypt(plain)
        changes: dict[str, Any] = {"nonce": nonce}
        sent = our_sent = b""
        for name, size in (("encrypted_id", 16), ("encrypted_pin", 16), ("encrypted_seed", 48)):
            if hasattr(sealed, name):
                part = slice(len(sent), len(sent) + size)
                changes[name] = damaged_alike(getattr(sealed, name), honest[part], our_honest[part])
                sent += getattr(sealed, name).ljust(size, b"\0")
                our_sent += changes[name].ljust(size, b"\0")
        if sealed.tag == theirs.tag(sent):
            changes["tag"] = ours.tag(our_sent)
        else:
            changes["tag"] = damaged_alike(sealed.tag, theirs.tag(honest), ours.tag(our_honest))
        return dataclasses.replace(sealed, **changes)

    def _plaintext(self, client: dict[str, str], sealed: Any) -> bytes:
        if not hasattr(sealed, "encrypted_id"):
            return bytes.fromhex(client["new_pin"])
        plain = bytes.fromhex(client.get("id", self.id.hex())) + bytes.fromhex(client.get("pin", self.pin.hex()))
        return plain + (bytes.fromhex(client["seed"]) if hasattr(sealed, "encrypted_seed") else b"")

    # -- masked keys -----------------------------------------------------------------------------------------------

    def blob(self, recorded: bytes) -> bytes:
        """The device's masked key in place of a recorded one, damaged in the same part if that was damaged."""
        if not recorded or recorded in self.blobs:
            return self.blobs.get(recorded, recorded)
        for known, ours in self.blobs.items():
            if len(recorded) < len(known) and known.startswith(recorded):
                return ours[: len(ours) - (len(known) - len(recorded))] if len(recorded) > HEADER_BYTES else recorded
            if recorded.startswith(known):
                return ours + recorded[len(known) :]
            if len(recorded) == len(known):
                different = [at for at in range(len(known)) if known[at] != recorded[at]]
                if len(different) <= 2:
                    return _damage(known, recorded, ours, different)
        return recorded

    # -- responses -------------------------------------------------------------------------------------------------

    def learn(self, step: dict[str, Any], op: DdiOp, message: bytes) -> tuple[MborMap | None, MborMap | None]:
        """Note what stands for what in two successful responses; returns both data maps."""
        response = OPERATIONS[op].response
        _, recorded = decode_response(bytes.fromhex(step["resp"]), response)
        _, ours = decode_response(message, response)
        if recorded is None or ours is None:
            return recorded, ours
        if op in (DdiOp.GetEstablishCredEncryptionKey, DdiOp.GetSessionEncryptionKey):
            name = "K_est" if op == DdiOp.GetEstablishCredEncryptionKey else "K_sess"
            key = load_der_public_key(ours.pub_key.der)  # type: ignore[attr-defined]
            assert isinstance(key, ec.EllipticCurvePublicKey)
            self.device_keys[name] = key
            self.nonces[recorded.nonce] = ours.nonce  # type: ignore[attr-defined]
        for name in ("masked_bk3", "bmk", "bmk_session", "masked_key"):
            if hasattr(recorded, name):
                self.blobs[getattr(recorded, name)] = getattr(ours, name)
        for name in ("key_id", "private_key_id"):
            if hasattr(recorded, name):
                self.key_ids[getattr(recorded, name)] = getattr(ours, name)
        for name in ("msg", "iv"):
            if hasattr(recorded, name):
                self.outputs[getattr(recorded, name)] = getattr(ours, name)
        return recorded, ours


@dataclasses.dataclass(frozen=True)
class _Sealer:
    """Encryption and tag of one message, under the keys agreed for it."""

    keys: tuple[bytes, bytes]
    iv: bytes
    nonce: bytes

    def encrypt(self, plain: bytes) -> bytes:
        return oracle.aes_cbc(self.keys[0], self.iv.ljust(16, b"\0"), plain, encrypt=True)

    def tag(self, ciphertext: bytes) -> bytes:
        return oracle.hmac_sha384(self.keys[1], ciphertext + self.iv.ljust(16, b"\0") + self.nonce)


def _endorses(key: ec.EllipticCurvePublicKey, signature: bytes, identity: ec.EllipticCurvePublicKey) -> bool:
    if len(signature) != 96:
        return False
    message = b"\x04" + b"".join(
        part.to_bytes(48, "big") for part in (identity.public_numbers().x, identity.public_numbers().y)
    )
    try:
        key.verify(der_signature(signature), message, ec.ECDSA(hashes.SHA384()))
    except InvalidSignature:
        return False
    return True


def _damage(known: bytes, recorded: bytes, ours: bytes, different: list[int]) -> bytes:
    """Our blob, changed in the part (header, IV, metadata, ciphertext, tag) in which the recorded one was."""
    changed = bytearray(ours)
    for at in different:
        if at < HEADER_BYTES:
            changed[at] = recorded[at]
        else:
            changed[_corresponding(known, ours, at)] ^= known[at] ^ recorded[at]
    return bytes(changed)


def _corresponding(known: bytes, ours: bytes, at: int) -> int:
    theirs, mine = _boundaries(known), _boundaries(ours)
    part = max(index for index, start in enumerate(theirs) if start <= at)
    return mine[part] + (at - theirs[part])


def _boundaries(blob: bytes) -> list[int]:
    """Where IV, metadata, ciphertext and tag start."""
    parts = MaskedKey.parse(blob)
    return [HEADER_BYTES, HEADER_BYTES + len(parts.iv), parts.encrypted_key_offset, parts.tagged_bytes]
