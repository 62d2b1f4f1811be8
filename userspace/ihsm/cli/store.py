# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""`ihsm store`: the folders that keys are kept in. No command here needs a device or a PIN."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click

from ihsm import fields
from ihsm.cli.common import json_option, print_json, print_table, require_yes, yes_option
from ihsm.cli.pin import NO_PIN_NOTICE, say_if_without_pin
from ihsm.errors import StoreError
from ihsm.store import Store


@click.group(
    help="""The stores that keys are kept in.

    Exit status 7: no such store, one that is there already, damaged or unsafe files.
    """
)
def store() -> None:
    """Run `ihsm store`; a sub-command follows."""


@store.command(
    "list", help="List the stores: where their device is, how many keys they have, whether a PIN protects them."
)
@json_option
def list_command(as_json: bool) -> None:
    """Run `ihsm store list`."""
    records = [_describe(name) for name in Store.names()]
    if as_json:
        print_json(records)
    elif not records:
        click.echo("no store found; `ihsm init` makes one")
    else:
        print_table([_row(record) for record in records], ("NAME", "DEVICE", "KEYS", "PIN", "CREATED"))
        for record in records:
            if record.get("pin") is False:
                click.echo(NO_PIN_NOTICE.format(name=record["name"]), err=True)


@store.command(help="Give a store another name.")
@click.argument("old")
@click.argument("new")
def rename(old: str, new: str) -> None:
    """Run `ihsm store rename`."""
    Store.open(old, unlock=False).rename(new)


@store.command(
    help="""Delete a store with all its keys, and the state of its private device.

    Nothing brings them back but a copy. Asks on a terminal, unless --yes is given.
    """
)
@click.argument("name")
@yes_option
def delete(name: str, yes: bool) -> None:
    """Run `ihsm store delete`."""
    opened = Store.open(name, unlock=False)
    if not yes:
        require_yes(
            f"Delete store {name!r} and its {opened.key_count()} keys for ever?", "delete the store and all its keys"
        )
    opened.delete()


@store.command(
    help="""Write a store to a new tar file, which only you can read; NAME is $IHSM_STORE or "default".

    It has the private device's state too. Unpacked into the folder of the stores it is a store again.
    """
)
@click.argument("name", required=False)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    metavar="FILE",
    required=True,
    help="The tar file; one that is there is not replaced.",
)
def export(name: str | None, output: Path) -> None:
    """Run `ihsm store export`."""
    opened = Store.open(name, unlock=False)
    opened.export(output)
    say_if_without_pin(opened)


def _describe(name: str) -> dict[str, Any]:
    """What a store is, or why it cannot be opened."""
    try:
        opened = Store.open(name, unlock=False)
        return {
            "name": name,
            "path": os.fspath(opened.path),
            "device": opened.device.record(),
            "keys": opened.key_count(),
            "pin": opened.pin_protected,
            "created": fields.encode_time(opened.created),
            "identity": opened.identity.hex(),
        }
    except StoreError as error:
        return {"name": name, "error": str(error)}


def _row(record: dict[str, Any]) -> tuple[str, ...]:
    if "error" in record:
        return record["name"], f"cannot be opened: {record['error']}", "-", "-", "-"
    device = record["device"]
    pin = "yes" if record["pin"] else "no"
    return record["name"], device.get("uri", device["kind"]), str(record["keys"]), pin, record["created"]
