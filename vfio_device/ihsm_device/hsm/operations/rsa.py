# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Raw RSA with a private key: RsaModExp (spec 05 §12.2; RFC 8017 RSADP, RSASP1)."""

from typing import Final

from ihsm_abi.ddi import DdiOp, DdiStatus, KeyUsage, RsaModExpReq, RsaModExpResp, RsaOpType
from ihsm_device.hsm.command import Lane
from ihsm_device.hsm.errors import RefusedError
from ihsm_device.hsm.keystore import LengthError, RangeError
from ihsm_device.hsm.operations.context import Context
from ihsm_device.hsm.operations.key_use import engine_failure, info_of, may, require_family, require_usage
from ihsm_device.hsm.operations.operation import operation
from ihsm_device.hsm.partition import ExpressKey, NewEntry
from ihsm_device.hsm.wire import Dialect, Family

_USAGE_OF_OPERATION: Final = {
    RsaOpType.Decrypt: KeyUsage.EncryptDecrypt,
    RsaOpType.Sign: KeyUsage.SignVerify,
}


def _express(content: NewEntry, dialect: Dialect) -> ExpressKey | None:
    info = info_of(content, Family.RSA)
    if info is None:
        return None
    allowed = frozenset(int(op) for op, usage in _USAGE_OF_OPERATION.items() if may(content, usage))
    size = info.modulus_bytes
    wire = len(dialect.write_number(bytes(size)))
    return ExpressKey(DdiOp.RsaModExp, allowed, allowed, number_bytes=size, wire_bytes=wire)


@operation(DdiOp.RsaModExp, lane=Lane.SLOW, express=_express)
def rsa_mod_exp(context: Context, request: RsaModExpReq) -> RsaModExpResp:
    """x = y^d mod n; `op_type` only says which usage the key must have."""
    usage = _USAGE_OF_OPERATION.get(request.op_type)
    if usage is None:
        raise RefusedError(DdiStatus.InvalidArg)
    if not request.y:
        raise RefusedError(DdiStatus.InvalidArg)
    entry = context.find_own(request.key_id)
    require_family(entry, Family.RSA)
    require_usage(entry, usage)
    try:
        with engine_failure(DdiStatus.RsaDecryptFailed):
            x = context.store.rsa_private(entry.content.handle, context.dialect.read_number(request.y))
    except (LengthError, RangeError):
        raise RefusedError(DdiStatus.InvalidArg) from None
    return RsaModExpResp(x=context.dialect.write_number(x))
