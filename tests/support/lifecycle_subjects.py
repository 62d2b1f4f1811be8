# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Good commands of the life-cycle operations, and a fault for every check that they can fail (spec 04 §9)."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec

from ihsm.ddi.credentials import Credential, CredentialCipher, Entropy
from ihsm.ddi.pota import endorse
from ihsm_abi import mbor
from ihsm_abi.ddi import (
    ChangePinReq,
    CloseSessionReq,
    DdiOp,
    DerPublicKey,
    DeviceKind,
    EstablishCredentialReq,
    GetCertChainInfoReq,
    GetCertificateReq,
    GetEstablishCredEncryptionKeyReq,
    GetEstablishCredEncryptionKeyResp,
    GetSealedBk3Req,
    GetSessionEncryptionKeyReq,
    GetSessionEncryptionKeyResp,
    GetUnwrappingKeyReq,
    InitBk3Req,
    KeyAttributeFlags,
    KeyType,
    OpenSessionReq,
    ReopenSessionReq,
    SetSealedBk3Req,
)
from ihsm_abi.ddi.masked_key import MaskedKey, MaskedKeyMetadata, masked_key_head
from ihsm_device.hsm.errors import RefusedError
from ihsm_device.hsm.keystore import Handle
from ihsm_device.hsm.partition import Entry, NewEntry
from ihsm_device.hsm.partition.vault import BLOCK_BYTES
from support import points
from support.faults import Change, Draft, Fault, Subject, fault
from support.hsm import BK3, CREDENTIAL, SEED, Scene

OTHER_PIN = bytes(range(0x60, 0x70))
DUMMY_KEY = ec.derive_private_key(12345, ec.SECP384R1())


# -- small changes ---------------------------------------------------------------------------------------------------


def flipped(data: bytes, at: int = -1) -> bytes:
    """The bytes with one bit changed."""
    changed = bytearray(data)
    changed[at] ^= 1
    return bytes(changed)


def with_svn(blob: bytes, svn: int | None) -> bytes:
    """A masked key that names another security version; its tag is not made anew."""
    parts = MaskedKey.parse(blob)
    metadata, _ = mbor.decode(MaskedKeyMetadata, parts.metadata)
    changed = mbor.encode(dataclasses.replace(metadata, svn=svn))
    return masked_key_head(parts.iv, changed, len(parts.encrypted_key)) + parts.encrypted_key + parts.tag


def setting(name: str, value: Any) -> Change:
    """Set a field of the request."""
    return lambda draft: draft.replace(**{name: value})


def changing(outer: str, name: str, change: Callable[[Any], Any]) -> Change:
    """Change a field of a nested map of the request."""
    return lambda draft: draft.replace_in(outer, **{name: change(getattr(getattr(draft.request, outer), name))})


def inputting(**values: Any) -> Change:
    """Set inputs of the request."""
    return lambda draft: draft.inputs.update(values)


def key_faults(name: str, field: str) -> tuple[Fault, ...]:
    """Every bad form of a public key."""

    def wire(change: Callable[[bytes, DeviceKind], bytes]) -> Change:
        return lambda draft: draft.replace_in(field, der=change(getattr(draft.request, field).der, draft.scene.kind))

    bad = {
        "no-der": lambda der, kind: der[:-1],
        "infinity": lambda der, kind: points.infinity(),
        "compressed": lambda der, kind: points.compressed(der),
        "other-curve": lambda der, kind: points.ec_spki(ec.SECP256R1()),
        "foreign-curve": lambda der, kind: points.ec_spki(ec.SECP256K1()),
        "short": lambda der, kind: der[:95],
        "range": points.out_of_range,
        "off-curve": points.off_curve,
    }
    return tuple(fault(f"{name}-{what}", field, wire=wire(change)) for what, change in bad.items())


# -- state of the vault ------------------------------------------------------------------------------------------------


def _dummy(value_bytes: int) -> NewEntry:
    return NewEntry(KeyType.Aes256, Handle(0), value_bytes, KeyAttributeFlags.LOCAL)


def fill_vault(scene: Scene) -> None:
    """Leave no room for anything."""
    _fill(scene, [1024, 64, 0])


