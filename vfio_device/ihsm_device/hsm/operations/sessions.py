# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""OpenSession, ReopenSession, CloseSession, ChangePin (spec 04 §9.8–§9.11, §10)."""

from ihsm_abi.ddi import (
    ApiRev,
    ChangePinReq,
    ChangePinResp,
    CloseSessionReq,
    CloseSessionResp,
    DdiOp,
    DdiStatus,
    DerPublicKey,
    KeyAttributeFlags,
    OpenSessionReq,
    OpenSessionResp,
    ReopenSessionReq,
    ReopenSessionResp,
)
from ihsm_abi.ddi.limits import CREDENTIAL_IV_BYTES, PIN_BYTES
from ihsm_abi.ddi.masked_key import MASKING_KEY_BYTES
from ihsm_device.hsm.command import SHORT_APP_ID
from ihsm_device.hsm.errors import RefusedError
from ihsm_device.hsm.identity import hierarchy, masking
from ihsm_device.hsm.keystore import Credential, Handle, Scope
from ihsm_device.hsm.operations.context import Context
from ihsm_device.hsm.operations.credentials import (
    accept_message,
    check_length,
    check_login_lengths,
    decrypt,
    log_in,
    open_channel,
)
from ihsm_device.hsm.operations.operation import operation
from ihsm_device.hsm.partition import EncryptionPurpose, NewEntry, Session, Volatile
from ihsm_device.hsm.wire import P384, SESSION_BYTES, Point


def _check_credential(context: Context) -> None:
    with context.locked() as state:
        if state.provisioned is None:
            raise RefusedError(DdiStatus.CredentialsNotEstablished)


@operation(DdiOp.OpenSession, before_decode=_check_credential)
def open_session(context: Context, request: OpenSessionReq) -> OpenSessionResp:
    """Log in and open a session under the lowest free id."""
    check_login_lengths(request.encrypted_credential)
    seed = log_in(context, request.encrypted_credential, request.pub_key)
    masking_key = context.scratch(hierarchy.masking_key(context.store, context.owner()))
    bmk_session = _make_backup(context, masking_key, seed)
    with context.locked() as state:
        session = Session(context.partition.sessions.lowest_free_id(), _revision(context), masking_key)
        _store(context, state, session)
    context.answer_session_id = session.id
    context.opened = True
    context.undo.append(lambda context: _close_again(context, session))
    return OpenSessionResp(sess_id=session.id, short_app_id=SHORT_APP_ID, bmk_session=bmk_session)


@operation(DdiOp.ReopenSession, before_decode=_check_credential)
def reopen_session(context: Context, request: ReopenSessionReq) -> ReopenSessionResp:
    """Log in and revive a session id that waits for renegotiation."""
    if not request.bmk_session:
        raise RefusedError(DdiStatus.ProcessedIoEventInInvalidState)
    check_login_lengths(request.encrypted_credential)
    revision = _revision(context)
    seed = log_in(context, request.encrypted_credential, request.pub_key)
    masking_key = _restore(context, request.bmk_session, seed)
    bmk_session = _make_backup(context, masking_key, seed)
    session_id = context.header.sess_id
    assert session_id is not None
    with context.locked() as state:
        session = Session(session_id, revision, masking_key)
        sessions = context.partition.sessions
        state.vault.check_room(_object(session))
        if sessions.live(session_id) is not None:
            raise RefusedError(DdiStatus.ProcessedIoEventInInvalidState)
        if not sessions.is_flagged(session_id):
            raise RefusedError(DdiStatus.SessionNotFound)
        _store(context, state, session)
    context.opened = True
    return ReopenSessionResp(sess_id=session_id, short_app_id=SHORT_APP_ID, bmk_session=bmk_session)


@operation(DdiOp.CloseSession)
def close_session(context: Context, request: CloseSessionReq) -> CloseSessionResp:
    """End a session with its session-only keys, or free an id that waits for renegotiation."""
    with context.locked():
        if context.caller is not None:
            context.partition.close_session(context.caller)
        else:
            assert context.header.sess_id is not None
            context.partition.sessions.free(context.header.sess_id)
    context.closed = True
    return CloseSessionResp()


