# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Asking a device who it is and what runs in it: SPDM 1.2 and secured messages 1.1 over its mailbox.

    with open_config("pci:0000:00:04.0") as function:  # of ihsm.uri
        evidence = attest(Mailbox(function), roots=[root])  # of ihsm.bus
    assert not Reference.parse(data, "hsm.json").differences(evidence)

It shares nothing with the device but the declarations of `ihsm_abi.spdm`; its cryptography is pyca's. `attest` does
everything once and checks each answer. A `Connection` takes the steps one by one, and a `Session` talks over encrypted
records for as long as one likes. Exceptions that are not here, such as `BusError`, are of `ihsm.errors`.
"""

from ihsm_abi.lazy_names import loader

_HOMES = {
    "Claim": "claims",
    "Connection": "connection",
    "Difference": "reference",
    "Evidence": "evidence",
    "EvidenceError": "errors",
    "Exchange": "connection",
    "MeasuredBlock": "blocks",
    "Reference": "reference",
    "ReferenceFileError": "errors",
    "ReferenceMismatchError": "errors",
    "Request": "connection",
    "Session": "session",
    "Signed": "connection",
    "SpdmRefusedError": "errors",
    "attest": "evidence",
    "new_nonce": "connection",
}
"""Module of each name, loaded when used."""

__all__ = sorted(_HOMES)
__getattr__ = loader(__name__, _HOMES)