def fragment_vault(scene: Scene) -> None:
    """Leave room in total, but in pieces too small for a session object (15 blocks)."""
    entries = _fill(scene, [10 * BLOCK_BYTES, 0])
    for entry in entries[1:-2:2]:
        scene.state.vault.remove(entry)


def _fill(scene: Scene, sizes: list[int]) -> list[Entry]:
    entries = []
    for size in sizes:
        while True:
            try:
                entries.append(scene.state.vault.add(_dummy(size)))
            except RefusedError:
                break
    return entries


# -- credentials -------------------------------------------------------------------------------------------------------


def cipher(draft: Draft) -> CredentialCipher:
    """Keys agreed for the draft: with the device's key and nonce, unless the inputs bring others."""
    channel = draft.scene.client.channel
    if "device_key" in draft.inputs:
        key, nonce = draft.inputs["device_key"], draft.scene.state.nonce
    elif draft.op == DdiOp.EstablishCredential and draft.scene.state.credential is None:
        made = channel.call(GetEstablishCredEncryptionKeyReq(), GetEstablishCredEncryptionKeyResp)
        key, nonce = made.pub_key, made.nonce
    else:
        got = channel.call(GetSessionEncryptionKeyReq(), GetSessionEncryptionKeyResp)
        key, nonce = got.pub_key, got.nonce
    return CredentialCipher.agree(key, nonce, Entropy())


def _credential(draft: Draft) -> Credential:
    return Credential(draft.inputs["id"], draft.inputs["pin"])


def _wire(draft: Draft, request: Any) -> Any:
    return draft.scene.dialect.to_wire(request)


def establish_request(draft: Draft) -> Any:
    """EstablishCredential."""
    keys = cipher(draft)
    signature, anchor_key = endorse(draft.scene.anchor, draft.scene.client.identity_key())
    request = EstablishCredentialReq(
        encrypted_credential=keys.establish_credential(_credential(draft)),
        pub_key=keys.public_key,
        masked_bk3=draft.inputs["masked_bk3"],
        bmk=draft.inputs["bmk"],
        masked_unwrapping_key=draft.inputs["masked_unwrapping_key"],
        pota_sig=signature,
        pota_pub_key=anchor_key,
    )
    return _wire(draft, request)


def open_request(draft: Draft) -> Any:
    """OpenSession."""
    keys = cipher(draft)
    sealed = keys.session_credential(_credential(draft), draft.inputs["seed"])
    return _wire(draft, OpenSessionReq(encrypted_credential=sealed, pub_key=keys.public_key))


def reopen_request(draft: Draft) -> Any:
    """ReopenSession."""
    opened = open_request(draft)
    return ReopenSessionReq(
        encrypted_credential=opened.encrypted_credential,
        pub_key=opened.pub_key,
        bmk_session=draft.inputs["bmk_session"],
    )


def change_pin_request(draft: Draft) -> Any:
    """ChangePin."""
    keys = cipher(draft)
    return _wire(draft, ChangePinReq(new_pin=keys.new_pin(draft.inputs["pin"]), pub_key=keys.public_key))


def _credential_inputs(scene: Scene) -> dict[str, Any]:
    return {"id": CREDENTIAL.id, "pin": CREDENTIAL.pin, "seed": SEED}


def _establish_inputs(scene: Scene) -> dict[str, Any]:
    blobs = {"masked_bk3": scene.client.init_bk3(BK3).masked_bk3, "bmk": b"", "masked_unwrapping_key": b""}
    return _credential_inputs(scene) | blobs


def _masked_bk3(draft: Draft) -> bytes:
    """Some well-formed masked key, for the fields that take one."""
    return draft.scene.client.init_bk3(BK3).masked_bk3


def blob_faults(name: str, field: str) -> tuple[Fault, ...]:
    """Masked keys that are damaged in structure, version, tag."""

    def from_blob(change: Callable[[bytes], bytes]) -> Change:
        return lambda draft: draft.replace(**{field: change(getattr(draft.request, field) or _masked_bk3(draft))})

    return (
        fault(f"{name}-structure", field, wire=setting(field, bytes(48))),
        fault(f"{name}-svn-unknown", field, wire=from_blob(lambda blob: with_svn(blob, 2))),
        fault(f"{name}-mac", field, wire=from_blob(flipped)),
    )


