# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Message authentication: Hmac (spec 05 §12.1; FIPS 198-1)."""

from ihsm_abi.ddi import DdiOp, DdiStatus, HmacReq, HmacResp, KeyUsage
from ihsm_device.hsm.operations.context import Context
from ihsm_device.hsm.operations.key_use import engine_failure, info_of, may, require_family, require_usage
from ihsm_device.hsm.operations.operation import operation
from ihsm_device.hsm.partition import ExpressKey, NewEntry
from ihsm_device.hsm.wire import Dialect, Family


def _express(content: NewEntry, _dialect: Dialect) -> ExpressKey | None:
    info = info_of(content, Family.HMAC)
    if info is None or info.digest is None or not may(content, KeyUsage.SignVerify):
        return None
    size, always = info.digest.size_bytes, frozenset({0})
    return ExpressKey(DdiOp.Hmac, always, always, hash=info.digest, number_bytes=size, wire_bytes=size)


@operation(DdiOp.Hmac, express=_express)
def hmac(context: Context, request: HmacReq) -> HmacResp:
    """HMAC with the hash that the key's type implies."""
    entry = context.find(request.key_id)
    info = require_family(entry, Family.HMAC)
    require_usage(entry, KeyUsage.SignVerify)
    assert info.digest is not None
    with engine_failure(DdiStatus.HmacError):
        tag = context.store.hmac(entry.content.handle, info.digest, request.msg)
    return HmacResp(tag=tag)
