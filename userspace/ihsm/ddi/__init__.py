# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""The typed client of the device interface: provisioning, sessions, keys, attestation.

    partition = Partition(transport)
    masked = partition.init_bk3(bk3).masked_bk3
    partition.establish_credential(credential, masked, SoftwareTrustAnchor(owner_key))
    with partition.open_session(credential) as session:
        key = session.generate_ecc_key(EccCurve.P384, KeyRequest(KeyUsage.SignVerify))
        signature = session.ecc_sign(key, digest, HashAlgorithm.Sha384)

Everything on this side is DER and big-endian, whatever the device speaks.
"""

from ihsm_abi.lazy_names import loader

_HOMES = {
    "ArrayTransport": "transport",
    "AsyncTransport": "transport",
    "AttestationError": "errors",
    "AttestationReport": "attestation",
    "BatchError": "errors",
    "CertificateChain": "certificates",
    "CertificateChainError": "errors",
    "Channel": "channel",
    "Credential": "credentials",
    "DdiError": "errors",
    "DeviceKeyError": "errors",
    "Entropy": "credentials",
    "Key": "keys",
    "KeyInfo": "keys",
    "KeyRequest": "keys",
    "NotAsynchronousError": "errors",
    "Partition": "partition",
    "Reply": "transport",
    "RequestError": "errors",
    "ResponseError": "errors",
    "Session": "session",
    "SessionTicket": "session",
    "SoftwareTrustAnchor": "pota",
    "StatusError": "errors",
    "Transport": "transport",
    "TrustAnchor": "pota",
    "verify_report": "attestation",
}
"""Module of each name: loaded when used, since certificates and attestation bring large libraries with them. Type
checkers read the same from `__init__.pyi`."""

__all__ = sorted(_HOMES)
__getattr__ = loader(__name__, _HOMES)
