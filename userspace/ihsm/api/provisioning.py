# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Making a store: a device is provisioned, and what brings it back is kept (spec 04 §13, §14)."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from ihsm import ddi
from ihsm.api.connection import identity_of
from ihsm.api.devices import NamedDevice, PrivateDevice, new_device
from ihsm.arguments import Octets, octets
from ihsm.driver import DriverOptions
from ihsm.errors import ArgumentTypeError
from ihsm.store import DEVICE, OwnerSecrets, Store, check_name, default_name, prepare_pin, staging
from ihsm.store.staging import name_taken
from ihsm_abi.ddi.limits import BK3_BYTES, CREDENTIAL_ID_BYTES, PIN_BYTES

DEFAULT_OPTIONS: Final = DriverOptions()
_PENDING_S: Final = 60.0
"""How long firmware may take to make the unwrapping key."""


def provision(
    name: str | None,
    *,
    device: str | None,
    pin: str | None,
    wait_s: float,
    options: DriverOptions | None,
    owner_key: ec.EllipticCurvePrivateKey | None,
    bk3: Octets | None,
    credential: ddi.Credential | None,
    root: Path | None,
) -> Store:
    """Provision a device and make its store; arguments and errors as `Hsm.create`. The device is let go of."""
    secret = os.urandom(BK3_BYTES) if bk3 is None else octets("Hsm.create", "bk3", bk3, BK3_BYTES)
    owner = ec.generate_private_key(ec.SECP384R1()) if owner_key is None else owner_key
    if not isinstance(owner, ec.EllipticCurvePrivateKey):
        raise ArgumentTypeError("Hsm.create", "owner_key", f"{type(owner).__name__}, must be a P-384 private key")
    anchor = ddi.SoftwareTrustAnchor(owner)
    if credential is None:
        credential = ddi.Credential(os.urandom(CREDENTIAL_ID_BYTES), os.urandom(PIN_BYTES))
    name = default_name() if name is None else check_name("Hsm.create", "store", name)
    if pin is not None:
        prepare_pin(pin)
    if name in Store.names(root):
        raise name_taken(f"store {name}")
    with staging(root) as folder:
        chosen = new_device(device, folder / DEVICE, options or DEFAULT_OPTIONS, wait_s)
        try:
            masked_bk3, bmk, unwrapping_key, identity = _provisioned(chosen, credential, anchor, secret)
        finally:
            chosen.close()
        return Store.create(
            name,
            device=chosen.store_device,
            secrets=OwnerSecrets(
                owner.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption()), credential.id, credential.pin
            ),
            masked_bk3=masked_bk3,
            bmk=bmk,
            unwrapping_key=unwrapping_key,
            identity=identity,
            pin=pin,
            device_state=folder / DEVICE if isinstance(chosen, PrivateDevice) else None,
            root=root,
        )


def _provisioned(
    device: NamedDevice | PrivateDevice, credential: ddi.Credential, anchor: ddi.TrustAnchor, bk3: bytes
) -> tuple[bytes, bytes, bytes, bytes]:
    """Masked BK3, BMK, masked unwrapping key, and the identity's hash."""
    with device.open() as opened:
        partition = ddi.Partition(opened)
        partition.certificate_chain().verify(strict_leaf=False)
        masked_bk3 = partition.init_bk3(bk3).masked_bk3
        bmk = partition.establish_credential(credential, masked_bk3, anchor)
        with partition.open_session(credential) as session:
            unwrapping_key = session.unwrapping_key(wait_s=_PENDING_S)
        return masked_bk3, bmk, unwrapping_key.masked_key, identity_of(partition)
