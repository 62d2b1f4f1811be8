# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""`ihsm list`: the functions that can be opened."""

from __future__ import annotations

import click

from ihsm.bus.discovery import FoundFunction, find_all, watch
from ihsm.cli.common import json_option, print_json, print_table
from ihsm_abi import json_text


@click.command(
    "list",
    help="""List HSM functions: PCI devices of this machine, sockets in the default folder, nodes of a driver.

    With --watch --json each change is one line.
    """,
)
@click.option("--watch", "watching", is_flag=True, help="Print again whenever something changes, until interrupted.")
@json_option
def list_command(watching: bool, as_json: bool) -> None:
    """Run `ihsm list`."""
    if not watching:
        found = find_all()
        if as_json:
            print_json([function.record() for function in found])
        else:
            _print(found)
        return
    for found in watch():
        if as_json:
            click.echo(json_text.dump([function.record() for function in found]))
        else:
            _print(found)
            click.echo()


def _use(function: FoundFunction) -> str:
    if function.holder is not None:
        return f"in use by {function.holder}"
    return "-" if function.listening else "nobody listens"


def _print(found: list[FoundFunction]) -> None:
    if not found:
        click.echo("no device found")
        return
    rows = [
        (
            function.uri,
            function.driver or "-",
            "-" if function.iommu_group is None else str(function.iommu_group),
            " ".join(function.nodes) or _use(function),
        )
        for function in found
    ]
    print_table(rows, ("URI", "DRIVER", "GROUP", "NODES"))
