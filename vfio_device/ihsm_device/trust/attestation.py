# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""What all functions of a device prove with: its identity, its measurements; and a responder for each."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from typing import NamedTuple

import cffi
import cryptography
import numpy as np
from cryptography.hazmat.backends.openssl import backend

from ihsm_abi import ide_km, tdisp
from ihsm_abi.spdm.manifest import MeasuredFile
from ihsm_abi.spdm.messages import PCI_SIG_REGISTRY
from ihsm_device.hsm.device import HsmDevice
from ihsm_device.hsm.identity import CURRENT_SVN, attestation_alias, certificates
from ihsm_device.hsm.keystore import Handle, KeyStore
from ihsm_device.tdi import DeviceInterface
from ihsm_device.trust.connection import VendorProtocols
from ihsm_device.trust.evidence import Evidence
from ihsm_device.trust.ide_km import IdeKm
from ihsm_device.trust.interface_id import InterfaceId
from ihsm_device.trust.measurements import Settings, firmware_id, measure_device
from ihsm_device.trust.objects import SpdmObjects
from ihsm_device.trust.responder import Responder
from ihsm_device.trust.tdisp import Tdisp
from ihsm_device.version import VERSION


class _Identity(NamedTuple):
    key: Handle
    certificates: tuple[bytes, ...]


class Attestation:
    """One per device."""

    def __init__(self, hsm: HsmDevice, files: Sequence[MeasuredFile], requester_ids: Sequence[int] = ()) -> None:
        """`files`: those of its code (`ihsm_device.own_code`); `requester_ids`: of the first functions, if known."""
        self._requester_ids = tuple(requester_ids)
        self._hsm = hsm
        self.files = tuple(files)
        measured = measure_device(files, _settings(hsm))
        self._firmware_id = firmware_id(measured)
        self.evidence = Evidence(hsm.store, self._identity, measured)

    def responder(self, function: int, protocols: VendorProtocols | None = None) -> Responder:
        """The responder of a function."""
        return Responder(self.evidence, function, protocols, works=lambda: self._hsm.error is None)

    def objects(self, function: int, interface: DeviceInterface) -> SpdmObjects:
        """What answers the data objects of a function's mailbox, and acts on its `interface`."""
        told = self._requester_ids[function] if function < len(self._requester_ids) else None
        interface_id = InterfaceId(told)
        tdisp_protocol = Tdisp(
            interface,
            interface_id,
            self._hsm.store.random,
            whole_addresses=self._hsm.profile.reported_addresses_whole,
        )
        protocols: VendorProtocols = {
            (PCI_SIG_REGISTRY, ide_km.PROTOCOL): IdeKm(interface, interface_id),
            (PCI_SIG_REGISTRY, tdisp.PROTOCOL): tdisp_protocol,
        }
        return SpdmObjects(self.responder(function, protocols))

    def _identity(self) -> _Identity:
        """Made when the first requester asks; its key is the same for the same code and policy."""
        hsm = self._hsm
        alias = attestation_alias(hsm.store, hsm.identity, self._firmware_id)
        certificate = certificates.attestation_certificate(
            hsm.store, hsm.identity, alias, self._firmware_id, VERSION, CURRENT_SVN
        )
        return _Identity(alias.key, (hsm.record.certificates[0], certificate))


def _settings(hsm: HsmDevice) -> Settings:
    options = hsm.options
    return Settings(
        version=VERSION,
        svn=CURRENT_SVN,
        profile=hsm.profile.name,
        configuration={
            "kind": options.kind.name,
            "profile": hsm.profile.describe(),
            "fips_approved": options.fips_approved,
            "validation_hooks": options.validation_hooks,
            "express": options.express,
            "versions": {
                "ihsm": VERSION,
                "python": platform.python_version(),
                "libc": os.confstr("CS_GNU_LIBC_VERSION"),
                "crypto": KeyStore.library_version(),
                "cryptography": cryptography.__version__,
                "openssl": backend.openssl_version_text(),
                "cffi": cffi.__version__,
                "numpy": np.__version__,
            },
        },
        validation_hooks=options.validation_hooks,
    )
