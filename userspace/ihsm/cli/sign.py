# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""`ihsm sign` and `ihsm verify`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import click

from ihsm.cli.common import EXISTING_FILE, HASH_NAMES, read_file, signing_hash_option
from ihsm.cli.hsm_options import Place, hsm_place, key_argument, store_place
from ihsm.cli.inputs import blocks, input_argument, whole
from ihsm.cli.key_records import public_key
from ihsm.cli.results import output_option, refuse_terminal, write_result

LONGEST_TOKEN: Final = 64 << 20
"""Bytes of a JWS or its payload: both are held in memory, several times."""


def signature_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """What a signature is: the command gets `hash_name`, `prehashed`, `pss`, `raw` and `as_jws`."""
    for option in (
        click.option("--jws", "as_jws", is_flag=True, help="A JWS in compact form (RFC 7515), payload and all."),
        click.option("--raw", is_flag=True, help="EC: r and s alone instead of DER."),
        click.option("--pss", is_flag=True, help="RSA: PSS, salt as long as the digest, instead of PKCS#1 v1.5."),
        click.option("--prehashed", is_flag=True, help="The input is the digest."),
        signing_hash_option(HASH_NAMES),
    ):
        function = option(function)
    return function


@click.command(
    help="""Sign a file, or standard input, with a key of the store.

    The signature is as `openssl dgst -sign` makes it: DER of an EC key, PKCS#1 v1.5 of an RSA key. Verify it with `ihsm
    verify`, or with the public key that `ihsm key show` prints: openssl dgst -sha256 -verify pub.pem -signature S FILE.
    """
)
@key_argument
@input_argument
@signature_options
@output_option
@hsm_place
def sign(
    key: str,
    file: str,
    hash_name: str | None,
    prehashed: bool,
    pss: bool,
    raw: bool,
    as_jws: bool,
    output: Path | None,
    place: Place,
) -> None:
    """Run `ihsm sign`."""
    from ihsm.cli.signatures import Scheme, jws, jws_input, to_raw

    _check_forms(raw, prehashed, as_jws)
    public = public_key(*place.key(key))
    scheme = Scheme.of(public, hash_name, pss)
    signed = b""
    if as_jws:
        name = scheme.jws_name(public)
        signed = jws_input(name, whole(file, LONGEST_TOKEN))
        digest = scheme.digest([signed])
    else:
        refuse_terminal(output)
        digest = scheme.check_digest(whole(file, LONGEST_TOKEN)) if prehashed else scheme.digest(blocks(file))
    with place.hsm() as hsm:
        signature = scheme.sign(hsm[key], digest)
    if as_jws:
        write_result(output, jws(signed, to_raw(public, signature)) + b"\n")
    else:
        write_result(output, to_raw(public, signature) if raw else signature)


@click.command(
    help="""Verify a signature of a key of the store over a file, or standard input. No device is needed.

    Exit status: 0 it is the key's, 6 it is not.
    """
)
@key_argument
@input_argument
@click.option(
    "--signature", "signature_file", type=EXISTING_FILE, metavar="FILE", help="The signature; not with --jws."
)
@signature_options
@click.option(
    "-o",
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="With --jws: write the payload here.",
)
@store_place
def verify(
    key: str,
    file: str,
    signature_file: Path | None,
    hash_name: str | None,
    prehashed: bool,
    pss: bool,
    raw: bool,
    as_jws: bool,
    output: Path | None,
    place: Place,
) -> None:
    """Run `ihsm verify`."""
    from ihsm.cli.signatures import Scheme, from_raw, parse_jws

    _check_forms(raw, prehashed, as_jws)
    if as_jws == (signature_file is not None):
        raise click.UsageError("give --signature, or --jws, whose signature is in the input")
    if output is not None and not as_jws:
        raise click.UsageError("-o is for the payload of a --jws")
    public = public_key(*place.key(key))
    scheme = Scheme.of(public, hash_name, pss)
    if as_jws:
        signed, signature, payload = parse_jws(whole(file, LONGEST_TOKEN), scheme.jws_name(public))
        scheme.verify(public, from_raw(public, signature), scheme.digest([signed]))
        if output is not None:
            write_result(output, payload)
        return
    assert signature_file is not None
    signature = read_file(signature_file, "--signature")
    digest = scheme.check_digest(whole(file, LONGEST_TOKEN)) if prehashed else scheme.digest(blocks(file))
    scheme.verify(public, from_raw(public, signature) if raw else signature, digest)


def _check_forms(raw: bool, prehashed: bool, as_jws: bool) -> None:
    if as_jws and (raw or prehashed):
        raise click.UsageError("--jws has a form of its own: --raw and --prehashed do not go with it")
