# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""`ihsm trace diff`: where the drivers of two recordings did different things."""

from __future__ import annotations

from typing import Any, Final

import click

from ihsm.cli.common import json_option, print_json, printable
from ihsm.cli.recordings import RecordingFile, warn_of_cut
from ihsm.trace.decoding import to_line
from ihsm.trace.diff import Difference, differences
from ihsm.trace.driver_side import Step
from ihsm.trace.files import Recording

DIFFERENT: Final = 1
CUT: Final = 2


@click.command(
    "diff",
    help="""Show where the drivers of two recordings differ. Needs no device.

    Addresses, command ids, times, polls of CSTS and the order of commands that were outstanding together are passed
    over, and all that is the device's. A and B are files as of `ihsm trace check`. Exit status as of diff: 0 the same,
    1 different, 2 a file cannot be read, or lacks its end.
    """,
)
@click.argument("first", type=RecordingFile(), metavar="A")
@click.argument("second", type=RecordingFile(), metavar="B")
@json_option
@click.pass_context
def diff(context: click.Context, first: Recording, second: Recording, as_json: bool) -> None:
    """Run `ihsm trace diff`."""
    warn_of_cut("A", first)
    warn_of_cut("B", second)
    found = differences(first.records, second.records)
    if as_json:
        print_json([_object(one) for one in found])
    else:
        for one in found:
            _show(one)
    if found:
        context.exit(DIFFERENT)
    if first.cut is not None or second.cut is not None:
        context.exit(CUT)


def _object(difference: Difference) -> dict[str, Any]:
    return {
        "kind": str(difference.kind),
        "a": difference.first.number if difference.first else None,
        "b": difference.second.number if difference.second else None,
        "values": [{"name": name, "a": _plain(a), "b": _plain(b)} for name, a, b in difference.values],
    }


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, tuple):
        return [_plain(part) for part in value]
    return int(value) if isinstance(value, int) else value


def _show(difference: Difference) -> None:
    step = difference.first or difference.second
    after = f" (after {step.after!r})" if step is not None and step.after else ""
    click.echo(printable(f"{difference.kind}{after}"))
    for name, side in (("A", difference.first), ("B", difference.second)):
        if side is not None:
            click.echo(f"  {name} {_line(side)}")
    for name, a, b in difference.values:
        click.echo(printable(f"    {name}: {_shown(a)} in A, {_shown(b)} in B"))


def _shown(value: Any) -> str:
    plain = _plain(value)
    return f"{plain:#x}" if isinstance(plain, int) else str(plain)


def _line(step: Step) -> str:
    return printable(f"{step.number:>8}  {to_line(step.record)}")
