# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Messages that read the certificate chain (spec 03 §13, 06 §1)."""

from typing import Annotated

from ihsm_abi.mbor import U8, MborMap, Octets


class GetCertChainInfoReq(MborMap):
    """1108 GetCertChainInfo request."""

    slot_id: Annotated[int, U8(1)]


class GetCertChainInfoResp(MborMap):
    """1108 GetCertChainInfo response."""

    num_certs: Annotated[int, U8(1)]
    thumbprint: Annotated[bytes, Octets(2, 32)]


class GetCertificateReq(MborMap):
    """1109 GetCertificate request."""

    slot_id: Annotated[int, U8(1)]
    cert_id: Annotated[int, U8(2)]


class GetCertificateResp(MborMap):
    """1109 GetCertificate response."""

    certificate: Annotated[bytes, Octets(1, 2048)]
