# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""`ihsm key`: make, bring in, list, show, attest, rotate and delete the keys of a store."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from ihsm.cli.common import (
    EXISTING_FILE,
    LONGEST_INPUT,
    json_option,
    print_json,
    print_table,
    read_certificates,
    read_file,
    require_yes,
    yes_option,
)
from ihsm.cli.hsm_options import Place, hsm_place, key_argument, label_argument, store_place
from ihsm.cli.inputs import input_argument, whole
from ihsm.cli.key_records import (
    UnsuitableKeyError,
    certificate_pem,
    describe_version,
    key_name,
    public_der,
    public_pem,
    usages,
)
from ihsm.cli.output_files import OUTPUT_FILE, write_output
from ihsm.cli.results import output_option, refuse_terminal, write_result
from ihsm.cli.secrets import hex_bytes
from ihsm.errors import StoreDamagedError
from ihsm.store import split_label
from ihsm_abi.ddi.attestation import REPORT_DATA_BYTES

if TYPE_CHECKING:
    from cryptography import x509

KIND_NAMES: Final = (
    "p256", "p384", "p521", "rsa2048", "rsa3072", "rsa4096", "aes128", "aes192", "aes256", "aes256-gcm",
    "aes256-gcm-approved", "aes256-xts",
)  # fmt: skip
"""Those of `ihsm.api.kinds.KINDS` that are not derived from others; that module takes long to load."""
USAGE_NAMES: Final = ("sign", "decrypt", "agree", "encrypt")

usage_option = click.option(
    "--usage",
    "usage",
    type=click.Choice(USAGE_NAMES),
    multiple=True,
    help="What the key is for; default: sign, for AES encrypt. RSA keys can have sign and decrypt: give both.",
)


@click.group(
    help="""The keys of a store. KEY is a label, or LABEL@VERSION for one that was rotated.

    Exit status 7: no such store or key, a label that is taken, wrong PIN.
    """
)
def key() -> None:
    """Run `ihsm key`; a sub-command follows."""


@key.command(
    help="""Make a key and keep it in the store under LABEL.

    The device makes EC and AES keys. It makes no RSA keys: these are made here, imported, and have the origin host.
    """
)
@label_argument
@click.option("--kind", type=click.Choice(KIND_NAMES), default="p256", show_default=True, help="Kind of key.")
@usage_option
@json_option
@hsm_place
def generate(label: str, kind: str, usage: tuple[str, ...], as_json: bool, place: Place) -> None:
    """Run `ihsm key generate`."""
    with place.hsm() as hsm:
        hsm.generate(label, kind, usage=usage or None)
    _print_key(place, label, as_json)


@key.command(
    "import",
    help="""Bring a private key into the device and keep it in the store under LABEL.

    FILE, or standard input, has an EC or RSA private key in PEM or DER, or for an AES --kind its bytes, as they are or
    in hexadecimal. The file stays where it is: whoever has it has the key.
    """,
)
@label_argument
@input_argument
@click.option(
    "--kind", type=click.Choice(KIND_NAMES), help="Kind of key; needed for AES, else what the file must have."
)
@usage_option
@click.option("--password-file", type=EXISTING_FILE, help="File with the password of an encrypted PEM or DER.")
@click.option(
    "--certificate",
    "certificate_file",
    type=EXISTING_FILE,
    help="Certificates to keep with the key, PEM or DER, the key's own first.",
)
@json_option
@hsm_place
def import_command(
    label: str,
    file: str,
    kind: str | None,
    usage: tuple[str, ...],
    password_file: Path | None,
    certificate_file: Path | None,
    as_json: bool,
    place: Place,
) -> None:
    """Run `ihsm key import`."""
    from ihsm.api.making import parse_key, payloads_of

    data = _aes_bytes(whole(file, LONGEST_INPUT), kind)
    password = None if password_file is None else _first_line(read_file(password_file, "--password-file"))
    found, private = parse_key(data, kind, password)
    payloads_of(found, private)
    certificates = [] if certificate_file is None else _certificates(certificate_file, private)
    with place.hsm() as hsm:
        hsm.import_key(label, private, kind=found.name, usage=usage or None, certificates=certificates)
    _print_key(place, label, as_json)


@key.command("list", help="List the keys of a store. Neither device nor PIN is needed.")
@json_option
@store_place
def list_command(as_json: bool, place: Place) -> None:
    """Run `ihsm key list`."""
    records = place.files().keys()
    if as_json:
        print_json([describe_version(record, version) for record in records for version in record.versions])
    elif not records:
        click.echo("no keys; `ihsm key generate` makes one")
    else:
        rows = [
            (
                key_name(record, version),
                str(version.version),
                version.kind,
                ",".join(usages(version)),
                version.origin,
                f"{version.created:%Y-%m-%d %H:%M:%S}",
            )
            for record in records
            for version in reversed(record.versions)
        ]
        print_table(rows, ("KEY", "VERSION", "KIND", "USAGE", "ORIGIN", "CREATED (UTC)"))


