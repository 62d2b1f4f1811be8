# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Which messages and which session control kind belong to an operation (spec 03 §7)."""

from dataclasses import dataclass
from typing import Final

from ihsm_abi.ddi import certificates, crypto, device, firmware_ops, keys, provisioning, sessions
from ihsm_abi.ddi.ops import DdiOp
from ihsm_abi.hsm_queue import ControlKind
from ihsm_abi.mbor import MborMap


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation: its code, its data maps and its session control kind."""

    op: DdiOp
    request: type[MborMap]
    response: type[MborMap]
    kind: ControlKind


_ALL = (
    Operation(DdiOp.GetApiRev, device.GetApiRevReq, device.GetApiRevResp, ControlKind.NONE),
    Operation(DdiOp.GetDeviceInfo, device.GetDeviceInfoReq, device.GetDeviceInfoResp, ControlKind.NONE),
    Operation(DdiOp.DeleteKey, keys.DeleteKeyReq, keys.DeleteKeyResp, ControlKind.IN_SESSION),
    Operation(DdiOp.OpenKey, keys.OpenKeyReq, keys.OpenKeyResp, ControlKind.IN_SESSION),
    Operation(DdiOp.AttestKey, keys.AttestKeyReq, keys.AttestKeyResp, ControlKind.IN_SESSION),
    Operation(DdiOp.RsaModExp, crypto.RsaModExpReq, crypto.RsaModExpResp, ControlKind.IN_SESSION),
    Operation(DdiOp.RsaUnwrap, keys.RsaUnwrapReq, keys.RsaUnwrapResp, ControlKind.IN_SESSION),
    Operation(DdiOp.GetUnwrappingKey, keys.GetUnwrappingKeyReq, keys.GetUnwrappingKeyResp, ControlKind.IN_SESSION),
    Operation(
        DdiOp.EccGenerateKeyPair, keys.EccGenerateKeyPairReq, keys.EccGenerateKeyPairResp, ControlKind.IN_SESSION
    ),
    Operation(DdiOp.EccSign, crypto.EccSignReq, crypto.EccSignResp, ControlKind.IN_SESSION),
    Operation(DdiOp.AesGenerateKey, keys.AesGenerateKeyReq, keys.AesGenerateKeyResp, ControlKind.IN_SESSION),
    Operation(
        DdiOp.AesEncryptDecrypt, crypto.AesEncryptDecryptReq, crypto.AesEncryptDecryptResp, ControlKind.IN_SESSION
    ),
    Operation(DdiOp.EcdhKeyExchange, crypto.EcdhKeyExchangeReq, crypto.EcdhKeyExchangeResp, ControlKind.IN_SESSION),
    Operation(DdiOp.HkdfDerive, crypto.HkdfDeriveReq, crypto.HkdfDeriveResp, ControlKind.IN_SESSION),
    Operation(
        DdiOp.KbkdfCounterHmacDerive,
        crypto.KbkdfCounterHmacDeriveReq,
        crypto.KbkdfCounterHmacDeriveResp,
        ControlKind.IN_SESSION,
    ),
    Operation(DdiOp.Hmac, crypto.HmacReq, crypto.HmacResp, ControlKind.IN_SESSION),
    Operation(
        DdiOp.GetEstablishCredEncryptionKey,
        provisioning.GetEstablishCredEncryptionKeyReq,
        provisioning.GetEstablishCredEncryptionKeyResp,
        ControlKind.NONE,
    ),
    Operation(
        DdiOp.EstablishCredential,
        provisioning.EstablishCredentialReq,
        provisioning.EstablishCredentialResp,
        ControlKind.NONE,
    ),
    Operation(
        DdiOp.GetSessionEncryptionKey,
        sessions.GetSessionEncryptionKeyReq,
        sessions.GetSessionEncryptionKeyResp,
        ControlKind.NONE,
    ),
    Operation(DdiOp.OpenSession, sessions.OpenSessionReq, sessions.OpenSessionResp, ControlKind.OPEN),
    Operation(DdiOp.CloseSession, sessions.CloseSessionReq, sessions.CloseSessionResp, ControlKind.CLOSE),
    Operation(DdiOp.ChangePin, sessions.ChangePinReq, sessions.ChangePinResp, ControlKind.IN_SESSION),
    Operation(DdiOp.UnmaskKey, keys.UnmaskKeyReq, keys.UnmaskKeyResp, ControlKind.IN_SESSION),
    Operation(
        DdiOp.GetCertChainInfo, certificates.GetCertChainInfoReq, certificates.GetCertChainInfoResp, ControlKind.NONE
    ),
    Operation(DdiOp.GetCertificate, certificates.GetCertificateReq, certificates.GetCertificateResp, ControlKind.NONE),
    Operation(DdiOp.ReopenSession, sessions.ReopenSessionReq, sessions.ReopenSessionResp, ControlKind.IN_SESSION),
    Operation(DdiOp.InitBk3, provisioning.InitBk3Req, provisioning.InitBk3Resp, ControlKind.NONE),
    Operation(DdiOp.GetSealedBk3, provisioning.GetSealedBk3Req, provisioning.GetSealedBk3Resp, ControlKind.NONE),
    Operation(DdiOp.SetSealedBk3, provisioning.SetSealedBk3Req, provisioning.SetSealedBk3Resp, ControlKind.NONE),
    Operation(DdiOp.ResetFunction, firmware_ops.ResetFunctionReq, firmware_ops.ResetFunctionResp, ControlKind.CLOSE),
    Operation(DdiOp.DerKeyImport, firmware_ops.DerKeyImportReq, firmware_ops.DerKeyImportResp, ControlKind.IN_SESSION),
    Operation(
        DdiOp.GetPerfLogChunk, firmware_ops.GetPerfLogChunkReq, firmware_ops.GetPerfLogChunkResp, ControlKind.IN_SESSION
    ),
    Operation(DdiOp.TestAction, firmware_ops.TestActionReq, firmware_ops.TestActionResp, ControlKind.IN_SESSION),
    Operation(DdiOp.GetPrivKey, firmware_ops.GetPrivKeyReq, firmware_ops.GetPrivKeyResp, ControlKind.IN_SESSION),
    Operation(
        DdiOp.ShaDigest, firmware_ops.ShaDigestGenerateReq, firmware_ops.ShaDigestGenerateResp, ControlKind.IN_SESSION
    ),
    Operation(
        DdiOp.GetRandomNumber, firmware_ops.GetRngGenerateReq, firmware_ops.GetRngGenerateResp, ControlKind.IN_SESSION
    ),
    Operation(DdiOp.RawKeyImport, firmware_ops.RawKeyImportReq, firmware_ops.RawKeyImportResp, ControlKind.IN_SESSION),
    Operation(DdiOp.SoftAes, firmware_ops.SoftAesReq, firmware_ops.SoftAesResp, ControlKind.IN_SESSION),
    Operation(
        DdiOp.RsaUnwrapKekTest, firmware_ops.RsaUnwrapKekReq, firmware_ops.RsaUnwrapKekResp, ControlKind.IN_SESSION
    ),
)

OPERATIONS: Final = {operation.op: operation for operation in _ALL}
"""Every operation, the firmware's test operations (from 2001) included, by code."""

OPERATION_OF_REQUEST: Final = {operation.request: operation for operation in _ALL}
"""The operation that a request's data class belongs to."""


_KINDS: Final[dict[int, ControlKind]] = {operation.op: operation.kind for operation in _ALL}


def control_kind(op: int) -> ControlKind:
    """Session control kind of an operation code; unknown codes and `Invalid` count as IN_SESSION (spec 03 §7)."""
    return _KINDS.get(op, ControlKind.IN_SESSION)
