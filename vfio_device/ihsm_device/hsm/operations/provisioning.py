# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""EstablishCredential (spec 04 §9.4): a partition gets its credential and its keys in one command.

The order of the checks is the firmware's; whatever fails after the credential was accepted takes it back.
"""

from typing import Final

from ihsm_abi.ddi import (
    DdiOp,
    DdiStatus,
    EstablishCredentialReq,
    EstablishCredentialResp,
    KeyAttributeFlags,
    KeyType,
)
from ihsm_abi.ddi.limits import BK3_BYTES, CREDENTIAL_ID_BYTES, CREDENTIAL_IV_BYTES, PIN_BYTES
from ihsm_abi.ddi.masked_key import MASKING_KEY_BYTES
from ihsm_device.hsm.command import Lane
from ihsm_device.hsm.errors import RefusedError
from ihsm_device.hsm.identity import hierarchy, masking
from ihsm_device.hsm.keystore import Curve, Handle, Hash
from ihsm_device.hsm.operations.context import Context
from ihsm_device.hsm.operations.credentials import (
    accept_message,
    check_length,
    check_nonce,
    check_on_curve,
    check_ranges,
    decrypt,
    open_channel,
)
from ihsm_device.hsm.operations.operation import operation
from ihsm_device.hsm.operations.unwrapping_key import obtain_unwrapping_key, store_unwrapping_key
from ihsm_device.hsm.partition import EncryptionPurpose, NewEntry, Provisioned, Volatile
from ihsm_device.hsm.wire import MASKING_TYPE, P384, Point

_MASKING_KEY_FLAGS: Final = KeyAttributeFlags.LOCAL | KeyAttributeFlags.ENCRYPT | KeyAttributeFlags.DECRYPT


@operation(DdiOp.EstablishCredential, lane=Lane.SLOW)
def establish_credential(context: Context, request: EstablishCredentialReq) -> EstablishCredentialResp:
    """Check who owns the partition, accept the credential, build the key hierarchy."""
    sealed = request.encrypted_credential
    with context.locked() as state:
        check_nonce(state, sealed.nonce)
    check_length(sealed.encrypted_id, CREDENTIAL_ID_BYTES)
    check_length(sealed.encrypted_pin, PIN_BYTES)
    check_length(sealed.iv, CREDENTIAL_IV_BYTES)
    if context.profile.pota_key_kind_checked and request.pota_pub_key.key_kind != KeyType.Ecc384Public:
        raise RefusedError(DdiStatus.InvalidArg)
    with context.locked() as state:
        _check_no_credential(state)
    client = context.dialect.read_ec_point(request.pub_key.der, P384)
    pota = context.dialect.read_ec_point(request.pota_pub_key.der, P384)
    check_ranges(client, pota)
    check_on_curve(client, pota)
    _check_endorsement(context, pota, request.pota_sig)
    _accept_credential(context, request, client)
    try:
        return EstablishCredentialResp(bmk=_provision(context, request, pota))
    except Exception:
        _take_credential_back(context)
        raise


def _check_no_credential(state: Volatile) -> None:
    if state.credential is not None:
        raise RefusedError(DdiStatus.VaultAppLimitReached)


def _check_endorsement(context: Context, pota: Point, signature: bytes) -> None:
    """The owner's trust anchor signs the partition identity key (spec 04 §8); any P-384 key can be one."""
    identity = context.partition.kept.identity.point.uncompressed()
    digest = context.store.digest(Hash.SHA384, identity)
    canonical = context.dialect.read_signature(signature, P384)
    if canonical is None or not context.store.ec_verify(Curve.P384, pota.uncompressed(), digest, canonical):
        raise RefusedError(DdiStatus.EccVerifyFailed)


def _accept_credential(context: Context, request: EstablishCredentialReq, client: Point) -> None:
    sealed = request.encrypted_credential
    with context.locked() as state:
        # Another client's success has replaced the nonce in the same step in which it deleted K_est.
        check_nonce(state, sealed.nonce)
        key = state.encryption_keys.get(EncryptionPurpose.ESTABLISH)
    if key is None:
        raise RefusedError(DdiStatus.EstablishCredEncryptionKeyGenerateFailed)
    channel = open_channel(context, key, client, sealed.nonce)
    ciphertext = sealed.encrypted_id + sealed.encrypted_pin
    with context.locked() as state:
        check_nonce(state, sealed.nonce)
        _check_no_credential(state)
        accept_message(context, state, channel, ciphertext + sealed.iv + sealed.nonce, sealed.nonce, sealed.tag)
        credential = decrypt(context, channel, sealed.iv, ciphertext)
        assert credential.id is not None
        if context.store.is_zero(credential.id) or context.store.is_zero(credential.pin):
            raise RefusedError(DdiStatus.InvalidAppCredentials)
        state.credential = credential
        context.keep(credential.id)
        context.keep(credential.pin)
        del state.encryption_keys[EncryptionPurpose.ESTABLISH]
        context.partition.remove_key(key.entry)