@key.command(
    help="""Print a key's public half (PEM SubjectPublicKeyInfo), its certificates, or with --json all that is known.

    Neither device nor PIN is needed.
    """
)
@key_argument
@click.option("--der", is_flag=True, help="DER instead of PEM.")
@click.option("--certificates", "show_certificates", is_flag=True, help="Its certificates instead, leaf first.")
@json_option
@output_option
@store_place
def show(key: str, der: bool, show_certificates: bool, as_json: bool, output: Path | None, place: Place) -> None:
    """Run `ihsm key show`."""
    if as_json and (der or show_certificates):
        raise click.UsageError("--json has everything: --der and --certificates do not go with it")
    record, version = place.key(key)
    if as_json:
        print_json(describe_version(record, version))
        return
    if show_certificates and not version.certificates:
        raise UnsuitableKeyError(f"key {key!r} has no certificates")
    if der:
        refuse_terminal(output)
        result = b"".join(version.certificates) if show_certificates else public_der(record, version)
    elif show_certificates:
        result = "".join(map(certificate_pem, version.certificates)).encode()
    else:
        result = public_pem(record, version).encode()
    write_result(output, result)


@key.command(
    help="""Delete a key with all its versions, or one version, for good.

    Asks on a terminal unless --yes is given. Neither device nor PIN is needed: what is deleted is the masked key,
    without which the device has nothing.
    """
)
@key_argument
@yes_option
@store_place
def delete(key: str, yes: bool, place: Place) -> None:
    """Run `ihsm key delete`."""
    label, number = split_label(key)
    store = place.files()
    try:
        record = store.key(label)
        record.version(number)
        count = len(record.versions)
        what = f"version {number}" if number is not None else "1 version" if count == 1 else f"{count} versions"
    except StoreDamagedError:
        if number is not None:
            raise
        what = "whose file is damaged"
    if not yes:
        require_yes(f"Delete key {label!r}, {what}, for good?", "delete the key for good")
    store.delete_key(label, number)


@key.command(
    help="""Have the device attest a key, and verify what it says.

    The report goes to standard output or -o; --chain saves the certificates that it is verified with. Elsewhere `ihsm
    verify-report` verifies both.
    """
)
@key_argument
@click.option(
    "--report-data",
    type=hex_bytes(REPORT_DATA_BYTES, exact=False),
    metavar="HEX",
    default="",
    help=f"Up to {REPORT_DATA_BYTES} bytes of the verifier's, such as a nonce.",
)
@click.option("--chain", "chain_file", type=OUTPUT_FILE, help="Save the device's certificates here (PEM, leaf first).")
@json_option
@output_option
@hsm_place
def attest(
    key: str, report_data: bytes, chain_file: Path | None, as_json: bool, output: Path | None, place: Place
) -> None:
    """Run `ihsm key attest`."""
    from ihsm.cli.verify_report import describe

    place.key(key)
    if not as_json:
        refuse_terminal(output)
    with place.hsm() as hsm:
        verified = hsm.attest(key, report_data)
    if chain_file is not None:
        write_output(chain_file, verified.chain.pem())
    if as_json:
        if output is not None:
            write_result(output, verified.report)
        print_json({"report": verified.report.hex(), **describe(verified.content, verified.chain, trusted=False)})
    else:
        write_result(output, verified.report)


@key.command(
    help="""Make a new version of a key, of the same kind and for the same; LABEL means it from now on.

    Older ones stay usable as LABEL@VERSION, and for decrypting what was encrypted with them.
    """
)
@key_argument
@json_option
@hsm_place
def rotate(key: str, as_json: bool, place: Place) -> None:
    """Run `ihsm key rotate`."""
    label, number = split_label(key)
    if number is not None:
        raise click.UsageError(f"{key!r}: a label is rotated, not a version of it")
    place.key(label)
    with place.hsm() as hsm:
        hsm.rotate(label)
    _print_key(place, label, as_json)


def _print_key(place: Place, label: str, as_json: bool) -> None:
    """Say what was made."""
    record, version = place.key(label)
    described = describe_version(record, version)
    if as_json:
        print_json(described)
    else:
        names = ("label", "version", "kind", "origin", "created")
        rows = [(name, str(described[name])) for name in names]
        print_table([*rows, ("usages", ",".join(described["usages"]))])


def _aes_bytes(data: bytes, kind: str | None) -> bytes:
    """An AES key that was given in hexadecimal as bytes; all else as it is."""
    from ihsm.api.kinds import KINDS

    size = KINDS[kind].aes_bytes if kind else 0
    if size and len(data) != size:
        try:
            return bytes.fromhex(data.decode("ascii"))
        except ValueError:
            raise click.UsageError(f"an {kind} key has {size} bytes, or {2 * size} hexadecimal digits") from None
    return data


def _first_line(data: bytes) -> bytes:
    return data.split(b"\n", 1)[0].removesuffix(b"\r")


def _certificates(path: Path, private: Any) -> list[bytes]:
    """DER of the certificates in a file, of which the first must be the key's."""
    from cryptography.hazmat.primitives.serialization import Encoding

    if isinstance(private, bytes):
        raise click.UsageError("--certificate: a secret key has none")
    found: list[x509.Certificate] = read_certificates(path, "--certificate")
    if found[0].public_key() != private.public_key():
        raise click.BadParameter(f"{path}: its first certificate is not this key's", param_hint="--certificate")
    return [each.public_bytes(Encoding.DER) for each in found]
