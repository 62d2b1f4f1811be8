# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Which messages and which session control kind belong to an operation (spec 03 §7).

A family of messages is loaded when one of them is asked for: to make its classes takes longer than to send a few.
"""

import functools
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Final, cast

from ihsm_abi.ddi.ops import DdiOp
from ihsm_abi.hsm_queue import ControlKind
from ihsm_abi.mbor import MborMap


@dataclass(frozen=True)
class Operation:
    """One operation: its code, its data maps and its session control kind.

    `family` is the module of its messages beside this one, `stem` what their classes' names begin with.
    """

    op: DdiOp
    family: str
    stem: str
    kind: ControlKind

    @functools.cached_property
    def request(self) -> type[MborMap]:
        """Class of the request's data map."""
        return self._message("Req")

    @functools.cached_property
    def response(self) -> type[MborMap]:
        """Class of the response's data map."""
        return self._message("Resp")

    @property
    def module(self) -> str:
        """Full name of the family's module."""
        return f"{__package__}.{self.family}"

    def _message(self, suffix: str) -> type[MborMap]:
        return cast(type[MborMap], getattr(import_module(self.module), self.stem + suffix))


_ALL = (
    Operation(DdiOp.GetApiRev, "device", "GetApiRev", ControlKind.NONE),
    Operation(DdiOp.GetDeviceInfo, "device", "GetDeviceInfo", ControlKind.NONE),
    Operation(DdiOp.DeleteKey, "keys", "DeleteKey", ControlKind.IN_SESSION),
    Operation(DdiOp.OpenKey, "keys", "OpenKey", ControlKind.IN_SESSION),
    Operation(DdiOp.AttestKey, "keys", "AttestKey", ControlKind.IN_SESSION),
    Operation(DdiOp.RsaModExp, "crypto", "RsaModExp", ControlKind.IN_SESSION),
    Operation(DdiOp.RsaUnwrap, "keys", "RsaUnwrap", ControlKind.IN_SESSION),
    Operation(DdiOp.GetUnwrappingKey, "keys", "GetUnwrappingKey", ControlKind.IN_SESSION),
    Operation(DdiOp.EccGenerateKeyPair, "keys", "EccGenerateKeyPair", ControlKind.IN_SESSION),
    Operation(DdiOp.EccSign, "crypto", "EccSign", ControlKind.IN_SESSION),
    Operation(DdiOp.AesGenerateKey, "keys", "AesGenerateKey", ControlKind.IN_SESSION),
    Operation(DdiOp.AesEncryptDecrypt, "crypto", "AesEncryptDecrypt", ControlKind.IN_SESSION),
    Operation(DdiOp.EcdhKeyExchange, "crypto", "EcdhKeyExchange", ControlKind.IN_SESSION),
    Operation(DdiOp.HkdfDerive, "crypto", "HkdfDerive", ControlKind.IN_SESSION),
    Operation(DdiOp.KbkdfCounterHmacDerive, "crypto", "KbkdfCounterHmacDerive", ControlKind.IN_SESSION),
    Operation(DdiOp.Hmac, "crypto", "Hmac", ControlKind.IN_SESSION),
    Operation(DdiOp.GetEstablishCredEncryptionKey, "provisioning", "GetEstablishCredEncryptionKey", ControlKind.NONE),
    Operation(DdiOp.EstablishCredential, "provisioning", "EstablishCredential", ControlKind.NONE),
    Operation(DdiOp.GetSessionEncryptionKey, "sessions", "GetSessionEncryptionKey", ControlKind.NONE),
    Operation(DdiOp.OpenSession, "sessions", "OpenSession", ControlKind.OPEN),
    Operation(DdiOp.CloseSession, "sessions", "CloseSession", ControlKind.CLOSE),
    Operation(DdiOp.ChangePin, "sessions", "ChangePin", ControlKind.IN_SESSION),
    Operation(DdiOp.UnmaskKey, "keys", "UnmaskKey", ControlKind.IN_SESSION),
    Operation(DdiOp.GetCertChainInfo, "certificates", "GetCertChainInfo", ControlKind.NONE),
    Operation(DdiOp.GetCertificate, "certificates", "GetCertificate", ControlKind.NONE),
    Operation(DdiOp.ReopenSession, "sessions", "ReopenSession", ControlKind.IN_SESSION),
    Operation(DdiOp.InitBk3, "provisioning", "InitBk3", ControlKind.NONE),
    Operation(DdiOp.GetSealedBk3, "provisioning", "GetSealedBk3", ControlKind.NONE),
    Operation(DdiOp.SetSealedBk3, "provisioning", "SetSealedBk3", ControlKind.NONE),
    Operation(DdiOp.ResetFunction, "firmware_ops", "ResetFunction", ControlKind.CLOSE),
    Operation(DdiOp.DerKeyImport, "firmware_ops", "DerKeyImport", ControlKind.IN_SESSION),
    Operation(DdiOp.GetPerfLogChunk, "firmware_ops", "GetPerfLogChunk", ControlKind.IN_SESSION),
    Operation(DdiOp.TestAction, "firmware_ops", "TestAction", ControlKind.IN_SESSION),
    Operation(DdiOp.GetPrivKey, "firmware_ops", "GetPrivKey", ControlKind.IN_SESSION),
    Operation(DdiOp.ShaDigest, "firmware_ops", "ShaDigestGenerate", ControlKind.IN_SESSION),
    Operation(DdiOp.GetRandomNumber, "firmware_ops", "GetRngGenerate", ControlKind.IN_SESSION),
    Operation(DdiOp.RawKeyImport, "firmware_ops", "RawKeyImport", ControlKind.IN_SESSION),
    Operation(DdiOp.SoftAes, "firmware_ops", "SoftAes", ControlKind.IN_SESSION),
    Operation(DdiOp.RsaUnwrapKekTest, "firmware_ops", "RsaUnwrapKek", ControlKind.IN_SESSION),
)

OPERATIONS: Final = {operation.op: operation for operation in _ALL}
"""Every operation, the firmware's test operations (from 2001) included, by code."""

_BY_REQUEST: Final = {(operation.module, f"{operation.stem}Req"): operation for operation in _ALL}


class _ByRequest(dict[type[MborMap], Operation]):
    """Fills itself: a class can be asked for only once its family is loaded."""

    def __missing__(self, request: type[MborMap]) -> Operation:
        operation = _BY_REQUEST[request.__module__, request.__qualname__]
        if operation.request is not request:
            raise KeyError(request)
        self[request] = operation
        return operation

    def get(self, request: type[MborMap], default: Any = None) -> Any:
        try:
            return self[request]
        except KeyError:
            return default


OPERATION_OF_REQUEST: Final = _ByRequest()
"""The operation that a request's data class belongs to: to be looked up by the class, not to be walked through."""


_KINDS: Final[dict[int, ControlKind]] = {operation.op: operation.kind for operation in _ALL}


def control_kind(op: int) -> ControlKind:
    """Session control kind of an operation code; unknown codes and `Invalid` count as IN_SESSION (spec 03 §7)."""
    return _KINDS.get(op, ControlKind.IN_SESSION)
