# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""The certificate chain: content, thumbprint, what strict verifiers say (spec 06 §1.6, §1.8, §10.2)."""

from __future__ import annotations

import base64
import datetime
import hashlib
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID

from ihsm.ddi.errors import StatusError
from ihsm_abi.ddi import (
    DdiStatus,
    GetCertChainInfoReq,
    GetCertChainInfoResp,
    GetCertificateReq,
    GetCertificateResp,
)
from support.hsm import Scene, Stage


def info(scene: Scene) -> GetCertChainInfoResp:
    return scene.client.channel.call(GetCertChainInfoReq(slot_id=0), GetCertChainInfoResp)


def certificate(scene: Scene, number: int) -> bytes:
    return scene.client.channel.call(GetCertificateReq(slot_id=0, cert_id=number), GetCertificateResp).certificate


def read_chain(scene: Scene) -> list[bytes]:
    return [certificate(scene, number) for number in range(info(scene).num_certs)]


def write_pem(folder: Path, chain: list[bytes]) -> tuple[Path, Path, Path]:
    paths = []
    for name, encoded in zip(("root", "alias", "leaf"), chain, strict=True):
        path = folder / f"{name}.pem"
        path.write_bytes(x509.load_der_x509_certificate(encoded).public_bytes(Encoding.PEM))
        paths.append(path)
    return paths[0], paths[1], paths[2]


def openssl_verify(folder: Path, chain: list[bytes]) -> subprocess.CompletedProcess[str]:
    root, alias, leaf = write_pem(folder, chain)
    command = ["openssl", "verify", "-x509_strict", "-check_ss_sig", "-CAfile"]
    command += [str(root), "-untrusted", str(alias), str(leaf)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_chain_info_comes_first(stage: Stage, covers: Callable[..., None]) -> None:
    scene = stage.fresh()
    for number in (0, 2, 3, 255):
        with pytest.raises(StatusError) as caught:
            certificate(scene, number)
        assert caught.value.status == DdiStatus.InvalidCertificate
    info(scene)
    certificate(scene, 0)
    scene.module.nssr()
    certificate(scene, 2)
    scene.module.disable()
    certificate(scene, 2)
    scene.module.partition_reset()
    with pytest.raises(StatusError):
        certificate(scene, 0)
    covers("GetCertificate/chain-info-not-read")


def test_numbers_beyond_the_chain(stage: Stage) -> None:
    scene = stage.fresh()
    for number in range(info(scene).num_certs, 256):
        with pytest.raises(StatusError) as caught:
            certificate(scene, number)
        assert caught.value.status == DdiStatus.InvalidCertificate, number


def test_thumbprint_and_stability(stage: Stage) -> None:
    scene = stage.fresh()
    chain = read_chain(scene)
    digests = [hashlib.sha256(der).digest() for der in chain]
    upper = hashlib.sha256(digests[0]).digest()
    assert info(scene).thumbprint == hashlib.sha256(upper + digests[1] + digests[2]).digest()
    scene.module.nssr()
    assert read_chain(scene) == chain
    scene.module.partition_reset()
    renewed = read_chain(scene)
    assert renewed[:2] == chain[:2]
    assert renewed[2] != chain[2]
    assert read_chain(stage.fresh())[:2] == chain[:2], "functions of a device share all but the leaf"


def test_content(stage: Stage) -> None:
    scene = stage.fresh()
    root, alias, leaf = (x509.load_der_x509_certificate(der) for der in read_chain(scene))
    for issuer, subject in ((root, root), (root, alias), (alias, leaf)):
        subject.verify_directly_issued_by(issuer)
        assert isinstance(subject.public_key().curve, ec.SECP384R1)  # type: ignore[union-attr]
        assert subject.not_valid_after_utc == datetime.datetime(9999, 12, 31, 23, 59, 59, tzinfo=datetime.UTC)
        point = issuer.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
        authority = subject.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value
        assert authority.key_identifier == hashlib.sha1(point, usedforsecurity=False).digest()
    for layer, path_length in ((root, 1), (alias, 0)):
        name = layer.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value
        assert len(name) == 64
        assert len(base64.b64decode(name)) == 48
        assert layer.not_valid_before_utc == datetime.datetime(2018, 1, 1, tzinfo=datetime.UTC)
        basic = layer.extensions.get_extension_for_class(x509.BasicConstraints)
        assert (basic.critical, basic.value.ca, basic.value.path_length) == (True, True, path_length)
    partition = scene.module.partition.kept.identity
    (common_name,) = leaf.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    assert common_name.value == partition.partition_id.hex().upper()
    assert len(leaf.tbs_certificate_bytes) == 417
    assert leaf.serial_number.bit_length() > 152
    assert leaf.not_valid_before_utc == datetime.datetime(2023, 1, 1, tzinfo=datetime.UTC)
    usage = leaf.extensions.get_extension_for_class(x509.KeyUsage).value
    assert usage.digital_signature
    assert not usage.key_cert_sign
    assert leaf.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint) == (
        partition.point.uncompressed()
    )


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs the openssl command")
def test_openssl_accepts_the_chain_strictly(stage: Stage, tmp_path: Path) -> None:
    verdict = openssl_verify(tmp_path, read_chain(stage.fresh()))
    assert verdict.returncode == 0, verdict.stderr
