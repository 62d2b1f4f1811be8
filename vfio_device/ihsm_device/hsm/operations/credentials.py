# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""The credential-encryption protocol (spec 04 §5), and the login of OpenSession and ReopenSession."""

from ihsm_abi.ddi import (
    DdiStatus,
    DerPublicKey,
    EncryptedSessionCredential,
)
from ihsm_abi.ddi.limits import (
    CREDENTIAL_ID_BYTES,
    CREDENTIAL_IV_BYTES,
    NONCE_BYTES,
    PIN_BYTES,
    SESSION_SEED_BYTES,
)
from ihsm_device.hsm.errors import RefusedError
from ihsm_device.hsm.keystore import Credential, CredentialCheck, Handle, StaleHandleError
from ihsm_device.hsm.operations.context import Context
from ihsm_device.hsm.partition import EncryptionKey, EncryptionPurpose, Volatile
from ihsm_device.hsm.wire import P384, Point


def check_length(value: bytes, expected: int) -> None:
    """Refuse with InvalidArg a credential field that is not exactly as long as it must be."""
    if len(value) != expected:
        raise RefusedError(DdiStatus.InvalidArg)


def check_ranges(*points: Point) -> None:
    """Refuse with EccPublicKeyValidationFailed a coordinate outside 1…p−1."""
    if not all(point.in_range for point in points):
        raise RefusedError(DdiStatus.EccPublicKeyValidationFailed)


def check_on_curve(*points: Point) -> None:
    """Refuse with EccPointValidationFailed a point that is not on its curve."""
    if not all(point.on_curve for point in points):
        raise RefusedError(DdiStatus.EccPointValidationFailed)


def check_nonce(state: Volatile, nonce: bytes) -> None:
    """Refuse with NonceMismatch any nonce but the current one; lock held."""
    if nonce != state.nonce:
        raise RefusedError(DdiStatus.NonceMismatch)


def open_channel(context: Context, key: EncryptionKey, client: Point, nonce: bytes) -> Handle:
    """Agree on the keys that protect a credential; as a scratch key."""
    try:
        channel = context.store.credential_channel(key.handle, client.uncompressed(), nonce, context.owner())
    except StaleHandleError:
        # Another EstablishCredential has succeeded meanwhile, and with it the nonce was replaced.
        raise RefusedError(DdiStatus.NonceMismatch) from None
    return context.scratch(channel)


def accept_message(
    context: Context, state: Volatile, channel: Handle, message: bytes, nonce: bytes, tag: bytes
) -> None:
    """Verify an encrypted credential and use up its nonce, in one step; lock held.

    Args:
        message: what the tag covers: all ciphertext, then the IV, then the nonce.

    Raises:
        RefusedError: NonceMismatch, PinDecryptionFailed; the nonce stays then.
    """
    check_nonce(state, nonce)
    if not context.store.credential_verify(channel, message, tag):
        raise RefusedError(DdiStatus.PinDecryptionFailed)
    state.nonce = context.store.random(NONCE_BYTES)


def decrypt(context: Context, channel: Handle, iv: bytes, ciphertext: bytes) -> Credential:
    """The fields of an accepted message, as scratch keys."""
    credential = context.store.credential_decrypt(channel, iv, ciphertext, context.owner())
    for part in credential:
        if part is not None:
            context.scratch(part)
    return credential


def check_login_lengths(sealed: EncryptedSessionCredential) -> None:
    """Refuse with InvalidArg unless every field of a session credential has its exact length."""
    check_length(sealed.encrypted_id, CREDENTIAL_ID_BYTES)
    check_length(sealed.encrypted_pin, PIN_BYTES)
    check_length(sealed.encrypted_seed, SESSION_SEED_BYTES)
    check_length(sealed.iv, CREDENTIAL_IV_BYTES)


def log_in(context: Context, sealed: EncryptedSessionCredential, public_key: DerPublicKey) -> Handle:
    """Judge the credential of OpenSession or ReopenSession; returns the client's session seed, as a scratch key.

    Raises:
        RefusedError: LoginFailed, the dialect's key errors, EccPublicKeyValidationFailed, EccPointValidationFailed,
            SessionEncryptionKeyGenerateFailed, NonceMismatch, PinDecryptionFailed, InvalidAppCredentials.
    """
    with context.locked() as state:
        state.pin_policy.check()
    client = context.dialect.read_ec_point(public_key.der, P384)
    check_ranges(client)
    check_on_curve(client)
    with context.locked() as state:
        key = state.encryption_keys.get(EncryptionPurpose.SESSION)
    if key is None:
        raise RefusedError(DdiStatus.SessionEncryptionKeyGenerateFailed)
    channel = open_channel(context, key, client, sealed.nonce)
    ciphertext = sealed.encrypted_id + sealed.encrypted_pin + sealed.encrypted_seed
    with context.locked() as state:
        accept_message(context, state, channel, ciphertext + sealed.iv + sealed.nonce, sealed.nonce, sealed.tag)
        presented = decrypt(context, channel, sealed.iv, ciphertext)
        state.pin_policy.check()
        _judge(context, state, presented)
    assert presented.seed is not None
    return presented.seed


def _judge(context: Context, state: Volatile, presented: Credential) -> None:
    stored = state.credential
    if stored is None or context.store.credential_check(stored, presented) is not CredentialCheck.MATCH:
        state.pin_policy.failed()
        raise RefusedError(DdiStatus.InvalidAppCredentials)
    state.pin_policy.succeeded()
