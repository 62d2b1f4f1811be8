# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""`ihsm sign` and `ihsm verify`: OpenSSL's command and pyca judge what they make, and make what they judge."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import subprocess
from pathlib import Path

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.padding import MGF1, PSS
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from support.commands import refused, run, run_process, succeed

pytestmark = pytest.mark.usefixtures("keys")

KINDS = {"p256": "sha256", "p384": "sha384", "p521": "sha512", "rsa2048": "sha256"}


@pytest.fixture
def message(tmp_path: Path) -> Path:
    path = tmp_path / "message"
    path.write_bytes(os.urandom(3 << 20))
    return path


def public(key: str) -> ec.EllipticCurvePublicKey | rsa.RSAPublicKey:
    loaded = load_pem_public_key(succeed("key", "show", key))
    assert isinstance(loaded, ec.EllipticCurvePublicKey | rsa.RSAPublicKey)
    return loaded


def openssl_verifies(folder: Path, key: str, hash_name: str, signature: Path, message: Path, *options: str) -> bool:
    pem = folder / "public.pem"
    pem.write_bytes(succeed("key", "show", key))
    command = ["openssl", "dgst", f"-{hash_name}", "-verify", pem, "-signature", signature, *options, message]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.returncode == 0 and done.stdout == "Verified OK\n"


@pytest.mark.parametrize("key", KINDS)
def test_openssl_verifies_what_is_signed(key: str, message: Path, tmp_path: Path) -> None:
    signature = tmp_path / "signature"
    assert succeed("sign", key, message, "-o", signature) == b""
    assert openssl_verifies(tmp_path, key, KINDS[key], signature, message)
    succeed("verify", key, message, "--signature", signature)
    message.write_bytes(message.read_bytes() + b".")
    assert not openssl_verifies(tmp_path, key, KINDS[key], signature, message)
    assert "not one of this key" in refused(6, "verify", key, message, "--signature", signature)


@pytest.mark.parametrize(("key", "hash_name"), [("p256", "sha512"), ("p384", "sha256"), ("rsa2048", "sha1")])
def test_another_hash(key: str, hash_name: str, message: Path, tmp_path: Path) -> None:
    signature = tmp_path / "signature"
    succeed("sign", key, message, "--hash", hash_name, "-o", signature)
    assert openssl_verifies(tmp_path, key, hash_name, signature, message)
    succeed("verify", key, message, "--hash", hash_name, "--signature", signature)
    refused(6, "verify", key, message, "--signature", signature)


def test_standard_input_and_output(tmp_path: Path) -> None:
    signature = tmp_path / "signature"
    signature.write_bytes(succeed("sign", "p256", stdin=b"piped"))
    succeed("verify", "p256", "-", "--signature", signature, stdin=b"piped")
    refused(6, "verify", "p256", "--signature", signature, stdin=b"Piped")


def test_pss(message: Path, tmp_path: Path) -> None:
    signature = tmp_path / "signature"
    succeed("sign", "rsa2048", message, "--pss", "-o", signature)
    options = ("-sigopt", "rsa_padding_mode:pss", "-sigopt", "rsa_pss_saltlen:digest")
    assert openssl_verifies(tmp_path, "rsa2048", "sha256", signature, message, *options)
    assert not openssl_verifies(tmp_path, "rsa2048", "sha256", signature, message)
    succeed("verify", "rsa2048", message, "--pss", "--signature", signature)
    refused(6, "verify", "rsa2048", message, "--signature", signature)
    assert "EC key" in refused(2, "sign", "p256", message, "--pss", "-o", signature)


@pytest.mark.parametrize(("key", "size"), [("p256", 64), ("p384", 96), ("p521", 132)])
def test_raw_is_r_and_s(key: str, size: int, message: Path, tmp_path: Path) -> None:
    raw = succeed("sign", key, message, "--raw")
    assert len(raw) == size
    der = tmp_path / "der"
    half = size // 2
    der.write_bytes(encode_dss_signature(int.from_bytes(raw[:half], "big"), int.from_bytes(raw[half:], "big")))
    assert openssl_verifies(tmp_path, key, KINDS[key], der, message)
    (tmp_path / "raw").write_bytes(raw)
    succeed("verify", key, message, "--raw", "--signature", tmp_path / "raw")
    refused(6, "verify", key, message, "--signature", tmp_path / "raw")
    assert f"{size}" in refused(6, "verify", key, message, "--raw", "--signature", der)


def test_a_digest(message: Path, tmp_path: Path) -> None:
    digest = hashlib.sha256(message.read_bytes()).digest()
    signature = tmp_path / "signature"
    signature.write_bytes(succeed("sign", "p256", "--prehashed", stdin=digest))
    assert openssl_verifies(tmp_path, "p256", "sha256", signature, message)
    succeed("verify", "p256", "--prehashed", "--signature", signature, stdin=digest)
    assert "31 bytes, a sha256 digest has 32" in refused(2, "sign", "p256", "--prehashed", stdin=digest[:31])


def unpadded(text: bytes) -> bytes:
    return base64.urlsafe_b64decode(text + b"=" * (-len(text) % 4))


