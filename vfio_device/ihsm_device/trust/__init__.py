# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""What a requester of SPDM can ask the device: who it is, what runs in it, and a session that it can trust."""

from ihsm_device.trust.connection import VendorProtocol, VendorProtocols
from ihsm_device.trust.errors import RefusedError
from ihsm_device.trust.evidence import Evidence, Measured
from ihsm_device.trust.objects import SpdmObjects
from ihsm_device.trust.responder import Responder

__all__ = ["Evidence", "Measured", "RefusedError", "Responder", "SpdmObjects", "VendorProtocol", "VendorProtocols"]
