# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""The run of `ddi-vectors.json` that was executed by the simulator, led with the device in both dialects."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.serialization import load_der_public_key

from ihsm.ddi.credentials import Credential, CredentialCipher, Entropy
from ihsm.ddi.pota import SoftwareTrustAnchor, endorse
from ihsm_abi.ddi import (
    OPERATIONS,
    ChangePinReq,
    DdiOp,
    EstablishCredentialReq,
    GetEstablishCredEncryptionKeyResp,
    GetSessionEncryptionKeyResp,
    HashAlgorithm,
    OpenSessionReq,
    ReopenSessionReq,
    RsaUnwrapReq,
    decode_request,
    decode_response,
    encode_message,
)
from ihsm_abi.ddi.formats import WRAPPED_KEK_BYTES
from ihsm_abi.hsm_queue import ControlKind
from ihsm_abi.mbor import MborMap
from support.conversations import private_key
from support.hsm import Scene, Stage

RUN = json.loads((Path(__file__).parents[2] / "data" / "ddi-vectors.json").read_text())
INPUTS: dict[str, str] = RUN["inputs"]
STEPS: list[dict[str, Any]] = RUN["executed"]["steps"]
KEK = bytes.fromhex(RUN["executed"]["derived"]["KEK of RsaUnwrap"])
PROFILE = {
    6: "SealedBk3AlreadySet",
    12: "VaultAppLimitReached",
    45: "UnmaskUnwrappingKeyNotAllowed",
    67: "SessionNotFound",
}
"""Steps that the default profile answers otherwise (spec 04 §15.1)."""
NEW_PIN = bytes(range(0x80, 0x90))
PIN_AFTER_CHANGE = {52}
UNWRAPPING_KEY = 0
HASHES: dict[int, type[hashes.HashAlgorithm]] = {
    HashAlgorithm.Sha1: hashes.SHA1,
    HashAlgorithm.Sha256: hashes.SHA256,
    HashAlgorithm.Sha384: hashes.SHA384,
    HashAlgorithm.Sha512: hashes.SHA512,
}


