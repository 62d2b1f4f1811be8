# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""KEY_EXCHANGE: a session begins."""

from __future__ import annotations

from typing import Final

from ihsm_abi.spdm import opaque, secured
from ihsm_abi.spdm.chain import SLOT
from ihsm_abi.spdm.codes import NONCE_BYTES, ErrorCode
from ihsm_abi.spdm.messages import VERSION_ENTRY_MASK, KeyExchange, KeyExchangeRsp
from ihsm_abi.spdm.signing import SigningContext
from ihsm_device.hsm.keystore import (
    Curve,
    Handle,
    KeyStore,
    LengthError,
    Owner,
    PointAtInfinityError,
    PointNotOnCurveError,
    PointRangeError,
    Scope,
)
from ihsm_device.trust.connection import Answer, Connection
from ihsm_device.trust.errors import RefusedError, invalid
from ihsm_device.trust.evidence import SIGNATURE_BYTES
from ihsm_device.trust.session import Session

_UNCOMPRESSED: Final = b"\x04"
_BAD_POINTS: Final = (LengthError, PointAtInfinityError, PointNotOnCurveError, PointRangeError)


def answer(connection: Connection, data: bytes, _session: Session | None) -> Answer:
    """The device's half of the keys, its signature over the handshake, and its proof that it has the keys."""
    agreed, store = connection.agreed, connection.store
    if not agreed.key_exchange:
        raise RefusedError(ErrorCode.UNSUPPORTED_REQUEST, data[1])
    request, size = KeyExchange.decode(data, agreed.sizes)
    selected = _selected(request.opaque, offered=agreed.opaque_data)
    summary = connection.summary(request.summary_type)
    if request.slot != SLOT:
        raise invalid()
    if connection.session is not None:
        raise RefusedError(ErrorCode.SESSION_LIMIT_EXCEEDED)
    owner = Owner(connection.function, Scope.TRUST)
    responder_id = int.from_bytes(store.random(2), "little") or 1
    transcript, measured = connection.transcript.handshake(connection.chain_hash()), connection.transcript.log()
    shared, public = _exchange(store, request.exchange, owner)
    session = Session(
        id=secured.session_id(request.session_id, responder_id),
        store=store,
        digest=agreed.digest,
        owner=owner,
        shared=shared,
        transcript=transcript,
        measured=measured,
    )
    try:
        unsigned = KeyExchangeRsp(
            heartbeat_period=0,
            param2=0,
            session_id=responder_id,
            mut_auth_requested=0,
            slot=SLOT,
            random=store.random(NONCE_BYTES),
            exchange=public,
            summary=summary,
            opaque=selected,
            signature=b"",
            verify_data=b"",
        ).encode()
        connection.require_room(len(unsigned) + SIGNATURE_BYTES + agreed.digest.size_bytes, None)
        session.transcript.update(data[:size] + unsigned)
        signature = connection.evidence.sign(
            agreed.digest, SigningContext.KEY_EXCHANGE_RSP, session.transcript.digest()
        )
        session.transcript.update(signature)
        session.begin()
        proof = session.response_proof()
        session.transcript.update(proof)
    except BaseException:
        session.close()
        raise
    connection.session = session
    return Answer(unsigned + signature + proof)


def _selected(data: bytes, *, offered: bool) -> bytes:
    """The answer's opaque data: the version of secured messages, of those that the requester lists."""
    if not offered:
        raise invalid()
    versions = {version & VERSION_ENTRY_MASK for version in opaque.read_supported_versions(data)}
    if opaque.SECURED_VERSION_1_1 not in versions:
        raise invalid()
    return opaque.selected_version()


def _exchange(store: KeyStore, peer: bytes, owner: Owner) -> tuple[Handle, bytes]:
    """The shared secret, and the device's public half, x and y."""
    ephemeral = store.ec_generate(Curve.P384, owner)
    try:
        public = store.ec_public(ephemeral)[len(_UNCOMPRESSED) :]
        return store.ec_agree(ephemeral, _UNCOMPRESSED + peer, owner), public
    except _BAD_POINTS:
        raise invalid() from None
    finally:
        store.destroy(ephemeral)
