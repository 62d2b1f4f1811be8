# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Credential encryption recomputed from the secrets of recorded conversations (spec 04 §5)."""

from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from ihsm.ddi.credentials import Credential, CredentialCipher, Entropy
from ihsm.ddi.errors import ResponseError
from ihsm_abi.ddi import (
    OPERATIONS,
    ChangePinReq,
    DerPublicKey,
    EstablishCredentialReq,
    GetEstablishCredEncryptionKeyResp,
    GetSessionEncryptionKeyResp,
    KeyType,
    OpenSessionReq,
    ReopenSessionReq,
    decode_request,
    decode_request_header,
    decode_response,
)
from ihsm_abi.ddi.limits import SESSION_SEED_BYTES
from support.ddi_replay import fixed_entropy, lines

KEY_RESPONSES = {
    "GetEstablishCredEncryptionKey": GetEstablishCredEncryptionKeyResp,
    "GetSessionEncryptionKey": GetSessionEncryptionKeyResp,
}
REQUESTS = (EstablishCredentialReq, OpenSessionReq, ReopenSessionReq, ChangePinReq)


def exchanges() -> list[Any]:
    """Every credential that a recorded conversation accepted, with the key response it answers."""
    found: list[Any] = []
    setting: dict[str, str] = {}
    offered: Any = None
    pin = ""
    for line in lines("lifecycle-conversations.jsonl")[1:]:
        if line["n"] == 0:
            setting, pin = line["client"], line["client"]["pin"]
        # One request sends a shortened array, which the simulator fills with zeros: no client makes that.
        if line.get("status") != "Success" or line["step"] == "encrypted_pin 15 bytes":
            continue
        message = bytes.fromhex(line["req"])
        header, _ = decode_request_header(message)
        if header.op.name in KEY_RESPONSES:
            _, offered = decode_response(bytes.fromhex(line["resp"]), KEY_RESPONSES[header.op.name])
        elif OPERATIONS[header.op].request in REQUESTS:
            _, request = decode_request(message)
            client = {**setting, "pin": pin, **line.get("client", {})}
            found.append(pytest.param(line, client, offered, request, id=f"{line['conv']}-{line['n']}"))
            if isinstance(request, ChangePinReq):
                pin = client["new_pin"]
            elif isinstance(request, EstablishCredentialReq):
                pin = client["pin"]
    return found


@pytest.mark.parametrize(("line", "client", "offered", "request_data"), exchanges())
def test_recorded_credentials(line: dict[str, Any], client: dict[str, str], offered: Any, request_data: Any) -> None:
    encrypted = request_data.new_pin if isinstance(request_data, ChangePinReq) else request_data.encrypted_credential
    cipher = CredentialCipher.agree(offered.pub_key, encrypted.nonce, fixed_entropy(client["eph"], encrypted.iv))
    assert cipher.public_key == request_data.pub_key
    device = line.get("device", {})
    if "AES_K" in device:
        assert (cipher.aes_key.hex(), cipher.mac_key.hex()) == (device["AES_K"], device["MAC_K"])
    if isinstance(request_data, ChangePinReq):
        assert cipher.new_pin(bytes.fromhex(client["new_pin"])) == encrypted
        return
    credential = Credential(bytes.fromhex(client["id"]), bytes.fromhex(client["pin"]))
    if isinstance(request_data, EstablishCredentialReq):
        assert cipher.establish_credential(credential) == encrypted
    else:
        assert cipher.session_credential(credential, bytes.fromhex(client["seed"])) == encrypted


def test_recordings_cover_all_four_operations() -> None:
    kinds = [type(parameters.values[3]) for parameters in exchanges()]
    assert {kind: kinds.count(kind) >= 2 for kind in REQUESTS} == dict.fromkeys(REQUESTS, True)


def test_default_entropy_is_fresh() -> None:
    entropy = Entropy()
    assert entropy.random(SESSION_SEED_BYTES) != entropy.random(SESSION_SEED_BYTES)
    first, second = (entropy.ephemeral_key().private_numbers().private_value for _ in range(2))
    assert first != second


@pytest.mark.parametrize("curve", [ec.SECP256R1(), ec.SECP521R1()])
def test_other_curves_are_refused(curve: ec.EllipticCurve) -> None:
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    der = ec.generate_private_key(curve).public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    with pytest.raises(ResponseError, match="P-384"):
        CredentialCipher.agree(DerPublicKey(der=der, key_kind=KeyType.Ecc384Public), bytes(32), Entropy())
    with pytest.raises(ResponseError):
        CredentialCipher.agree(DerPublicKey(der=b"junk", key_kind=KeyType.Ecc384Public), bytes(32), Entropy())


def test_wrong_lengths_name_field_value_and_limit() -> None:
    with pytest.raises(ValueError, match="PIN: 15 bytes, must be 16"):
        Credential(bytes(16), bytes(15))
    with pytest.raises(ValueError, match="credential id: 17 bytes"):
        Credential(bytes(17), bytes(16))


def test_secrets_stay_out_of_representations() -> None:
    pin = bytes(range(16))
    assert pin.hex() not in repr(Credential(bytes(16), pin))
    assert repr(pin) not in repr(Credential(bytes(16), pin))
