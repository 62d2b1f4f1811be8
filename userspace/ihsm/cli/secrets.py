# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Options for credentials and other secrets, which come from files and never from the command line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from ihsm.cli.common import EXISTING_FILE, read_file
from ihsm_abi.ddi.limits import CREDENTIAL_ID_BYTES, PIN_BYTES


def hex_bytes(size: int, *, exact: bool = True) -> Callable[[str], bytes]:
    """Type of an option that takes so many bytes in hexadecimal, or with `exact` false fewer.

    Colons, hyphens and blanks between digits are ignored.
    """

    def convert(text: str) -> bytes:
        try:
            data = bytes.fromhex("".join(character for character in text if character not in ":- "))
        except ValueError:
            raise click.BadParameter(f"{text!r} is not hexadecimal") from None
        if len(data) > size or (exact and len(data) != size):
            raise click.BadParameter(f"{len(data)} bytes, {'' if exact else 'at most '}{size} needed")
        return data

    return convert


def read_secret(path: Path, size: int, option: str) -> bytes:
    """The secret in a file: `size` bytes as they are, or as hexadecimal digits.

    Raises:
        click.BadParameter: something else is in it.
    """
    data = read_file(path, option)
    if len(data) == size:
        return data
    try:
        decoded = bytes.fromhex(data.decode("ascii"))
    except ValueError:
        raise click.BadParameter(
            f"{path}: neither {size} bytes nor {2 * size} hexadecimal digits", param_hint=option
        ) from None
    if len(decoded) != size:
        raise click.BadParameter(f"{path}: {len(decoded)} bytes, {size} needed", param_hint=option)
    return decoded


def credential_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Options that name a credential; the command gets `credential_id: bytes | None` and `pin_file: Path | None`."""
    for option in (
        click.option("--pin-file", type=EXISTING_FILE, help=f"File with the PIN: {PIN_BYTES} bytes, or hexadecimal."),
        click.option(
            "--id",
            "credential_id",
            type=hex_bytes(CREDENTIAL_ID_BYTES),
            metavar="HEX",
            help=f"Id of the credential, {CREDENTIAL_ID_BYTES} bytes.",
        ),
    ):
        function = option(function)
    return function


def read_pin(pin_file: Path) -> bytes:
    """The PIN in a file."""
    return read_secret(pin_file, PIN_BYTES, "--pin-file")