@pytest.mark.parametrize(
    ("key", "options", "name"),
    [
        ("p256", (), "ES256"),
        ("p384", (), "ES384"),
        ("p521", (), "ES512"),
        ("rsa2048", (), "RS256"),
        ("rsa2048", ("--hash", "sha512"), "RS512"),
        ("rsa2048", ("--pss", "--hash", "sha384"), "PS384"),
    ],
)
def test_jws(key: str, options: tuple[str, ...], name: str, tmp_path: Path) -> None:
    payload = b'{"sub":"web"}'
    token = succeed("sign", key, "--jws", *options, stdin=payload)
    assert token.endswith(b"\n")
    head, body, signature = token.strip().split(b".")
    assert json.loads(unpadded(head)) == {"alg": name}
    assert unpadded(body) == payload
    loaded, made, algorithm = public(key), unpadded(signature), getattr(hashes, f"SHA{name[2:]}")()
    if isinstance(loaded, ec.EllipticCurvePublicKey):
        half = len(made) // 2
        made = encode_dss_signature(int.from_bytes(made[:half], "big"), int.from_bytes(made[half:], "big"))
        loaded.verify(made, head + b"." + body, ec.ECDSA(algorithm))
    elif name.startswith("PS"):
        loaded.verify(made, head + b"." + body, PSS(MGF1(algorithm), algorithm.digest_size), algorithm)
    else:
        from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15

        loaded.verify(made, head + b"." + body, PKCS1v15(), algorithm)
    succeed("verify", key, "--jws", *options, "-o", tmp_path / "payload", stdin=token)
    assert (tmp_path / "payload").read_bytes() == payload


@pytest.mark.parametrize("change", ["payload", "algorithm", "signature", "parts", "crit", "padding", "last bits"])
def test_a_jws_that_is_not_the_keys(change: str, tmp_path: Path) -> None:
    head, body, signature = succeed("sign", "p256", "--jws", stdin=b"payload").strip().split(b".")

    def text(data: bytes) -> bytes:
        return base64.urlsafe_b64encode(data).rstrip(b"=")

    last = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    token = {
        "payload": b".".join((head, text(b"Payload"), signature)),
        "algorithm": b".".join((text(b'{"alg":"none"}'), body, b"")),
        "signature": b".".join((head, body, text(bytes(64)))),
        "parts": b".".join((head, body)),
        "crit": b".".join((text(b'{"alg":"ES256","crit":["exp"]}'), body, signature)),
        "padding": b".".join((head, body, signature + b"==")),
        "last bits": b".".join((head, body, signature[:-1] + bytes([last[last.index(signature[-1]) ^ 1]]))),
    }[change]
    refused(6, "verify", "p256", "--jws", "-o", tmp_path / "payload", stdin=token)
    assert not (tmp_path / "payload").exists()


def test_signatures_of_others_verify_here(message: Path, tmp_path: Path) -> None:
    """A known key in the store and in OpenSSL: each verifies the other's."""
    pem = tmp_path / "key.pem"
    subprocess.run(
        ["openssl", "genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", pem], check=True
    )
    succeed("key", "import", "known", pem)
    signature = tmp_path / "signature"
    subprocess.run(["openssl", "dgst", "-sha256", "-sign", pem, "-out", signature, message], check=True)
    succeed("verify", "known", message, "--signature", signature)
    r, s = decode_dss_signature(signature.read_bytes())
    signature.write_bytes(encode_dss_signature(r, s + 1))
    refused(6, "verify", "known", message, "--signature", signature)
    with pytest.raises(InvalidSignature):
        public("known").verify(signature.read_bytes(), message.read_bytes(), ec.ECDSA(hashes.SHA256()))  # type: ignore[call-arg,arg-type]


@pytest.mark.parametrize(
    ("status", "arguments", "text"),
    [
        (7, ("sign", "nobody", "FILE"), "no key 'nobody'"),
        (7, ("sign", "p256@7", "FILE"), "no version 7"),
        (7, ("sign", "p256", "FILE", "--store", "other"), "no store"),
        (2, ("sign", "p256", "--pin-fd", "0"), "--pin-fd 0"),  # the rest of it would be signed, or nothing
        (2, ("sign", "p256", "none"), "does not exist"),
        (2, ("sign", "p256@0", "FILE"), "versions are numbers from 1 on"),
        (2, ("sign", "p256", "FILE", "--jws", "--raw"), "do not go with"),
        (2, ("sign", "p256", "FILE", "--jws", "--hash", "sha512"), "ES256"),
        (2, ("sign", "rsa2048", "FILE", "--jws", "--hash", "sha1"), "SHA-1"),
        (2, ("sign", "p256", "FILE", "-o", "/dev/full"), "No space left"),
        (2, ("verify", "p256", "FILE"), "--signature"),
        (2, ("verify", "p256", "FILE", "--signature", "FILE", "--jws"), "--jws"),
        (2, ("verify", "p256", "FILE", "--signature", "FILE", "-o", "x"), "payload"),
        (6, ("verify", "p256", "FILE", "--signature", "FILE"), "not one of this key"),
    ],
)
def test_what_is_refused(status: int, arguments: tuple[str, ...], text: str, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"some bytes")
    words = [os.fspath(file) if word == "FILE" else word for word in arguments]
    assert text in refused(status, *words)


def test_verifying_needs_no_device(keys: Path, tmp_path: Path) -> None:
    signature = tmp_path / "signature"
    signature.write_bytes(succeed("sign", "p256", stdin=b"data"))
    nowhere = {"IHSM_DEVICE": "vfio-user:/nowhere.sock"}
    done = run_process(
        "verify", "p256", "--signature", os.fspath(signature), input=b"data", stdin=None, env=os.environ | nowhere
    )
    assert done.returncode == 0, done.stderr
    done = run_process("sign", "p256", input=b"data", stdin=None, env=os.environ | nowhere)
    assert done.returncode == 3
    assert done.stdout == b""


def test_a_file_that_was_there_survives_a_failure(message: Path, tmp_path: Path) -> None:
    there = tmp_path / "there"
    there.write_text("before")
    result = run("sign", "p256", message, "-o", there, "--device", "vfio-user:/nowhere.sock")
    assert result.exit_code == 3
    assert there.read_text() == "before"
    assert {path.name for path in tmp_path.iterdir() if path.name.startswith(".")} == set()
