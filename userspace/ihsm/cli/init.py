# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""`ihsm init`: a device is provisioned (spec 04 §14), and a store made that brings it up again."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ihsm.cli.common import (
    EXISTING_FILE,
    flatten,
    json_option,
    poll_option,
    print_json,
    print_table,
    read_file,
    store_option,
    wait_option,
)
from ihsm.cli.pin import ask_pin, pin_options, read_user_pin, say_if_without_pin
from ihsm.cli.secrets import credential_options, read_pin, read_secret
from ihsm.driver import DriverOptions
from ihsm.uri import AUTO
from ihsm_abi.ddi.limits import BK3_BYTES, CREDENTIAL_ID_BYTES, PIN_BYTES

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric import ec

    from ihsm import ddi
    from ihsm.api.hsm import Hsm


@click.command(
    help="""Provision a device and make a store, in which keys are kept from now on.

    The store has all that brings the device up again: the owner's key, the device's credential, the backup of its
    masking key. What is not given is random. Without a PIN the permissions of its files are all that protects it:
    --store-pin-prompt asks for one on the terminal. A store of this name that is there already is left alone.
    """,
)
@click.option(
    "--device",
    metavar="URI",
    default=AUTO,
    show_default=True,
    help="vfio-user:PATH, pci:BDF, chardev:PATH, private (the store's own, whose state lies in the store), or auto: "
    "$IHSM_DEVICE, else the one that you started, else a private one.",
)
@store_option
@click.option(
    "--store-pin-prompt", "ask_pin", is_flag=True, help="Ask on the terminal for a PIN that protects the store."
)
@pin_options("store-", "that PIN")
@credential_options
@click.option(
    "--bk3-file", type=EXISTING_FILE, help=f"File with the owner's backup key: {BK3_BYTES} bytes, or hexadecimal."
)
@click.option("--owner-key", type=EXISTING_FILE, help="PEM file of the P-384 private key that endorses the partition.")
@wait_option
@poll_option
@json_option
def init(
    device: str,
    store: str | None,
    ask_pin: bool,
    store_pin_file: Path | None,
    store_pin_fd: int | None,
    credential_id: bytes | None,
    pin_file: Path | None,
    bk3_file: Path | None,
    owner_key: Path | None,
    wait_s: float,
    poll: bool,
    as_json: bool,
) -> None:
    """Run `ihsm init`."""
    from ihsm import ddi
    from ihsm.api.hsm import Hsm

    credential = ddi.Credential(
        credential_id or os.urandom(CREDENTIAL_ID_BYTES), read_pin(pin_file) if pin_file else os.urandom(PIN_BYTES)
    )
    bk3 = read_secret(bk3_file, BK3_BYTES, "--bk3-file") if bk3_file else None
    owner = None if owner_key is None else _owner_key(owner_key)
    pin = _new_pin(ask_pin, store_pin_file, store_pin_fd)
    with Hsm.create(
        store,
        device=device,
        pin=pin,
        wait_s=wait_s,
        options=DriverOptions(interrupts=not poll),
        owner_key=owner,
        bk3=bk3,
        credential=credential,
    ) as hsm:
        record = _describe(hsm, credential)
    if as_json:
        print_json(record)
    else:
        del record["backup"]  # for programs: nobody reads 1000 hexadecimal digits
        print_table(flatten(record))
    say_if_without_pin(hsm.store)


def _describe(hsm: Hsm, credential: ddi.Credential) -> dict[str, Any]:
    link, store = hsm.connection.link, hsm.store
    chain = link.partition.certificate_chain()
    assert store.unwrapping_key is not None
    return {
        "uri": link.device.uri,
        "kind": link.partition.info().kind.name,
        "certificates": len(chain.der),
        "thumbprint": chain.thumbprint.hex(),
        "credential_id": credential.id.hex(),
        "session": {"id": link.session.session_id, "short_app_id": link.session.short_app_id},
        "backup": {
            "masked_bk3": store.masked_bk3.hex(),
            "bmk": store.bmk.hex(),
            "masked_unwrapping_key": store.unwrapping_key.hex(),
        },
        "store": {"name": store.name, "path": os.fspath(store.path), "pin": store.pin_protected},
    }


def _new_pin(ask: bool, file: Path | None, descriptor: int | None) -> str | None:
    if not ask:
        return read_user_pin(False, file, descriptor, prefix="store-")
    if file is not None or descriptor is not None:
        raise click.UsageError(
            "--store-pin-prompt asks for the PIN: --store-pin-file and --store-pin-fd do not go with it"
        )
    return ask_pin("PIN of the new store", twice=True)


def _owner_key(path: Path) -> ec.EllipticCurvePrivateKey:
    """The owner's key in a file."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    from ihsm import ddi

    try:
        key = load_pem_private_key(read_file(path, "--owner-key"), None)
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise ValueError("not an EC key")
        ddi.SoftwareTrustAnchor(key)  # knows which curve
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise click.BadParameter(f"{path}: {error}", param_hint="--owner-key") from None
    return key
