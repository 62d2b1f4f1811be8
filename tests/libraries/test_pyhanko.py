# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""pyHanko with `ihsm.adapters.pyhanko`; OpenSSL verifies the CMS structure in the PDF over the bytes that it covers."""

from __future__ import annotations

import asyncio
import io
import re
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from pyhanko.pdf_utils.generic import DictionaryObject, StreamObject, pdf_name
from pyhanko.pdf_utils.incremental_writer import IncrementalPdfFileWriter
from pyhanko.pdf_utils.writer import PageObject, PdfFileWriter
from pyhanko.sign import PdfSignatureMetadata, PdfSigner

from ihsm import Hsm
from ihsm.adapters.pyhanko import HsmSigner
from libraries.judges import run
from libraries.rig import Keys, Signs, run_example, self_signed

KINDS = [
    ("p256", "sha256", False),
    ("p384", "sha384", False),
    ("p521", "sha512", False),
    ("rsa2048", "sha256", False),
    ("rsa2048", "sha256", True),
]


def blank() -> IncrementalPdfFileWriter:
    """A document with an empty page."""
    writer = PdfFileWriter()
    page = PageObject(contents=writer.add_object(StreamObject(stream_data=b"")), media_box=(0, 0, 100, 100))
    page[pdf_name("/Resources")] = writer.add_object(DictionaryObject())
    writer.insert_page(page)
    written = io.BytesIO()
    writer.write(written)
    return IncrementalPdfFileWriter(written)


def openssl_verifies(document: bytes, certificate: x509.Certificate, folder: Path) -> None:
    """OpenSSL takes the signature in a PDF (ISO 32000-2 §12.8.1), and none over other bytes."""
    ranges = re.search(rb"/ByteRange\s*\[\s*(\d+)\s+(\d+)\s+(\d+)\s+(\d+)\s*\]", document)
    assert ranges is not None
    start, length, rest, rest_length = map(int, ranges.groups())
    assert (start, rest + rest_length) == (0, len(document))
    cms = bytes.fromhex(document[length + 1 : rest - 1].decode())
    content, signer = folder / "content", folder / "signer.pem"
    signer.write_bytes(certificate.public_bytes(Encoding.PEM))
    command = ["openssl", "cms", "-verify", "-binary", "-inform", "DER", "-content", content, "-CAfile", signer]
    command += ["-purpose", "any", "-out", "/dev/null"]
    content.write_bytes(document[:length] + document[rest:])
    assert b"successful" in run(*command, data=cms)
    content.write_bytes(document[:length] + document[rest:] + b"!")
    run(*command, data=cms, succeeds=False)


@pytest.mark.parametrize(("kind", "digest", "pss"), KINDS)
def test_a_document_is_signed_in_the_device(
    kind: str, digest: str, pss: bool, keys: Keys, signs: Signs, tmp_path: Path
) -> None:
    key = keys(kind)
    certificate = self_signed(key, "signer")
    signer = HsmSigner(key, certificate.public_bytes(Encoding.DER), prefer_pss=pss)
    metadata = PdfSignatureMetadata(field_name="Signature", md_algorithm=digest)
    with signs(key):
        signed = asyncio.run(PdfSigner(metadata, signer).async_sign_pdf(blank()))
    openssl_verifies(signed.getvalue(), certificate, tmp_path)


def test_room_for_a_signature_is_made_without_one(keys: Keys, signs: Signs) -> None:
    key = keys("p521")
    signer = HsmSigner(key, self_signed(key, "signer").public_bytes(Encoding.DER))
    with signs(key, 0):
        room = asyncio.run(signer.async_sign_raw(b"attributes", "sha512", dry_run=True))
    with signs(key):
        signature = asyncio.run(signer.async_sign_raw(b"attributes", "sha512"))
    assert len(room) >= len(signature)


def test_the_example(hsm: Hsm, signs: Signs, tmp_path: Path) -> None:
    certificate = self_signed(hsm["web"], "web")
    hsm.set_certificates("web", [certificate.public_bytes(Encoding.DER)])
    with signs(hsm["web"]):
        signed = run_example("pyHanko", hsm=hsm, document=blank())["signed"]
    openssl_verifies(signed.getvalue(), certificate, tmp_path)
