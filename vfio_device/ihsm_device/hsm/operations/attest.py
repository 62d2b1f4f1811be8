# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Proof that a key lives in this partition: AttestKey (spec 05 §14)."""

from ihsm_abi.ddi import AttestKeyReq, AttestKeyResp, DdiOp, DdiStatus
from ihsm_device.hsm.errors import RefusedError
from ihsm_device.hsm.identity import report
from ihsm_device.hsm.keystore import Hash
from ihsm_device.hsm.operations.context import Context
from ihsm_device.hsm.operations.key_use import engine_failure
from ihsm_device.hsm.operations.operation import operation
from ihsm_device.hsm.partition import Entry
from ihsm_device.hsm.wire import BY_PRIVATE_TYPE, TYPES, Family, Point


@operation(DdiOp.AttestKey, response_op=DdiOp.EccSign)
def attest_key(context: Context, request: AttestKeyReq) -> AttestKeyResp:
    """Report on a key, signed by the partition identity key.

    Only asymmetric keys are guarded by their session; a symmetric key is reported without a public key. The operation
    code in the response is EccSign, as in the firmware.
    """
    entry, family = _attestable(context, request.key_id)
    if not context.profile.short_report_data_padded and len(request.report_data) != report.REPORT_DATA_BYTES:
        raise RefusedError(DdiStatus.InvalidArg)

    with context.locked() as state:
        credential, kept = state.credential, context.partition.kept
    assert credential is not None, "there is a session"
    assert credential.id is not None
    payload = report.Report(
        public_key=_cose_key(context, entry, family),
        claims=report.claims(entry.content.flags, family, context.profile.attestation_claims),
        app_uuid=context.store.credential_id(credential.id),
        report_data=request.report_data,
        vm_launch_id=kept.launch_guid,
    ).payload()
    with engine_failure(DdiStatus.AttestKeyInternalError):
        digest = context.store.digest(Hash.SHA384, report.to_be_signed(payload))
        signature = context.store.ec_sign(kept.identity.key, digest)
    return AttestKeyResp(report=report.signed(payload, signature))


def _attestable(context: Context, key_id: int) -> tuple[Entry, Family]:
    entry = context.entry(key_id)
    content = entry.content
    unwrapping_key = entry is context.provisioned.unwrapping_entry
    if unwrapping_key:
        return entry, Family.RSA
    if content.internal or content.type is None:
        raise RefusedError(DdiStatus.InvalidKeyType)
    family = TYPES[content.type].family
    if family in (Family.RSA, Family.ECC) and content.session not in (None, context.session):
        raise RefusedError(DdiStatus.InvalidPermissions)
    return entry, family


def _cose_key(context: Context, entry: Entry, family: Family) -> bytes:
    handle = entry.content.handle
    if family is Family.RSA:
        return report.cose_rsa_key(context.store.rsa_public(handle))
    if family is Family.ECC:
        assert entry.content.type is not None
        curve = BY_PRIVATE_TYPE[entry.content.type]
        point = Point.from_uncompressed(curve, context.store.ec_public(handle)).uncompressed()
        x, y = point[1 : 1 + curve.size], point[1 + curve.size :]
        return report.cose_ec_key(curve.form.curve, x, y)
    return b""
