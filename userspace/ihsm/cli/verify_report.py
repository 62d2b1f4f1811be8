# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""`ihsm verify-report`: checks a key attestation report offline and prints what it claims (spec 05 §14)."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any

import click

from ihsm import ddi
from ihsm.cli.common import EXISTING_FILE, flatten, json_option, print_json, print_table, read_certificates, read_file
from ihsm.cli.key_records import pem_of
from ihsm.cli.secrets import hex_bytes
from ihsm_abi.ddi.attestation import REPORT_DATA_BYTES, REPORT_VERSION


@click.command(
    "verify-report",
    help="""Verify an attestation report against a certificate chain and print its claims.

    Without --root the chain proves that its certificates belong together, not whose they are: compare the printed
    fingerprint of the root. Exit status: 0 verified, 6 not.
    """,
)
@click.argument("report", type=EXISTING_FILE)
@click.option(
    "--chain", "chain_file", type=EXISTING_FILE, required=True, help="Certificates, PEM or DER, in any order."
)
@click.option("--root", "root_files", type=EXISTING_FILE, multiple=True, help="Root certificates to trust, PEM or DER.")
@click.option("--key", "key_file", type=EXISTING_FILE, help="Public key (PEM) that the report must be about.")
@click.option(
    "--report-data",
    type=hex_bytes(REPORT_DATA_BYTES, exact=False),
    metavar="HEX",
    help=f"Data that the report must be made for, at most {REPORT_DATA_BYTES} bytes.",
)
@json_option
def verify_report(
    report: Path,
    chain_file: Path,
    root_files: tuple[Path, ...],
    key_file: Path | None,
    report_data: bytes | None,
    as_json: bool,
) -> None:
    """Run `ihsm verify-report`."""
    from ihsm.ddi.certificates import load_certificates, order_chain

    chain = order_chain(load_certificates(read_file(chain_file, "--chain"), str(chain_file)))
    roots = [root for file in root_files for root in read_certificates(file, "--root")]
    chain.verify(roots or None, strict_leaf=False)
    verified = ddi.verify_report(read_file(report, "REPORT"), chain.identity_key, report_data=report_data)
    if key_file is not None and _public_pem(verified) != _pem_of(key_file):
        raise ddi.AttestationError(f"attestation report: about another key than {key_file}")
    record = describe(verified, chain, trusted=bool(roots))
    if as_json:
        print_json(record)
    else:
        pem = record["key"].pop("public")
        print_table(flatten(record))
        if pem is not None:
            click.echo(pem, nl=False)


def describe(report: ddi.AttestationReport, chain: ddi.CertificateChain, *, trusted: bool) -> dict[str, Any]:
    """What a verified report says, and who says so."""
    root = chain.certificates[0]
    return {
        "verified": True,
        "version": REPORT_VERSION,
        "key": _describe_key(report),
        "claims": [flag.name.lower() for flag in report.flags if flag.name],
        "application": str(uuid.UUID(bytes=report.app_uuid)),
        "vm_launch_id": str(uuid.UUID(bytes=report.vm_launch_id)),
        "report_data": report.report_data.hex(),
        "chain": {
            "certificates": len(chain.der),
            "root": root.subject.rfc4514_string(),
            "root_sha256": chain.root_fingerprint.hex(),
            "root_trusted": trusted,
        },
    }


def _describe_key(report: ddi.AttestationReport) -> dict[str, Any]:
    from cryptography.hazmat.primitives.asymmetric import rsa

    key = report.public_key
    if key is None:
        return {"type": "symmetric", "public": None}
    kind = f"RSA-{key.key_size}" if isinstance(key, rsa.RSAPublicKey) else key.curve.name
    return {"type": kind, "public": _public_pem(report)}


def _public_pem(report: ddi.AttestationReport) -> str | None:
    return None if report.public_key is None else pem_of(report.public_key)


def _pem_of(path: Path) -> str:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    try:
        key = load_pem_public_key(read_file(path, "--key"))
    except (ValueError, UnsupportedAlgorithm) as error:
        raise click.BadParameter(f"{path}: {error}", param_hint="--key") from None
    return pem_of(key)
