# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""`ihsm doctor`: is everything there that the device and its guests need?"""

from __future__ import annotations

import sys
from dataclasses import asdict

import click

from ihsm.cli.common import print_json
from ihsm.guest.doctor import Health, examine

_STYLE = {Health.OK: "green", Health.NOTE: "yellow", Health.BROKEN: "red"}


@click.command(
    help="""Check the tool chain and say how to mend what is broken.

    Exit status: 0 if nothing is broken, 1 otherwise.
    """,
)
@click.option("--json", "as_json", is_flag=True, help="A JSON array of findings.")
@click.option("--boot", is_flag=True, help="Boot a guest that has the device, too.")
def doctor(as_json: bool, boot: bool) -> None:
    """Run `ihsm doctor`."""
    findings = []
    for finding in examine(boot=boot):
        findings.append(finding)
        if not as_json:
            mark = click.style(f"{finding.health.value:<6}", fg=_STYLE[finding.health])
            click.echo(f"{mark} {finding.part}: {finding.detail}")
            if finding.mend:
                click.echo(f"       to mend: {finding.mend}")
    if as_json:
        print_json([asdict(finding) for finding in findings])
    sys.exit(1 if any(finding.health is Health.BROKEN for finding in findings) else 0)
