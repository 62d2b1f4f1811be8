# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Who the device is, and what it proves or seals with that: keys, certificates, reports, masked keys."""

from ihsm_device.hsm.identity import certificates, hierarchy, masking, report
from ihsm_device.hsm.identity.hierarchy import CURRENT_SVN
from ihsm_device.hsm.identity.identity import PARTITION_ID_BYTES, DeviceIdentity, PartitionIdentity, attestation_alias

__all__ = [
    "CURRENT_SVN",
    "PARTITION_ID_BYTES",
    "DeviceIdentity",
    "PartitionIdentity",
    "attestation_alias",
    "certificates",
    "hierarchy",
    "masking",
    "report",
]
