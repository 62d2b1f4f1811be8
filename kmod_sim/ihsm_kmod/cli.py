# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""`ihsm kmod`: the driver model for programs that were made for the driver."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final, TextIO

import click

from ihsm_kmod.host.run import RunOptions, Via, run_program
from ihsm_kmod.hsm.parameters import HsmParameters
from ihsm_kmod.hsm.quirks import QUIRKS
from ihsm_kmod.kernel.errors import Errno

ON_OFF: Final = {"on": True, "off": False}
MOST_FUNCTIONS: Final = 16


def _assignments(
    context: click.Context, option: click.Parameter, given: Sequence[str], known: Iterable[str]
) -> Iterator[tuple[str, str]]:
    """Names and texts of NAME=VALUE; click.BadParameter for what is none, and for a name that is not known."""
    for text in given:
        name, equals, value = text.partition("=")
        if not equals:
            raise click.BadParameter(f"{text!r}: NAME=VALUE expected", context, option)
        if name not in known:
            raise click.BadParameter(f"{name!r}: the driver has {', '.join(sorted(known))}", context, option)
        yield name, value


def _parameters(context: click.Context, option: click.Parameter, given: Sequence[str]) -> dict[str, int | bool]:
    known = {param.name: param for param in HsmParameters.parameters()}
    values: dict[str, int | bool] = {}
    for name, text in _assignments(context, option, given, known):
        try:
            values[name] = known[name].parse(text)
        except Errno:
            raise click.BadParameter(f"{name}: {text!r} is no value of it", context, option) from None
    return values


def _quirks(context: click.Context, option: click.Parameter, given: Sequence[str]) -> dict[str, bool]:
    values = dict(_assignments(context, option, given, {quirk.name for quirk in QUIRKS}))
    for name, text in values.items():
        if text not in ON_OFF:
            raise click.BadParameter(f"{name}={text}: on or off expected", context, option)
    return {name: ON_OFF[text] for name, text in values.items()}


@click.group(help="The model of the Linux driver.")
def kmod() -> None:
    """Group of the commands."""


@kmod.command(
    context_settings={"allow_interspersed_args": False},
    help="""Run a program that was made for the driver, with the driver's device node and its files in /sys.

    The program is not changed and needs no privilege; what it starts has the device, too. Exit status: the program's,
    128 + N when signal N has ended it, 125 when it could not be started.
    """,
)
@click.option(
    "--socket", "sockets", multiple=True, type=click.Path(exists=True, path_type=Path),
    help="Use the function that is served there; may be repeated.",
)  # fmt: skip
@click.option(
    "--functions", type=click.IntRange(1, MOST_FUNCTIONS), help="Functions to start. [default: 1; none with --socket]"
)
@click.option(
    "--param", "parameters", metavar="NAME=VALUE", multiple=True, callback=_parameters,
    help="A parameter of the driver, such as num_hsm_slots=8; may be repeated.",
)  # fmt: skip
@click.option(
    "--quirk", "quirks", metavar="NAME=on|off", multiple=True, callback=_quirks,
    help="Whether the driver has one of its odd behaviours; may be repeated.",
)  # fmt: skip
@click.option("--log", "log", type=click.File("w"), help="Write the kernel's log there.")
@click.option(
    "--via", type=click.Choice([via.value for via in Via]), default=Via.AUTO.value, show_default=True,
    help="How the program's calls are taken: by the host's kernel (notify), by a library in dynamic programs "
    "(preload), or by the first that can be had.",
)  # fmt: skip
@click.option("--empty", is_flag=True, hidden=True, help="A driver that does nothing, and no device: for measurements.")
@click.argument("command", metavar="PROGRAM [ARGS]...", nargs=-1, required=True, type=click.UNPROCESSED)
def run(
    sockets: tuple[Path, ...],
    functions: int | None,
    parameters: dict[str, int | bool],
    quirks: dict[str, bool],
    log: TextIO | None,
    via: str,
    empty: bool,
    command: tuple[str, ...],
) -> None:
    """Run `ihsm kmod run`."""
    started = functions if functions is not None else 0 if sockets or empty else 1
    options = RunOptions(
        sockets=sockets, functions=started, parameters=parameters, quirks=quirks, console=log, empty=empty
    )
    status = run_program(command, Via(via), options)
    sys.stdout.flush()
    sys.stderr.flush()
    # Everything is closed. Threads may still wait in the host's kernel, for calls that nobody makes any more: the
    # interpreter must not be taken apart under them.
    os._exit(status)