def lock_out(scene: Scene) -> None:
    """As many wrong credentials as start a delay."""
    for _ in range(1000):
        scene.state.pin_policy.failed()


def _session_states(scene: Scene) -> int:
    scene.provision()
    return scene.open_session().session_id


def _no_session(scene: Scene) -> None:
    scene.provision()


def _flagged(scene: Scene) -> int:
    """Provisioned anew after a reset, session 0 waiting; its backup is kept for the inputs."""
    scene.provision()
    session = scene.open_session()
    scene.ticket = session.ticket  # type: ignore[attr-defined]
    scene.module.nssr()
    scene.provision(bmk=scene.bmk)
    return session.session_id


def _reopen_inputs(scene: Scene) -> dict[str, Any]:
    return _credential_inputs(scene) | {"bmk_session": scene.ticket.bmk_session}  # type: ignore[attr-defined]


def _reopen(scene: Scene) -> None:
    scene.client.reopen_session(scene.credential, scene.ticket)  # type: ignore[attr-defined]


def _open_all(scene: Scene) -> None:
    for _ in range(8):
        scene.open_session()


def _without_rev(draft: Draft) -> None:
    draft.rev = None


def _signature(change: Callable[[bytes], bytes]) -> Change:
    return lambda draft: draft.replace(pota_sig=change(draft.request.pota_sig))


DECODE = fault("decode-data", "raw", raw=lambda draft: setattr(draft, "message", draft.message[:-1]))
_WRONG_NONCE = bytes(32)
_SEALED = "encrypted_credential"
NO_K_SESS = inputting(device_key=DerPublicKey(der=points.spki(DUMMY_KEY.public_key()), key_kind=KeyType.Ecc384Public))
ROOM = (
    fault("no-space", "vault", late=fill_vault),
    fault("fragmented", "vault", late=fragment_vault),
)

ESTABLISH_CREDENTIAL = Subject(
    DdiOp.EstablishCredential,
    arrange=lambda scene: None,
    inputs=_establish_inputs,
    request=establish_request,
    faults=(
        DECODE,
        fault("nonce", "nonce", wire=changing(_SEALED, "nonce", lambda _: _WRONG_NONCE)),
        fault("credential-lengths", "pin", wire=changing(_SEALED, "encrypted_pin", lambda pin: pin[:15])),
        fault("pota-key-kind", "pota-kind", wire=changing("pota_pub_key", "key_kind", lambda _: KeyType.Ecc256Public)),
        fault("credential-set", "credential", arrange=_no_session),
        *key_faults("client-key", "pub_key"),
        *key_faults("pota-key", "pota_pub_key"),
        fault(
            "pota-signature-length", "pota-sig", wire=lambda draft: draft.replace(pota_sig=draft.request.pota_sig[:95])
        ),
        fault("pota-signature", "pota-sig", wire=lambda draft: draft.replace(pota_sig=flipped(draft.request.pota_sig))),
        fault("mac", "tag", wire=changing(_SEALED, "tag", flipped)),
        fault("null-credential", "pin", "credential", plain=inputting(id=bytes(16))),
        fault("null-credential", "id", "credential", plain=inputting(pin=bytes(16))),
        fault("masked-bk3-empty", "masked_bk3", "credential", wire=setting("masked_bk3", b"")),
        *blob_faults("masked-bk3", "masked_bk3"),
        *blob_faults("bmk", "bmk"),
        fault("muk-decode", "muk", wire=setting("masked_unwrapping_key", bytes(100))),
        fault("muk-decode", "muk", wire=lambda draft: draft.replace(masked_unwrapping_key=_masked_bk3(draft))),
    ),
)

