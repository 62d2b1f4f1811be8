# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""`ihsm selftest`: every family of operations once, each result checked with another library."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final

import click

from ihsm import ddi
from ihsm.cli.common import device_option, json_option, poll_option, print_json, wait_option
from ihsm.cli.output_files import OUTPUT_FILE, write_output
from ihsm.cli.secrets import credential_options, read_pin
from ihsm.driver import DriverOptions
from ihsm.uri import open_device

_NAME_COLUMNS: Final = 22


@click.command(
    help="""Check a device: the golden path, one operation of every family, attestation; then remove everything made.

    A partition that is provisioned already needs its credential; it stays as it is. Exit status: 0 only if every
    step passed.
    """,
)
@device_option
@wait_option
@credential_options
@click.option("--report", "report_file", type=OUTPUT_FILE, help="Save a verified attestation report here (COSE_Sign1).")
@click.option("--chain", "chain_file", type=OUTPUT_FILE, help="Save the certificate chain here (PEM, leaf first).")
@poll_option
@json_option
def selftest(
    device: str,
    wait_s: float,
    credential_id: bytes | None,
    pin_file: Path | None,
    report_file: Path | None,
    chain_file: Path | None,
    poll: bool,
    as_json: bool,
) -> None:
    """Run `ihsm selftest`."""
    from ihsm.selftest import StepResult, run_selftest

    def show(step: StepResult) -> None:
        if not as_json:
            word = "ok  " if step.ok else "FAIL"
            click.echo(f"{word} {step.name:<{_NAME_COLUMNS}} {step.us / 1000:8.1f} ms  {step.detail}")

    if (credential_id is None) != (pin_file is None):
        raise click.UsageError("--id and --pin-file belong together")
    credential = ddi.Credential(credential_id, read_pin(pin_file)) if credential_id and pin_file else None
    with open_device(device, DriverOptions(interrupts=not poll), wait_s=wait_s) as opened:
        report = run_selftest(opened, credential, progress=show)
    if report_file is not None and report.attestation:
        write_output(report_file, report.attestation)
    if chain_file is not None and report.chain is not None:
        write_output(chain_file, report.chain.pem())
    if as_json:
        print_json(report.record())
    else:
        click.echo(f"{report.passed} passed, {report.failed} failed")
    sys.exit(1 if report.failed else 0)
