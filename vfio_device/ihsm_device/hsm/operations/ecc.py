# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""EC keys: EccGenerateKeyPair, EccSign, EcdhKeyExchange (spec 05 §8, §9, §10)."""

from typing import Final

from ihsm_abi.ddi import (
    DdiOp,
    DdiStatus,
    EccCurve,
    EccGenerateKeyPairReq,
    EccGenerateKeyPairResp,
    EccSignReq,
    EccSignResp,
    EcdhKeyExchangeReq,
    EcdhKeyExchangeResp,
    HashAlgorithm,
    KeyType,
    KeyUsage,
)
from ihsm_device.hsm.errors import RefusedError
from ihsm_device.hsm.keystore import Handle, PairwiseTest, PairwiseTestError
from ihsm_device.hsm.operations.context import Context
from ihsm_device.hsm.operations.key_use import engine_failure, info_of, may, require_family, require_usage
from ihsm_device.hsm.operations.new_keys import Target, store_key
from ihsm_device.hsm.operations.operation import operation
from ihsm_device.hsm.partition import ExpressKey, NewEntry
from ihsm_device.hsm.wire import BY_ID, BY_PRIVATE_TYPE, Curve, Dialect, Family

APPROVED_DIGESTS: Final = {
    EccCurve.P256: {HashAlgorithm.Sha256},
    EccCurve.P384: {HashAlgorithm.Sha256, HashAlgorithm.Sha384},
    EccCurve.P521: {HashAlgorithm.Sha256, HashAlgorithm.Sha384, HashAlgorithm.Sha512},
}
"""Digest labels that an approved signature may carry, by curve (spec 05 §9 row 6)."""
_SECRET_OF_CURVE: Final = {
    EccCurve.P256: KeyType.Secret256,
    EccCurve.P384: KeyType.Secret384,
    EccCurve.P521: KeyType.Secret521,
}
_TEST_OF_USAGE: Final = {KeyUsage.SignVerify: PairwiseTest.SIGN, KeyUsage.Derive: PairwiseTest.AGREE}


@operation(DdiOp.EccGenerateKeyPair)
def ecc_generate_key_pair(context: Context, request: EccGenerateKeyPairReq) -> EccGenerateKeyPairResp:
    """Make a key pair and test that its halves belong together (spec 05 §8)."""
    target = Target.read(request.key_properties, request.key_tag)
    curve = BY_ID.get(request.curve)
    if curve is None:
        raise RefusedError(DdiStatus.InvalidArg)
    target.check_usage(Family.ECC)
    target.check_tag()
    with engine_failure(DdiStatus.EccGenerateError):
        key = context.scratch(context.store.ec_generate(curve.id, context.owner(target.scope)))
    failure = _pairwise_failure(context, key, target.usage, DdiStatus.PctValidationEccGenKeyFailed)
    flags = target.flags(local=True)
    stored = store_key(
        context, key, curve.form.private_type, flags, tag=target.tag, label=target.label, failure=failure
    )
    assert stored.public_key is not None
    return EccGenerateKeyPairResp(
        private_key_id=stored.entry.key_id, pub_key=stored.public_key, masked_key=stored.masked_key
    )


def _express(content: NewEntry, dialect: Dialect) -> ExpressKey | None:
    if info_of(content, Family.ECC) is None or not may(content, KeyUsage.SignVerify):
        return None
    curve = _curve_of(content)
    wire_bytes, significant_bytes = dialect.digest_bytes(curve)
    return ExpressKey(
        DdiOp.EccSign,
        frozenset(map(int, HashAlgorithm)),
        frozenset(map(int, APPROVED_DIGESTS[curve.form.curve])),
        number_bytes=curve.size,
        wire_bytes=len(dialect.write_signature(bytes(2 * curve.size), curve)) // 2,
        digest_wire_bytes=wire_bytes,
        digest_significant_bytes=significant_bytes,
    )


@operation(DdiOp.EccSign, express=_express)
def ecc_sign(context: Context, request: EccSignReq) -> EccSignResp:
    """Sign a digest as given, whatever its length; the label counts in the approved mode alone (spec 05 §9)."""
    entry = context.find(request.key_id)
    require_family(entry, Family.ECC)
    curve = _curve_of(entry.content)
    if not request.digest:
        raise RefusedError(DdiStatus.InvalidArg)
    require_usage(entry, KeyUsage.SignVerify)
    digest = context.dialect.read_digest(request.digest, curve, request.digest_algo)
    if context.partition.device.fips_approved:
        if request.digest_algo == HashAlgorithm.Sha1:
            raise RefusedError(DdiStatus.NonFipsApprovedDigest)
        if request.digest_algo not in APPROVED_DIGESTS[curve.form.curve]:
            raise RefusedError(DdiStatus.DigestHashMismatchWithEccCurve)

    with engine_failure(DdiStatus.EccSignFailed):
        signature = context.store.ec_sign(entry.content.handle, digest)
    return EccSignResp(signature=context.dialect.write_signature(signature, curve))


@operation(DdiOp.EcdhKeyExchange)
def ecdh_key_exchange(context: Context, request: EcdhKeyExchangeReq) -> EcdhKeyExchangeResp:
    """Agree on a secret, the x coordinate of the shared point; target usage and tag come last (spec 05 §10)."""
    target = Target.read(request.key_properties, request.key_tag)
    entry = context.find_own(request.priv_key_id)
    require_family(entry, Family.ECC)
    require_usage(entry, KeyUsage.Derive)
    curve = _curve_of(entry.content)
    if request.key_type != _SECRET_OF_CURVE[curve.form.curve]:
        raise RefusedError(DdiStatus.InvalidKeyType)
    peer = context.dialect.read_ec_point(request.pub_key_der, curve)
    if not peer.in_range:
        raise RefusedError(DdiStatus.EccPublicKeyValidationFailed)
    if not peer.on_curve:
        raise RefusedError(DdiStatus.EccPointValidationFailed)
    with engine_failure(DdiStatus.FailedToComputeEcdhSharedSecret):
        secret = context.scratch(
            context.store.ec_agree(entry.content.handle, peer.uncompressed(), context.owner(target.scope))
        )
    target.check_usage(Family.SECRET)
    target.check_tag()
    flags = target.flags(local=True)
    stored = store_key(context, secret, request.key_type, flags, tag=target.tag, label=target.label)
    return EcdhKeyExchangeResp(key_id=stored.entry.key_id, masked_key=stored.masked_key)


def _curve_of(content: NewEntry) -> Curve:
    assert content.type is not None
    return BY_PRIVATE_TYPE[content.type]


def _pairwise_failure(context: Context, key: Handle, usage: KeyUsage, status: DdiStatus) -> DdiStatus | None:
    try:
        context.store.ec_pairwise_test(key, _TEST_OF_USAGE[usage])
    except PairwiseTestError:
        return status
    return None
