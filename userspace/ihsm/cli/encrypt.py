# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""`ihsm encrypt` and `ihsm decrypt`: files under AES-256-GCM keys, short texts under RSA keys."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from ihsm.cli.common import HASH_NAMES
from ihsm.cli.hsm_options import Place, hsm_place, key_argument
from ihsm.cli.inputs import Source, input_argument, seekable, whole
from ihsm.cli.key_records import UnsuitableKeyError, key_name, public_key
from ihsm.cli.output_files import Writable
from ihsm.cli.results import BINARY_TO_TERMINAL, output_option, refuse_terminal, result_stream, write_result
from ihsm.errors import OutputError
from ihsm.store import KeyRecord, KeyVersion, split_label

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.padding import OAEP

    from ihsm.driver import DriverOptions

GCM: Final = "aes256-gcm"
RSA: Final = "rsa"
LONGEST_RSA: Final = 4096 // 8
_PRINTABLE: Final = frozenset(b"\t\n\r\f\x1b") | frozenset(range(0x20, 0x7F)) | frozenset(range(0x80, 0x100))


def oaep_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """The hash of OAEP: the command gets `hash_name`."""
    return click.option(
        "--hash",
        "hash_name",
        type=click.Choice(HASH_NAMES),
        default="sha256",
        show_default=True,
        help="RSA keys: hash of OAEP and its MGF1.",
    )(function)


@click.command(
    help="""Encrypt a file, or standard input.

    With an aes256-gcm key, of any size: in chunks, so that nothing that was changed, cut, moved or appended decrypts.
    With an RSA key a short text, by RSAES-OAEP and its public half, for which no device is
    needed. Up to 65,536 files for one AES key; rotate it then.
    """
)
@key_argument
@input_argument
@oaep_option
@output_option
@hsm_place
def encrypt(key: str, file: str, hash_name: str, output: Path | None, place: Place) -> None:
    """Run `ihsm encrypt`."""
    from ihsm.api.files import encrypt_stream

    refuse_terminal(output)
    record, version = place.key(key)
    if version.kind.startswith(RSA):
        _encrypt_rsa(record, version, file, hash_name, output)
        return
    _need_gcm(record, version)
    with seekable(file) as source, result_stream(output) as sink, place.hsm(_options(source)) as hsm:
        encrypt_stream(hsm[key], source, sink)


@click.command(
    help="""Decrypt a file, or standard input, that `ihsm encrypt` made.

    Of KEY without a version, the version is found that the file was encrypted with. Nothing is written to -o unless all
    of the input verifies; standard output gets each chunk once it has verified, so look at the exit status: 6 means
    that the input was changed, cut or extended, or is another key's.
    """
)
@key_argument
@input_argument
@oaep_option
@output_option
@hsm_place
def decrypt(key: str, file: str, hash_name: str, output: Path | None, place: Place) -> None:
    """Run `ihsm decrypt`."""
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

    from ihsm.api.files import decrypt_stream

    record, version = place.key(key)
    if version.kind.startswith(RSA):
        ciphertext = whole(file, LONGEST_RSA)
        with place.hsm() as hsm:
            private = hsm[key]
            assert isinstance(private, RSAPrivateKey)
            text = private.decrypt(ciphertext, _oaep(hash_name))
        _terminal_takes(output, text)
        write_result(output, text)
        return
    _need_gcm(record, version)
    label, number = split_label(key)
    versions = [version] if number is not None else list(reversed(record.versions))
    with seekable(file) as source, result_stream(output) as sink, place.hsm(_options(source)) as hsm:
        keys = [hsm[f"{label}@{each.version}"] for each in versions]
        decrypt_stream(keys, source, _Checked(output, sink))


def _options(source: Source) -> DriverOptions:
    """Memory for the device that fits the input: in a guest each page of it costs time to map."""
    from ihsm.api.pumping import FAST_BUFFER_BYTES
    from ihsm.driver import DriverOptions

    usual = DriverOptions()
    size = source.seek(0, os.SEEK_END)
    source.seek(0)
    return replace(usual, buffer_bytes=FAST_BUFFER_BYTES) if size > usual.buffer_bytes else usual


class _Checked:
    """Text goes to a terminal, other bytes do not."""

    def __init__(self, output: Path | None, sink: Writable) -> None:
        self._output = output
        self._sink = sink

    def write(self, data: Any, /) -> None:
        _terminal_takes(self._output, data)
        self._sink.write(data)


def _terminal_takes(output: Path | None, data: bytes) -> None:
    if output is None and sys.stdout.isatty() and not _PRINTABLE.issuperset(bytes(data)):
        raise OutputError(BINARY_TO_TERMINAL)


def _need_gcm(record: KeyRecord, version: KeyVersion) -> None:
    if not version.kind.startswith(GCM):
        raise UnsuitableKeyError(
            f"key {key_name(record, version)!r} is {version.kind}: files are encrypted with {GCM} keys, short texts "
            "with RSA keys"
        )


def _encrypt_rsa(record: KeyRecord, version: KeyVersion, file: str, hash_name: str, output: Path | None) -> None:
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

    public = public_key(record, version)
    assert isinstance(public, RSAPublicKey)
    padding = _oaep(hash_name)
    longest = public.key_size // 8 - 2 * padding.algorithm.digest_size - 2
    write_result(output, public.encrypt(whole(file, longest), padding))


def _oaep(hash_name: str) -> OAEP:
    from cryptography.hazmat.primitives.asymmetric.padding import MGF1, OAEP

    from ihsm.cli.signatures import HASHES

    return OAEP(MGF1(HASHES[hash_name]), HASHES[hash_name], None)
