# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""GetEstablishCredEncryptionKey and GetSessionEncryptionKey (spec 04 §9.3, §9.7): K_est, K_sess and the nonce."""

from collections.abc import Callable

from ihsm_abi.ddi import (
    DdiOp,
    DdiStatus,
    GetEstablishCredEncryptionKeyReq,
    GetEstablishCredEncryptionKeyResp,
    GetSessionEncryptionKeyReq,
    GetSessionEncryptionKeyResp,
    KeyAttributeFlags,
    KeyType,
)
from ihsm_device.hsm.errors import RefusedError
from ihsm_device.hsm.keystore import Curve, Hash, PairwiseTest, PairwiseTestError
from ihsm_device.hsm.operations.context import Context
from ihsm_device.hsm.operations.operation import operation
from ihsm_device.hsm.partition import EncryptionKey, EncryptionPurpose, NewEntry, Volatile
from ihsm_device.hsm.wire import ENCRYPTION_KEY_BYTES, P384, Point


@operation(DdiOp.GetEstablishCredEncryptionKey)
def get_establish_cred_encryption_key(
    context: Context, request: GetEstablishCredEncryptionKeyReq
) -> GetEstablishCredEncryptionKeyResp:
    """K_est, which exists until a credential is established."""

    def check(state: Volatile) -> None:
        if state.credential is not None:
            raise RefusedError(DdiStatus.VaultAppLimitReached)

    failure = DdiStatus.PctValidationEstablishCredEncKeyFailed
    key, nonce = _key_and_nonce(context, EncryptionPurpose.ESTABLISH, check, failure)
    return GetEstablishCredEncryptionKeyResp(
        pub_key=context.dialect.ec_public_key(key.point),
        nonce=nonce,
        pub_key_signature=context.dialect.write_signature(key.signature, P384),
    )


@operation(DdiOp.GetSessionEncryptionKey)
def get_session_encryption_key(context: Context, request: GetSessionEncryptionKeyReq) -> GetSessionEncryptionKeyResp:
    """K_sess, which exists while the partition is provisioned."""

    def check(state: Volatile) -> None:
        if state.provisioned is None:
            raise RefusedError(DdiStatus.CredentialsNotEstablished)

    failure = DdiStatus.PctValidationSessionEncKeyFailed
    key, nonce = _key_and_nonce(context, EncryptionPurpose.SESSION, check, failure)
    return GetSessionEncryptionKeyResp(
        pub_key=context.dialect.ec_public_key(key.point),
        nonce=nonce,
        pub_key_signature=context.dialect.write_signature(key.signature, P384),
    )


def _key_and_nonce(
    context: Context, purpose: EncryptionPurpose, check: Callable[[Volatile], None], failure: DdiStatus
) -> tuple[EncryptionKey, bytes]:
    """The key and the nonce, as they are at one instant; the first call makes the key."""
    with context.locked() as state:
        check(state)
        if purpose in state.encryption_keys:
            return state.encryption_keys[purpose], state.nonce
    store = context.store
    handle = context.scratch(store.ec_generate(Curve.P384, context.owner()))
    try:
        store.ec_pairwise_test(handle, PairwiseTest.AGREE)
    except PairwiseTestError as error:
        context.partition.device.enter_error_state(f"pairwise test of {purpose.value}: {error}")
        raise RefusedError(failure) from None
    point = Point.from_uncompressed(P384, store.ec_public(handle))
    signature = store.ec_sign(context.partition.kept.identity.key, store.digest(Hash.SHA384, point.raw()))
    with context.locked() as state:
        check(state)
        # Of several first calls at once all answer with the key that was stored first.
        if purpose not in state.encryption_keys:
            new = NewEntry(
                type=KeyType.Ecc384Private,
                handle=handle,
                value_bytes=ENCRYPTION_KEY_BYTES,
                flags=KeyAttributeFlags.LOCAL | KeyAttributeFlags.DERIVE,
                internal=True,
            )
            entry = state.vault.add(new)
            state.encryption_keys[purpose] = EncryptionKey(context.keep(handle), point, signature, entry)
        return state.encryption_keys[purpose], state.nonce