def _take_credential_back(context: Context) -> None:
    """Undo the acceptance, unless a reset did: the command can be retried with a new key and nonce."""
    with context.partition.lock:
        credential = context.state.credential
        if context.partition.state is context.state and credential is not None:
            assert credential.id is not None
            context.state.credential = None
            context.store.destroy(credential.id)
            context.store.destroy(credential.pin)


def _provision(context: Context, request: EstablishCredentialReq, pota: Point) -> bytes:
    """Make or restore the partition's keys; returns the BMK to answer with."""
    store = context.store
    bk3 = _open_bk3(context, request.masked_bk3)
    bk3_session = context.scratch(hierarchy.session_root(store, bk3, context.owner()))
    if request.bmk:
        masking_key = _restore_masking_key(context, request.bmk, bk3, pota)
    else:
        masking_key = context.scratch(hierarchy.masking_key(store, context.owner()))
    unwrapping_key = obtain_unwrapping_key(context, masking_key, request.masked_unwrapping_key)
    echoed = request.bmk and context.profile.bmk_echoed
    bmk = request.bmk if echoed else _make_bmk(context, masking_key, bk3, pota)
    with context.locked() as state:
        new = NewEntry(MASKING_TYPE, masking_key, MASKING_KEY_BYTES, _MASKING_KEY_FLAGS, internal=True)
        state.provisioned = Provisioned(
            bk3_session=context.keep(bk3_session),
            masking_key=context.keep(masking_key),
            masking_entry=state.vault.add(new),
            unwrapping_entry=None if unwrapping_key is None else store_unwrapping_key(context, state, unwrapping_key),
        )
    return bmk


def _open_bk3(context: Context, data: bytes) -> Handle:
    """BK3 from its masked form. Order: structure, metadata, svn; then BK_BOOT; then tag and plaintext."""
    with masking.refused_as(DdiStatus.UnmaskingBk3Failed):
        blob = masking.read(data)
    if blob.metadata.svn not in context.partition.device.identity.seeds.bks1:
        raise RefusedError(DdiStatus.UnmaskingBk3Failed)
    bk_boot = context.partition.kept.bk_boot
    if bk_boot is None:
        raise RefusedError(DdiStatus.MaskedBkBootNotPresent)
    with masking.refused_as(DdiStatus.MaskedKeyDecodeFailed):
        bk3 = masking.unmask_secret(context.store, bk_boot, blob, BK3_BYTES, context.owner())
    return context.scratch(bk3)


def _backup_key(context: Context, bk3: Handle, pota: Point, svn: int) -> Handle:
    seeds = context.partition.device.identity.seeds
    return context.scratch(hierarchy.partition_backup_key(context.store, bk3, pota, seeds, svn, context.owner()))


def _restore_masking_key(context: Context, data: bytes, bk3: Handle, pota: Point) -> Handle:
    """The masking key from a BMK, whose svn selects the seeds."""
    with masking.refused_as(DdiStatus.MaskedKeyDecodeFailed):
        blob = masking.read(data)
    svn = masking.known_svn(blob, context.partition.device.identity.seeds)
    backup_key = _backup_key(context, bk3, pota, svn)
    with masking.refused_as(DdiStatus.MaskedKeyDecodeFailed):
        return context.scratch(masking.unmask_masking_key(context.store, backup_key, blob, context.owner()))


def _make_bmk(context: Context, masking_key: Handle, bk3: Handle, pota: Point) -> bytes:
    backup_key = _backup_key(context, bk3, pota, hierarchy.CURRENT_SVN)
    metadata = masking.backup_metadata(b"MK", MASKING_KEY_BYTES, bks2_index=0)
    return masking.mask(context.store, backup_key, masking_key, metadata)
