# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""`ihsm attest`: asks a device over SPDM who it is and which code runs in it, and compares with a reference."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from ihsm.cli.common import (
    EXISTING_FILE,
    device_option,
    json_option,
    print_json,
    print_table,
    printable,
    read_certificates,
    read_file,
    wait_option,
)
from ihsm.cli.output_files import OUTPUT_FILE, write_output
from ihsm.cli.secrets import hex_bytes
from ihsm.uri import open_config
from ihsm_abi.spdm.codes import NONCE_BYTES

if TYPE_CHECKING:
    from ihsm.attest import Claim, Difference, Evidence, Reference

_HOLDS: Final = "ok"
_SAYS: Final = "says"
_FAILS: Final = "FAILS"
_NOT_PINNED: Final = "not pinned"
_DIFFERS: Final = "DIFFERS"
_NOT_COMPARED: Final = "not compared"
_VERDICTS: Final = {True: _HOLDS, False: _FAILS, None: _NOT_PINNED}


@click.command(
    help="""Ask a device who it is and which code runs in it, over SPDM, and check every answer.

    That is its certificate chain, a challenge, all measurements with their data, and a secured session. Without --root
    anybody could have made the chain: compare the printed fingerprint of the root. What was measured is compared with
    nothing but a --reference. A device behind pci:BDF is reached through sysfs, as root, whichever driver has it.
    Exit status: 0 all of it holds, 6 something does not.

    A session that another requester has with the device ends. Where an interface is locked or runs in it (TDISP), it is
    stopped: queues, keys and sessions of the partition are gone.
    """,
)
@device_option
@wait_option
@click.option(
    "--nonce",
    type=hex_bytes(NONCE_BYTES),
    metavar="HEX",
    help=f"{NONCE_BYTES} bytes that the device's signatures must be over; default: random ones.",
)
@click.option("--root", "root_files", type=EXISTING_FILE, multiple=True, help="Root certificates to trust, PEM or DER.")
@click.option(
    "--reference",
    "reference_file",
    type=EXISTING_FILE,
    help="Compare all measurements with those in this file, and name the blocks and files that differ.",
)
@click.option(
    "--write-reference",
    "written_file",
    type=OUTPUT_FILE,
    metavar="FILE",
    help="Save the measurements of this device, which you trust, for --reference.",
)
@json_option
def attest(
    device: str,
    wait_s: float,
    nonce: bytes | None,
    root_files: tuple[Path, ...],
    reference_file: Path | None,
    written_file: Path | None,
    as_json: bool,
) -> None:
    """Run `ihsm attest`."""
    if reference_file is not None and written_file is not None:
        raise click.UsageError("--reference and --write-reference exclude each other")
    from ihsm.attest import EvidenceError, Reference, ReferenceMismatchError
    from ihsm.attest import attest as ask
    from ihsm.bus import Mailbox

    roots = [root for file in root_files for root in read_certificates(file, "--root")]
    reference = None
    if reference_file is not None:
        reference = Reference.parse(read_file(reference_file, "--reference"), printable(str(reference_file)))
    with open_config(device, wait_s=wait_s) as function:
        uri = function.uri
        try:
            evidence = ask(Mailbox(function), nonce=nonce, roots=roots or None)
        except EvidenceError as error:
            if as_json:
                print_json({"verified": False, "device": uri, "claims": _claim_records(error.claims)})
            else:
                print_table(_rows(uri, error.claims))
            raise
    differences = () if reference is None else reference.differences(evidence)
    if written_file is not None:
        reference = Reference.of(evidence)
        write_output(written_file, reference.encode())
    file = reference_file or written_file
    if as_json:
        print_json(_record(uri, evidence, reference, differences))
    else:
        print_table(_rows(uri, evidence.claims) + _says(evidence) + _reference_rows(file, reference, differences))
    if differences:
        what = "; ".join(_brief(each) for each in differences)
        raise ReferenceMismatchError(f"{uri} is not what {printable(str(file))} describes: {what}")


def _brief(difference: Difference) -> str:
    """A difference for an error's line: with the files of code, for everything else is on lines of its own."""
    files = f": {difference.detail}" if difference.files else ""
    return f"block {difference.block} ({difference.name}){files}"


def _rows(uri: str, claims: Sequence[Claim]) -> list[tuple[str, str, str]]:
    """A line for each claim: what it is, whether it holds, and what of it; the first one says whose they are."""
    rows = [(claim.name, _VERDICTS[claim.holds], claim.detail) for claim in claims]
    name, verdict, detail = rows[0]
    return [(name, verdict, f"{printable(uri)}: {detail}"), *rows[1:]]


def _claim_records(claims: Sequence[Claim]) -> list[dict[str, Any]]:
    return [claim._asdict() for claim in claims]


def _says(evidence: Evidence) -> list[tuple[str, str, str]]:
    """The line of what the device says of itself, which proves nothing."""
    from ihsm.attest import blocks

    version = ".".join(str(byte) for byte in reversed(evidence.block(blocks.VERSION_BLOCK).content[1:4]))
    platform, profile = (
        _text(evidence.block(index).content) for index in (blocks.PLATFORM_BLOCK, blocks.PROFILE_BLOCK)
    )
    return [("device", _SAYS, f"{platform} {version}, profile {profile}")]


def _reference_rows(
    file: Path | None, reference: Reference | None, differences: tuple[Difference, ...]
) -> list[tuple[str, str, str]]:
    if reference is None:
        return []
    files = (
        f"{len(reference.files)} files"
        if reference.files
        else "no list of files, for it was not made where the package is"
    )
    what = f"{printable(str(file))}: {len(reference.blocks)} blocks, {files}"
    rows = [("reference", _DIFFERS if differences else _HOLDS, what)]
    if absent := reference.code_absent:
        rows.append(("code", _NOT_COMPARED, f"the reference has no block {', '.join(map(str, absent))}"))
    return [*rows, *((f"block {each.block}", _DIFFERS, f"{each.name}: {each.detail}") for each in differences)]


def _text(data: bytes) -> str:
    """What a device says in a block."""
    return ascii(data.decode(errors="replace"))[1:-1]


def _record(
    uri: str, evidence: Evidence, reference: Reference | None, differences: tuple[Difference, ...]
) -> dict[str, Any]:
    """The same as JSON, with all blocks."""
    from cryptography.hazmat.primitives.serialization import Encoding

    return {
        "verified": not differences,
        "device": uri,
        "claims": _claim_records(evidence.claims),
        "nonce": evidence.nonce.hex(),
        "chain": {
            "certificates": [each.public_bytes(Encoding.PEM).decode() for each in evidence.certificates],
            "root_sha256": evidence.root_fingerprint.hex(),
            "root_pinned": evidence.root_pinned,
        },
        "summary": evidence.summary.hex(),
        "session": f"{evidence.session:#010x}",
        "blocks": [
            {"block": block.index, "name": block.name, "type": block.type, "data": block.data.hex()}
            for block in evidence.blocks
        ],
        "reference": None
        if reference is None
        else {
            "blocks": [block.index for block in reference.blocks],
            "code_absent": list(reference.code_absent),
            "files": len(reference.files),
            "differences": [
                {"block": each.block, "name": each.name, "detail": each.detail, "files": list(each.files)}
                for each in differences
            ],
        },
    }
