# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""`ihsm cert`: certificate requests and self-signed certificates of keys in the device."""

from __future__ import annotations

import datetime
import ipaddress
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from ihsm.cli.common import HASH_NAMES, signing_hash_option
from ihsm.cli.hsm_options import Place, hsm_place, key_argument
from ihsm.cli.key_records import public_key
from ihsm.cli.results import output_option, refuse_terminal, write_result

if TYPE_CHECKING:
    from cryptography import x509

    from ihsm.cli.signatures import PublicKey, Scheme

MOST_DAYS: Final = 36500
_BACKDATED: Final = datetime.timedelta(minutes=5)
"""Clocks of those who verify differ."""
_SAN_KINDS: Final = ("DNS", "IP", "email", "URI")


def certificate_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """What is to be certified: the command gets `subject`, `san`, `hash_name`, `pss` and `der`."""
    for option in (
        click.option("--der", is_flag=True, help="DER instead of PEM."),
        click.option("--pss", is_flag=True, help="RSA: sign with PSS instead of PKCS#1 v1.5."),
        signing_hash_option([name for name in HASH_NAMES if name != "sha1"]),
        click.option(
            "--san",
            "san",
            multiple=True,
            metavar="NAME",
            help="Another name: DNS name or IP address, or with DNS:, IP:, email: or URI: before it; may be repeated.",
        ),
        click.option("--subject", metavar="DN", required=True, help="As RFC 4514 writes it: CN=web.example,O=Example."),
    ):
        function = option(function)
    return function


@click.group(help="Certificate requests and self-signed certificates of keys in the device.")
def cert() -> None:
    """Run `ihsm cert`; a sub-command follows."""


@cert.command(help="Make a certificate request (PKCS#10) for a key, signed by it.")
@key_argument
@certificate_options
@output_option
@hsm_place
def request(
    key: str,
    subject: str,
    san: tuple[str, ...],
    hash_name: str | None,
    pss: bool,
    der: bool,
    output: Path | None,
    place: Place,
) -> None:
    """Run `ihsm cert request`."""
    from cryptography import x509

    _, scheme = _prepared(place, key, hash_name, pss, der, output)
    builder = x509.CertificateSigningRequestBuilder().subject_name(_subject(subject))
    if san:
        builder = builder.add_extension(_alternatives(san), critical=False)
    with place.hsm() as hsm:
        made = builder.sign(hsm[key], scheme.algorithm, rsa_padding=scheme.padding if pss else None)  # type: ignore[arg-type]
    write_result(output, made.public_bytes(_encoding(der)))


@cert.command(
    help="""Make a self-signed certificate for a key.

    With --keep it is kept in the store with the key, where `ihsm key show --certificates` finds it.
    """
)
@key_argument
@certificate_options
@click.option("--days", type=click.IntRange(1, MOST_DAYS), default=365, show_default=True, help="How long it is valid.")
@click.option("--keep", is_flag=True, help="Keep it with the key, in place of the certificates that it has.")
@output_option
@hsm_place
def selfsign(
    key: str,
    subject: str,
    san: tuple[str, ...],
    hash_name: str | None,
    pss: bool,
    der: bool,
    days: int,
    keep: bool,
    output: Path | None,
    place: Place,
) -> None:
    """Run `ihsm cert selfsign`."""
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import Encoding

    public, scheme = _prepared(place, key, hash_name, pss, der, output)
    name = _subject(subject)
    if not name.rdns:
        raise click.BadParameter("the issuer of a certificate has a name (RFC 5280, 4.1.2.4)", param_hint="--subject")
    now = datetime.datetime.now(datetime.UTC)
    identifier = x509.SubjectKeyIdentifier.from_public_key(public)
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _BACKDATED)
        .not_valid_after(now + datetime.timedelta(days=days))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(identifier, critical=False)
    )
    if san:
        builder = builder.add_extension(_alternatives(san), critical=False)
    with place.hsm() as hsm:
        made = builder.sign(hsm[key], scheme.algorithm, rsa_padding=scheme.padding if pss else None)  # type: ignore[arg-type]
        if keep:
            hsm.set_certificates(key, [made.public_bytes(Encoding.DER)])
    write_result(output, made.public_bytes(_encoding(der)))


def _prepared(
    place: Place, key: str, hash_name: str | None, pss: bool, der: bool, output: Path | None
) -> tuple[PublicKey, Scheme]:
    """The key, and how it signs; everything that can be wrong is, before a device is opened."""
    from ihsm.cli.signatures import Scheme

    if der:
        refuse_terminal(output)
    public = public_key(*place.key(key))
    return public, Scheme.of(public, hash_name, pss)


def _subject(text: str) -> x509.Name:
    from cryptography import x509

    try:
        return x509.Name.from_rfc4514_string(text)
    except ValueError as error:
        why = str(error) or "attributes are like CN=web.example,O=Example"
        raise click.BadParameter(f"{text!r} is no name as in RFC 4514: {why}", param_hint="--subject") from None


def _alternatives(texts: Sequence[str]) -> x509.SubjectAlternativeName:
    from cryptography import x509

    return x509.SubjectAlternativeName([_alternative(text) for text in texts])


def _alternative(text: str) -> x509.GeneralName:
    from cryptography import x509

    kind, colon, value = text.partition(":")
    if not colon or kind not in _SAN_KINDS:
        kind, value = "DNS", text
        try:
            return x509.IPAddress(ipaddress.ip_address(text))
        except ValueError:
            pass
    try:
        if kind == "IP":
            return x509.IPAddress(ipaddress.ip_address(value))
        if kind == "DNS" and (not value or ":" in value or "/" in value or " " in value):
            raise ValueError(f"no DNS name; other kinds begin with {', '.join(f'{each}:' for each in _SAN_KINDS)}")
        if kind == "email" and not all(value.partition("@")):
            raise ValueError("no address: NAME@HOST")
        if kind == "URI" and not all(value.partition(":")):
            raise ValueError("no URI: SCHEME:REST")
        makers: dict[str, Callable[[str], x509.GeneralName]] = {
            "DNS": x509.DNSName,
            "email": x509.RFC822Name,
            "URI": x509.UniformResourceIdentifier,
        }
        return makers[kind](value)
    except ValueError as error:
        raise click.BadParameter(f"{text!r}: {error}", param_hint="--san") from None


def _encoding(der: bool) -> Any:
    from cryptography.hazmat.primitives.serialization import Encoding

    return Encoding.DER if der else Encoding.PEM