@dataclasses.dataclass
class Run:
    """Leads the run; keeps which of the device's values stands for which recorded one."""

    scene: Scene
    values: dict[bytes, bytes] = dataclasses.field(default_factory=dict)
    key_ids: dict[int, int] = dataclasses.field(default_factory=dict)
    unwrapping: rsa.RSAPublicKey | None = None
    encryption: GetEstablishCredEncryptionKeyResp | GetSessionEncryptionKeyResp | None = None

    def step(self, step: dict[str, Any]) -> None:
        header, recorded = decode_request(bytes.fromhex(step["request"]))
        request = self.scene.dialect.to_wire(self.translate(step["n"], recorded))
        entry = step["queue_entry"]
        message = encode_message(header, request)
        reply = self.scene.send(message, ControlKind(entry["control_kind"]), entry["session_id"])
        assert reply.status.name == PROFILE.get(step["n"], step["status"])
        if reply.status == 0:
            self.learn(step, header.op, reply.message)

    def translate(self, n: int, data: MborMap) -> MborMap:
        if isinstance(data, EstablishCredentialReq | OpenSessionReq | ReopenSessionReq | ChangePinReq):
            data = self.credential(n, data)
        if isinstance(data, RsaUnwrapReq):
            data = dataclasses.replace(data, wrapped_blob=self.wrap(data))
        changes: dict[str, Any] = {}
        for field in data.mbor_fields:
            value = getattr(data, field.name)
            if field.name in ("key_id", "priv_key_id"):
                changes[field.name] = self.key_ids.get(value, value)
            elif isinstance(value, bytes) and value in self.values:
                changes[field.name] = self.values[value]
        return dataclasses.replace(data, **changes)  # type: ignore[type-var]

    def credential(self, n: int, data: Any) -> Any:
        """The same credential, encrypted to the device's key under its nonce."""
        assert self.encryption is not None
        entropy = Entropy(ephemeral_key=lambda: private_key(INPUTS["client ephemeral scalar"]))
        cipher = CredentialCipher.agree(self.encryption.pub_key, self.encryption.nonce, entropy)
        pin = NEW_PIN if n in PIN_AFTER_CHANGE else bytes.fromhex(INPUTS["pin"])
        credential = Credential(bytes.fromhex(INPUTS["id"]), pin)
        if isinstance(data, ChangePinReq):
            new_pin = cipher.new_pin(NEW_PIN)
            return dataclasses.replace(data, new_pin=new_pin, pub_key=cipher.public_key)
        if isinstance(data, EstablishCredentialReq):
            anchor = SoftwareTrustAnchor(private_key(INPUTS["POTA scalar"]))
            signature, key = endorse(anchor, self.scene.client.identity_key())
            assert key == data.pota_pub_key
            sealed: Any = cipher.establish_credential(credential)
            data = dataclasses.replace(data, pota_sig=signature)
        else:
            sealed = cipher.session_credential(credential, bytes.fromhex(INPUTS["seed"]))
        return dataclasses.replace(data, encrypted_credential=sealed, pub_key=cipher.public_key)

    def wrap(self, data: RsaUnwrapReq) -> bytes:
        """The recorded payload for the device's unwrapping key."""
        assert self.unwrapping is not None
        algorithm = HASHES[data.wrapped_blob_hash_algorithm]()
        oaep = padding.OAEP(padding.MGF1(algorithm), algorithm, None)
        return self.unwrapping.encrypt(KEK, oaep) + data.wrapped_blob[WRAPPED_KEK_BYTES:]

    def learn(self, step: dict[str, Any], op: DdiOp, message: bytes) -> None:
        response = OPERATIONS[op].response
        if step["status"] != "Success":
            return
        _, recorded = decode_response(bytes.fromhex(step["response"]), response)
        _, answer = decode_response(message, response)
        assert recorded is not None
        assert answer is not None
        ours = self.scene.dialect.to_host(answer)
        for field in recorded.mbor_fields:
            theirs, mine = getattr(recorded, field.name), getattr(ours, field.name)
            assert (theirs is None) == (mine is None), field.name
            if field.name in ("key_id", "private_key_id"):
                self.key_ids[theirs] = mine
            elif field.name in ("masked_bk3", "bmk", "bmk_session", "masked_key", "sealed_bk3", "msg", "iv", "x"):
                self.values[theirs] = mine
            elif (
                field.name in ("kind", "key_kind", "min", "max", "sess_id", "short_app_id")
                and op != DdiOp.GetDeviceInfo
            ):
                assert mine == theirs
        if isinstance(ours, GetEstablishCredEncryptionKeyResp | GetSessionEncryptionKeyResp):
            self.encryption = ours
        if op == DdiOp.GetUnwrappingKey:
            key = load_der_public_key(ours.pub_key.der)  # type: ignore[attr-defined]
            assert isinstance(key, rsa.RSAPublicKey)
            self.unwrapping = key


@pytest.fixture(scope="module")
def run(stage: Stage) -> Run:
    run = Run(stage.fresh())
    run.scene.client.info()
    return run


@pytest.mark.parametrize("step", STEPS, ids=lambda step: f"{step['n']}-{step.get('op', 'NSSR')}")
def test_step(run: Run, step: dict[str, Any]) -> None:
    """In the file's order; a step that fails takes those with it that build on it."""
    if "event" in step:
        run.scene.module.nssr()
    else:
        run.step(step)


def test_the_device_ends_as_the_simulator_did(run: Run) -> None:
    assert run.scene.module.status()["sessions"] == {}
    assert isinstance(load_der_public_key(run.encryption.pub_key.der), ec.EllipticCurvePublicKey)  # type: ignore[union-attr]
