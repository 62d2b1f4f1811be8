# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""`ihsm init`: from a partition without a credential to an open session (spec 04 §14)."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click

from ihsm import ddi
from ihsm.cli.common import (
    EXISTING_FILE,
    device_option,
    flatten,
    json_option,
    poll_option,
    print_json,
    print_table,
    read_file,
    wait_option,
)
from ihsm.cli.secrets import credential_options, read_pin, read_secret
from ihsm.driver import DriverOptions
from ihsm.uri import open_controller
from ihsm_abi.ddi.limits import BK3_BYTES, CREDENTIAL_ID_BYTES, PIN_BYTES


@click.command(
    help="""Provision a partition, establish its credential and open a session.

    What is not given is random. The credential lives as long as the client: with this command over a socket or VFIO,
    until the next subsystem reset behind a kernel driver.
    """,
)
@device_option
@wait_option
@credential_options
@click.option(
    "--bk3-file", type=EXISTING_FILE, help=f"File with the owner's backup key: {BK3_BYTES} bytes, or hexadecimal."
)
@click.option("--owner-key", type=EXISTING_FILE, help="PEM file of the P-384 private key that endorses the partition.")
@poll_option
@json_option
def init(
    device: str,
    wait_s: float,
    credential_id: bytes | None,
    pin_file: Path | None,
    bk3_file: Path | None,
    owner_key: Path | None,
    poll: bool,
    as_json: bool,
) -> None:
    """Run `ihsm init`."""
    credential = ddi.Credential(
        credential_id or os.urandom(CREDENTIAL_ID_BYTES), read_pin(pin_file) if pin_file else os.urandom(PIN_BYTES)
    )
    bk3 = read_secret(bk3_file, BK3_BYTES, "--bk3-file") if bk3_file else os.urandom(BK3_BYTES)
    anchor = _anchor(owner_key)
    with open_controller(device, DriverOptions(interrupts=not poll), wait_s=wait_s) as controller:
        partition = ddi.Partition(controller)
        info = partition.info()
        chain = partition.certificate_chain()
        chain.verify(strict_leaf=False)
        masked_bk3 = partition.init_bk3(bk3).masked_bk3
        bmk = partition.establish_credential(credential, masked_bk3, anchor)
        with partition.open_session(credential) as session:
            record: dict[str, Any] = {
                "uri": controller.function.uri,
                "kind": info.kind.name,
                "certificates": len(chain.der),
                "thumbprint": chain.thumbprint.hex(),
                "credential_id": credential.id.hex(),
                "session": {"id": session.session_id, "short_app_id": session.short_app_id},
                "backup": {
                    "masked_bk3": masked_bk3.hex(),
                    "bmk": bmk.hex(),
                    "masked_unwrapping_key": session.unwrapping_key(
                        wait_s=controller.options.timeout_s
                    ).masked_key.hex(),
                },
            }
    if as_json:
        print_json(record)
    else:
        del record["backup"]  # for programs: nobody reads 1000 hexadecimal digits
        print_table(flatten(record))


def _anchor(owner_key: Path | None) -> ddi.SoftwareTrustAnchor:
    """The owner's trust anchor, from a file or made now."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    if owner_key is None:
        return ddi.SoftwareTrustAnchor(ec.generate_private_key(ec.SECP384R1()))
    try:
        key = load_pem_private_key(read_file(owner_key, "--owner-key"), None)
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise ValueError("not an EC key")
        return ddi.SoftwareTrustAnchor(key)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise click.BadParameter(f"{owner_key}: {error}", param_hint="--owner-key") from None