@operation(DdiOp.ChangePin)
def change_pin(context: Context, request: ChangePinReq) -> ChangePinResp:
    """Replace the PIN; possession of a session suffices."""
    sealed = request.new_pin
    check_length(sealed.encrypted_pin, PIN_BYTES)
    check_length(sealed.iv, CREDENTIAL_IV_BYTES)
    with context.locked() as state:
        key = state.encryption_keys.get(EncryptionPurpose.SESSION)
    if key is None:
        raise RefusedError(DdiStatus.SessionEncryptionKeyGenerateFailed)
    client = _change_pin_client(context, request.pub_key)
    channel = open_channel(context, key, client, sealed.nonce)
    message = sealed.encrypted_pin + sealed.iv + sealed.nonce
    with context.locked() as state:
        accept_message(context, state, channel, message, sealed.nonce, sealed.tag)
        pin = decrypt(context, channel, sealed.iv, sealed.encrypted_pin).pin
        if state.credential is None or context.store.is_zero(pin):
            raise RefusedError(DdiStatus.InvalidAppCredentials)
        old = state.credential
        state.credential = Credential(old.id, context.keep(pin), None)
        context.store.destroy(old.pin)
    return ChangePinResp()


def _revision(context: Context) -> ApiRev:
    """The revision that the session's commands must carry from now on."""
    if context.header.rev is None:
        raise RefusedError(DdiStatus.UnsupportedRevision)
    return context.header.rev


def _backup_key(context: Context, seed: Handle, svn: int) -> Handle:
    seeds, root = context.partition.device.identity.seeds, context.provisioned.bk3_session
    return context.scratch(hierarchy.session_backup_key(context.store, root, seed, seeds, svn, context.owner()))


def _make_backup(context: Context, masking_key: Handle, seed: Handle) -> bytes:
    """BMK_session: the session's masking key for the client to keep."""
    backup_key = _backup_key(context, seed, hierarchy.CURRENT_SVN)
    metadata = masking.backup_metadata(b"SMK", MASKING_KEY_BYTES, bks2_index=None)
    return masking.mask(context.store, backup_key, masking_key, metadata)


def _restore(context: Context, data: bytes, seed: Handle) -> Handle:
    with masking.refused_as(DdiStatus.MaskedKeyDecodeFailed):
        blob = masking.read(data)
    backup_key = _backup_key(context, seed, masking.known_svn(blob, context.partition.device.identity.seeds))
    with masking.refused_as(DdiStatus.MaskedKeyDecodeFailed):
        return context.scratch(masking.unmask_masking_key(context.store, backup_key, blob, context.owner()))


def _object(session: Session) -> NewEntry:
    return NewEntry(None, session.masking_key, SESSION_BYTES, KeyAttributeFlags.LOCAL, session=session)


def _store(context: Context, state: Volatile, session: Session) -> None:
    """Put the session's object into the vault and make it live; lock held."""
    state.vault.add(_object(session))
    context.store.set_owner(context.keep(session.masking_key), context.partition.owner(Scope.SESSION, session))
    context.partition.sessions.put(session)


def _close_again(context: Context, session: Session) -> None:
    with context.partition.lock:
        if context.partition.sessions.is_live(session):
            context.partition.close_session(session)


def _change_pin_client(context: Context, public_key: DerPublicKey) -> Point:
    """The client's point; here a short or invalid one is a failure of the key agreement (spec 04 §16.4)."""
    try:
        client = context.dialect.read_ec_point(public_key.der, P384)
    except RefusedError as error:
        if error.status is DdiStatus.EccDerKeyShorterThanCurve:
            raise RefusedError(DdiStatus.FailedToComputeEcdhSharedSecret) from None
        raise
    if not (client.in_range and client.on_curve):
        raise RefusedError(DdiStatus.FailedToComputeEcdhSharedSecret)
    return client
