# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Options and output that commands share."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from ihsm.arguments import MAX_WAIT_S
from ihsm.cli.completing import complete_stores
from ihsm.errors import DeviceNotFoundError
from ihsm.uri import AUTO, DEVICE_VARIABLE, Scheme, choose_device
from ihsm_abi import json_text

if TYPE_CHECKING:
    from cryptography import x509

device_option: Final[Callable[[Any], Any]] = click.option(
    "--device",
    "device",
    metavar="URI",
    default=AUTO,
    show_default=True,
    help=f"vfio-user:PATH, pci:BDF, chardev:PATH, or auto: ${DEVICE_VARIABLE}, else the one free device that you "
    "started (in a guest of ihsm guest its PCI function), else a private one for the duration.",
)


def control_address(device: str, where: str) -> str:
    """Control socket of the function that is named, or of the one that there is; `where` says who has one.

    Raises:
        DeviceNotFoundError: there is none, or it is no served function.
    """
    uri = choose_device(device, busy=True)
    if uri is None:
        raise DeviceNotFoundError("no device found")
    if uri.scheme != Scheme.VFIO_USER:
        raise DeviceNotFoundError(f"{uri} has no control socket: {where}")
    return uri.address


class Number(click.FloatRange):
    """Type of an option that takes a number within bounds; nan lies in none, though it compares as if it did."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The number."""
        number = super().convert(value, param, ctx)
        if math.isnan(number):
            self.fail("nan is no number", param, ctx)
        return number


wait_option: Final[Callable[[Any], Any]] = click.option(
    "--wait",
    "wait_s",
    type=Number(min=0, max=MAX_WAIT_S),
    metavar="SECONDS",
    default=0.0,
    help="How long to wait for a device that others have; default: not at all.",
)
store_option: Final[Callable[[Any], Any]] = click.option(
    "--store",
    "store",
    metavar="NAME",
    shell_complete=complete_stores,
    help="Name of the store. [default: $IHSM_STORE, else default]",
)
EXISTING_FILE: Final = click.Path(exists=True, dir_okay=False, path_type=Path)
LONGEST_INPUT: Final = 1 << 20
"""Bytes of a file that a command reads: keys, chains and reports have a few thousand."""
poll_option: Final[Callable[[Any], Any]] = click.option(
    "--poll", is_flag=True, help="Poll the rings instead of taking interrupts."
)
yes_option: Final[Callable[[Any], Any]] = click.option("--yes", is_flag=True, help="Do not ask.")
json_option: Final[Callable[[Any], Any]] = click.option("--json", "as_json", is_flag=True, help="Print JSON.")

HASH_NAMES: Final = ("sha1", "sha256", "sha384", "sha512")


def signing_hash_option(names: Sequence[str]) -> Callable[[Any], Any]:
    """The hash that is signed: the command gets `hash_name`, None for the one that fits the key."""
    return click.option(
        "--hash", "hash_name", type=click.Choice(names), help="Default: sha256, for P-384 sha384, for P-521 sha512."
    )


def read_file(path: Path, option: str) -> bytes:
    """What is in a file that the user named with `option`.

    Raises:
        click.BadParameter: it cannot be read, or is longer than LONGEST_INPUT, such as a device without end.
    """
    try:
        with path.open("rb") as file:
            data = file.read(LONGEST_INPUT + 1)
    except OSError as error:
        raise click.BadParameter(f"{path}: {error.strerror or error}", param_hint=option) from None
    if len(data) > LONGEST_INPUT:
        raise click.BadParameter(f"{path}: longer than {LONGEST_INPUT} bytes", param_hint=option)
    return data


def read_certificates(path: Path, option: str) -> list[x509.Certificate]:
    """All certificates in a file that the user named with `option`.

    Raises:
        click.BadParameter: it cannot be read, or holds no certificates.
    """
    from ihsm.ddi.certificates import load_certificates
    from ihsm.ddi.errors import CertificateChainError

    data = read_file(path, option)
    try:
        return load_certificates(data, str(path))
    except CertificateChainError:  # what a parser says of bytes that are no certificate helps nobody
        raise click.BadParameter(
            f"{path}: no certificates, or a damaged one; PEM is taken, and DER", param_hint=option
        ) from None


def require_yes(question: str, purpose: str) -> None:
    """Ask on the terminal, and end the command with status 1 unless the answer is yes.

    Raises:
        click.UsageError: there is no terminal; `--yes` is what serves the purpose then.
    """
    if not sys.stdin.isatty():
        raise click.UsageError(f"no terminal to ask on: give --yes to {purpose}")
    if not click.confirm(question, err=True):
        raise click.ClickException("not confirmed: nothing was deleted")


def print_json(value: Any) -> None:
    """One JSON document."""
    click.echo(json_text.dump(value, indent=2))


def printable(text: str) -> str:
    """Text that every stream takes: a byte of a path that is no character is shown as \\xNN."""
    return text.encode(errors="surrogateescape").decode(errors="backslashreplace")


def print_table(rows: Sequence[Sequence[str]], headers: Sequence[str] = ()) -> None:
    """Left-aligned columns, never truncated, so that a pipe sees what a terminal sees."""
    lines = [tuple(map(printable, line)) for line in ([headers, *rows] if headers else rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))] if lines else []
    for line in lines:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def hits_left(left: int | None) -> str:
    """How often a fault will be hit, for people."""
    return "all" if left is None else str(left)


def flatten(record: dict[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Name and value of each leaf of nested records, names joined with dots."""
    rows = []
    for name, value in record.items():
        if isinstance(value, dict) and value:
            rows += flatten(value, f"{prefix}{name}.")
        else:
            rows.append((f"{prefix}{name}", value if isinstance(value, str) else json_text.dump(value)))
    return rows
