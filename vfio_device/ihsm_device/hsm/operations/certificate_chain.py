# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""GetCertChainInfo and GetCertificate (spec 04 §9.13, §9.14, 06 §1.8)."""

from dataclasses import replace

from ihsm_abi.ddi import (
    DdiOp,
    DdiStatus,
    GetCertChainInfoReq,
    GetCertChainInfoResp,
    GetCertificateReq,
    GetCertificateResp,
)
from ihsm_device.hsm.errors import RefusedError
from ihsm_device.hsm.identity import certificates
from ihsm_device.hsm.operations.context import Context
from ihsm_device.hsm.operations.operation import operation


@operation(DdiOp.GetCertChainInfo)
def get_cert_chain_info(context: Context, request: GetCertChainInfoReq) -> GetCertChainInfoResp:
    """Length and thumbprint of the chain; the first call makes the partition's certificate."""
    if request.slot_id != 0:
        raise RefusedError(DdiStatus.InvalidArg)
    leaf = context.partition.kept.record.leaf or _make_leaf(context)
    chain = (*context.partition.device.record.certificates, leaf)
    return GetCertChainInfoResp(num_certs=len(chain), thumbprint=certificates.thumbprint(chain))


@operation(DdiOp.GetCertificate)
def get_certificate(context: Context, request: GetCertificateReq) -> GetCertificateResp:
    """One certificate, from the root (0) to the partition's."""
    if request.slot_id != 0:
        raise RefusedError(DdiStatus.InvalidArg)
    leaf = context.partition.kept.record.leaf
    if leaf is None:
        raise RefusedError(DdiStatus.InvalidCertificate)
    chain = (*context.partition.device.record.certificates, leaf)
    if request.cert_id >= len(chain):
        raise RefusedError(DdiStatus.InvalidCertificate)
    return GetCertificateResp(certificate=chain[request.cert_id])


def _make_leaf(context: Context) -> bytes:
    device = context.partition.device
    with context.recording() as kept:
        # Of several first calls at once the first one makes it.
        if kept.record.leaf is None:
            leaf = certificates.partition_certificate(
                device.store, device.identity, kept.identity, device.profile.leaf_form
            )
            context.partition.record(replace(kept.record, leaf=leaf))
            return leaf
        return kept.record.leaf
