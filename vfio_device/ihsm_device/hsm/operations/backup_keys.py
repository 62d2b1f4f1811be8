# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""InitBk3, SetSealedBk3, GetSealedBk3 (spec 04 §9.5, §9.6): the owner's backup key, masked and sealed.

BK_BOOT and the sealed BK3 are kept, persisted and cleared together: they are one record.
"""

from dataclasses import replace

from ihsm_abi.ddi import (
    DdiOp,
    DdiStatus,
    GetSealedBk3Req,
    GetSealedBk3Resp,
    InitBk3Req,
    InitBk3Resp,
    SetSealedBk3Req,
    SetSealedBk3Resp,
)
from ihsm_abi.ddi.limits import BK3_BYTES, SEALED_BK3_MAX_BYTES
from ihsm_device.hsm.errors import RefusedError
from ihsm_device.hsm.identity import hierarchy, masking
from ihsm_device.hsm.keystore import Handle, Scope
from ihsm_device.hsm.operations.context import Context
from ihsm_device.hsm.operations.operation import operation


def _check_first(context: Context) -> None:
    if context.partition.kept.bk_boot is not None and not context.profile.init_bk3_repeatable:
        raise RefusedError(DdiStatus.Bk3AlreadyInitialized)


@operation(DdiOp.InitBk3, before_decode=_check_first)
def init_bk3(context: Context, request: InitBk3Req) -> InitBk3Resp:
    """Mask the owner's BK3 under BK_BOOT, which the first call makes."""
    if context.profile.init_bk3_repeatable and len(request.bk3) != BK3_BYTES:
        raise RefusedError(DdiStatus.InvalidArg)
    bk_boot = _boot_key(context)
    bk3 = context.scratch(context.store.import_secret(request.bk3, context.owner()))
    metadata = masking.backup_metadata(b"BK3", len(request.bk3), bks2_index=0)
    return InitBk3Resp(
        masked_bk3=masking.mask(context.store, bk_boot, bk3, metadata),
        vm_launch_guid=context.partition.kept.launch_guid,
    )


def _boot_key(context: Context) -> Handle:
    """BK_BOOT; made, and recorded in masked form, if there is none yet."""
    partition, store = context.partition, context.store
    with context.recording() as kept:
        if kept.bk_boot is not None:
            return kept.bk_boot
        owner = context.owner(Scope.IDENTITY)
        bk_boot = context.scratch(hierarchy.boot_key(store, owner))
        seeds = partition.device.identity.seeds
        bkx = context.scratch(hierarchy.boot_masking_key(store, seeds, hierarchy.CURRENT_SVN, owner))
        length = store.size(bk_boot)
        masked = masking.mask(store, bkx, bk_boot, masking.backup_metadata(b"BK_BOOT", length, bks2_index=0))
        partition.record(replace(kept.record, bk_boot=masked))
        kept.bk_boot = context.keep(bk_boot)
        return bk_boot


def _check_unset(context: Context) -> None:
    if context.partition.kept.record.sealed_bk3 is not None:
        raise RefusedError(DdiStatus.SealedBk3AlreadySet)


@operation(DdiOp.SetSealedBk3, before_decode=_check_unset)
def set_sealed_bk3(context: Context, request: SetSealedBk3Req) -> SetSealedBk3Resp:
    """Keep a blob that only its owner can open; an empty one leaves it unset."""
    if len(request.sealed_bk3) > SEALED_BK3_MAX_BYTES:
        raise RefusedError(DdiStatus.SealedBk3TooLarge)
    with context.recording() as kept:
        _check_unset(context)
        if request.sealed_bk3:
            context.partition.record(replace(kept.record, sealed_bk3=request.sealed_bk3))
    return SetSealedBk3Resp()


@operation(DdiOp.GetSealedBk3)
def get_sealed_bk3(context: Context, request: GetSealedBk3Req) -> GetSealedBk3Resp:
    """The bytes that SetSealedBk3 was given."""
    sealed_bk3 = context.partition.kept.record.sealed_bk3
    if sealed_bk3 is None:
        raise RefusedError(DdiStatus.SealedBk3NotPresent)
    return GetSealedBk3Resp(sealed_bk3=sealed_bk3)