_LOGIN_FAULTS = (
    fault("credential-lengths", "pin", wire=changing(_SEALED, "encrypted_seed", lambda seed: seed[:47])),
    fault("lockout", "policy", arrange=lock_out),
    *key_faults("client-key", "pub_key"),
    fault("no-k-sess", "tag", "policy", "vault", "sessions", "state", plain=NO_K_SESS),
    fault("nonce", "nonce", wire=changing(_SEALED, "nonce", lambda _: _WRONG_NONCE)),
    fault("mac", "tag", wire=changing(_SEALED, "tag", flipped)),
    fault("wrong-credential", "pin", plain=inputting(pin=OTHER_PIN)),
    fault("wrong-credential", "pin", plain=inputting(id=bytes(16))),
    *ROOM,
)

OPEN_SESSION = Subject(
    DdiOp.OpenSession,
    arrange=_no_session,
    inputs=_credential_inputs,
    request=open_request,
    faults=(
        fault("credentials-not-established", "state", late=lambda scene: scene.module.nssr()),
        DECODE,
        *_LOGIN_FAULTS,
        fault("session-limit", "sessions", arrange=_open_all),
    ),
)

REOPEN_SESSION = Subject(
    DdiOp.ReopenSession,
    arrange=_flagged,
    inputs=_reopen_inputs,
    request=reopen_request,
    faults=(
        DECODE,
        fault("bmk-session-empty", "bmk_session", wire=setting("bmk_session", b"")),
        fault("rev-missing-flagged", "rev", "state", header=_without_rev),
        *_LOGIN_FAULTS,
        *blob_faults("bmk-session", "bmk_session"),
        fault("id-live", "state", arrange=_reopen),
    ),
)

CHANGE_PIN = Subject(
    DdiOp.ChangePin,
    arrange=_session_states,
    inputs=_credential_inputs,
    request=change_pin_request,
    faults=(
        DECODE,
        fault("pin-lengths", "pin", wire=changing("new_pin", "encrypted_pin", lambda pin: pin[:15])),
        fault("pin-lengths", "iv", wire=changing("new_pin", "iv", lambda iv: iv[:15])),
        *key_faults("client-key", "pub_key"),
        fault("nonce", "nonce", wire=changing("new_pin", "nonce", lambda _: _WRONG_NONCE)),
        fault("mac", "tag", wire=changing("new_pin", "tag", flipped)),
        fault("null-pin", "pin", plain=inputting(pin=bytes(16))),
    ),
)


def _simple(op: DdiOp, request: Any, *faults: Fault, arrange: Callable[[Scene], int | None] | None = None) -> Subject:
    return Subject(op, arrange or (lambda scene: None), lambda scene: {}, lambda draft: request, (DECODE, *faults))


def _chain_info(scene: Scene) -> None:
    scene.client.certificate_chain()


SIMPLE = (
    _simple(
        DdiOp.GetEstablishCredEncryptionKey,
        GetEstablishCredEncryptionKeyReq(),
        fault("credential-set", "state", arrange=_no_session),
    ),
    _simple(
        DdiOp.GetSessionEncryptionKey,
        GetSessionEncryptionKeyReq(),
        fault("credential-not-set", "state", late=lambda scene: scene.module.nssr()),
        arrange=_no_session,
    ),
    _simple(DdiOp.CloseSession, CloseSessionReq(), arrange=_session_states),
    _simple(DdiOp.GetUnwrappingKey, GetUnwrappingKeyReq(), arrange=_session_states),
    _simple(
        DdiOp.GetCertChainInfo,
        GetCertChainInfoReq(slot_id=0),
        fault("slot-not-zero", "slot", wire=setting("slot_id", 1)),
    ),
    _simple(
        DdiOp.GetCertificate,
        GetCertificateReq(slot_id=0, cert_id=0),
        fault("slot-not-zero", "slot", wire=setting("slot_id", 1)),
        fault("cert-id-out-of-range", "cert", wire=setting("cert_id", 3)),
        arrange=_chain_info,
    ),
    _simple(DdiOp.InitBk3, InitBk3Req(bk3=BK3), fault("bk3-length", "bk3", wire=setting("bk3", BK3[:47]))),
    _simple(DdiOp.GetSealedBk3, GetSealedBk3Req()),
    _simple(DdiOp.SetSealedBk3, SetSealedBk3Req(sealed_bk3=b"")),
)
SUBJECTS = (ESTABLISH_CREDENTIAL, OPEN_SESSION, REOPEN_SESSION, CHANGE_PIN, *SIMPLE)
