# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Programs in docs/examples, run as a user would run them; what they make is judged without the device."""

from __future__ import annotations

import base64
import os
import select
import subprocess
import sys
from pathlib import Path
from typing import Final

import jwt
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, load_der_public_key

from ihsm import Hsm
from ihsm.bus import VfioUserFunction
from ihsm.ddi.certificates import load_certificates
from ihsm.errors import DeviceNotFoundError
from ihsm.store import Store
from support.waiting import HANG_S, until

EXAMPLES: Final = Path(__file__).parents[2] / "docs" / "examples"
ECDSA: Final = ec.ECDSA(hashes.SHA256())


def answers(path: Path) -> bool:
    """Whether somebody listens; the socket file is there a moment earlier."""
    try:
        VfioUserFunction(path, timeout_s=HANG_S).close()
    except DeviceNotFoundError:
        return False
    return True


def test_the_example_device_sums_guest_memory(socket_folder: Path) -> None:
    path = socket_folder / "example"
    process = subprocess.Popen([sys.executable, EXAMPLES / "vfu_device.py", path])
    try:
        until(lambda: process.poll() is not None or answers(path), "a device that listens")
        for _ in range(2):
            with VfioUserFunction(path, timeout_s=HANG_S) as client:
                event = os.eventfd(0, os.EFD_NONBLOCK)
                client.enable_interrupts([event])
                buffer = client.allocate_arena(1 << 16).allocate(5000)
                buffer.view[:5000] = 3
                for address, length, expected in ((buffer.iova, 5000, 15000), (buffer.iova + 4990, 10, 30), (1, 9, 0)):
                    client.write_bar(0, 0, 8, address)
                    client.write_bar(0, 8, 4, length)
                    assert select.select([event], [], [], HANG_S)[0]
                    assert os.eventfd_read(event) == 1
                    assert client.read_bar(0, 12, 4) == expected
                client.disable_interrupts()
                os.close(event)
        assert process.poll() is None
    finally:
        process.kill()
        process.wait()


def test_a_key_made_in_a_private_device_signs() -> None:
    example = [sys.executable, EXAMPLES / "sign_in_hsm.py"]
    done = subprocess.run(example, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("verified a signature made by Ecc384Private key")


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """The user's data folder, with a store that has a private device."""
    Hsm.create("default", device="private", root=tmp_path / "ihsm").close()
    return tmp_path


def environment(home: Path) -> dict[str, str]:
    """Of a user whose stores are in `home`."""
    mine = {name: value for name, value in os.environ.items() if not name.startswith("IHSM_")}
    return mine | {"XDG_DATA_HOME": str(home)}


def run(home: Path, name: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """An example, from beginning to end."""
    command = [sys.executable, EXAMPLES / name, *arguments]
    return subprocess.run(command, env=environment(home), capture_output=True, text=True)


def public_key(home: Path, label: str) -> ec.EllipticCurvePublicKey:
    """The public half of a key of the store, which no device is needed for."""
    version = Store.open("default", root=home / "ihsm").key(label).newest
    assert version.origin == "device"
    assert version.public is not None
    key = load_der_public_key(version.public)
    assert isinstance(key, ec.EllipticCurvePublicKey)
    return key


def test_a_key_gets_a_certificate_and_its_token_verifies(home: Path) -> None:
    tokens = []
    for _ in range(2):  # the second time with the key of the first
        done = run(home, "request_to_jwt.py", "tokens")
        assert done.returncode == 0, done.stderr
        token, verdict = done.stdout.splitlines()
        assert verdict == "verified: {'sub': 'alice', 'iss': 'tokens'}"
        key = public_key(home, "tokens")
        assert jwt.decode(token, key, algorithms=["ES256"]) == {"sub": "alice", "iss": "tokens"}
        (leaf,) = [base64.b64decode(each) for each in jwt.get_unverified_header(token)["x5c"]]
        assert x509.load_der_x509_certificate(leaf).public_key() == key
        assert list(Store.open("default", root=home / "ihsm").key("tokens").newest.certificates) == [leaf]
        tokens.append(token)
    assert tokens[0] != tokens[1]


def test_a_file_comes_back_whole_or_not_at_all_and_outlives_the_keys_rotation(home: Path) -> None:
    plain, sealed, back = home / "plain", home / "sealed", home / "back"
    plain.write_bytes(os.urandom(3_000_001))
    done = run(home, "file_encryption.py", "encrypt", "archive", plain, sealed)
    assert (done.returncode, done.stdout) == (0, "encrypted 3000001 bytes\n"), done.stderr
    assert plain.read_bytes()[:64] not in sealed.read_bytes()
    with Hsm.open("default", root=home / "ihsm") as hsm:
        hsm.rotate("archive")
        hsm.generate("another", "aes256-gcm")
    before = sorted(home.iterdir())

    for content, label, reason in (
        (sealed.read_bytes()[:-1], "archive", "TagMismatchError"),
        (sealed.read_bytes(), "another", "FileFormatError"),
    ):
        sealed.write_bytes(content)
        done = run(home, "file_encryption.py", "decrypt", label, sealed, back)
        assert (done.returncode, done.stderr.count(reason)) == (1, 1), done.stderr
        assert sorted(home.iterdir()) == before

    done = run(home, "file_encryption.py", "decrypt", "archive", sealed, back)
    assert (done.returncode, done.stdout) == (0, "decrypted 3000001 bytes\n"), done.stderr
    assert back.read_bytes() == plain.read_bytes()


class TestAttestedKey:
    @pytest.fixture
    def proof(self, home: Path) -> Path:
        """A folder with a proof, and root.pem as the verifier got it from elsewhere."""
        folder = home / "proof"
        folder.mkdir()
        done = run(home, "attested_key.py", "prove", "sealed", "nonce 1", folder)
        assert done.returncode == 0, done.stderr
        with Hsm.open("default", root=home / "ihsm") as hsm:
            root = hsm.connection.link.partition.certificate_chain().certificates[0]
        (folder / "root.pem").write_bytes(root.public_bytes(Encoding.PEM))
        return folder

    def verify(self, folder: Path, nonce: str = "nonce 1") -> subprocess.CompletedProcess[str]:
        """By somebody who has neither store nor device."""
        return run(folder / "nowhere", "attested_key.py", "verify", folder / "root.pem", nonce, folder)

    def test_the_verifier_follows_the_proof_from_the_root(self, proof: Path) -> None:
        done = self.verify(proof)
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith("verified: a secp256r1 key that was made in a device under ")

    def test_it_refuses_whatever_does_not_follow(self, proof: Path, tmp_path: Path) -> None:
        done = self.verify(proof, "nonce 2")
        assert (done.returncode, done.stderr.count("made for other report data")) == (1, 1)
        for name, reason in (
            ("message", "InvalidSignature"),
            ("signature.der", "InvalidSignature"),
            ("report.cose", "AttestationError"),
        ):
            content = (proof / name).read_bytes()
            (proof / name).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
            done = self.verify(proof)
            (proof / name).write_bytes(content)
            assert (done.returncode, done.stderr.count(reason)) == (1, 1), (name, done.stderr)
        own = (proof / "root.pem").read_bytes()
        with Hsm.private() as other:
            chain = other.connection.link.partition.certificate_chain()
            (proof / "root.pem").write_bytes(chain.certificates[0].public_bytes(Encoding.PEM))
            refused = self.verify(proof)
        assert (refused.returncode, refused.stderr.count("CertificateChainError")) == (1, 1), refused.stderr
        assert load_certificates(own, "root.pem") != load_certificates((proof / "root.pem").read_bytes(), "root.pem")

    def test_it_refuses_a_key_that_was_imported(self, home: Path, proof: Path) -> None:
        with Hsm.open("default", root=home / "ihsm") as hsm:
            hsm.import_key("brought", ec.generate_private_key(ec.SECP256R1()))
        assert run(home, "attested_key.py", "prove", "brought", "nonce 1", proof).returncode == 0
        done = self.verify(proof)
        assert (done.returncode, done.stderr.count("was not made in the device")) == (1, 1), done.stderr


class Service:
    """recovery.py, asked line by line."""

    def __init__(self, home: Path, **variables: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, EXAMPLES / "recovery.py"],
            env=environment(home) | variables,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def ask(self, message: str) -> str:
        """Its answer, empty when it ends instead."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{message}\n")
        self.process.stdin.flush()
        return self.process.stdout.readline().rstrip("\n")

    def end(self) -> tuple[int, str]:
        """Exit status and standard error."""
        error = self.process.communicate()[1]
        return self.process.returncode, error


class Device:
    """`ihsm serve` at one address, killed and started again."""

    def __init__(self, folder: Path, *arguments: str | Path) -> None:
        self.uri = f"vfio-user:{folder / 's'}"
        self.command = [sys.executable, "-m", "ihsm", "serve", "--socket", folder / "s"]
        self.start(*arguments)

    def start(self, *arguments: str | Path) -> None:
        """Returns when it listens."""
        self.process = subprocess.Popen(
            [*self.command, *arguments], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        assert self.process.stdout is not None
        assert self.process.stdout.readline().startswith("ready:")

    def kill(self) -> None:
        """SIGKILL, and wait for the end."""
        self.process.kill()
        self.process.communicate()


class TestRecovery:
    def test_the_service_goes_on_when_its_device_is_killed_and_comes_back(self, socket_folder: Path) -> None:
        state = ("--state", socket_folder / "state")
        device = Device(socket_folder, *state)
        try:
            Hsm.create("default", device=device.uri, root=socket_folder / "ihsm").close()
            service = Service(socket_folder)
            answers = [service.ask("message 0")]
            for number in (1, 2):
                device.kill()
                device.start(*state)
                answers.append(service.ask(f"message {number}"))
            status, error = service.end()
        finally:
            device.kill()
        assert status == 0, error
        key = public_key(socket_folder, "service")
        for number, answer in enumerate(answers):
            key.verify(base64.b64decode(answer), b"message %d" % number, ECDSA)

    def test_it_ends_when_the_device_comes_back_without_its_state(self, socket_folder: Path) -> None:
        device = Device(socket_folder)
        try:
            Hsm.create("default", device=device.uri, root=socket_folder / "ihsm").close()
            service = Service(socket_folder, IHSM_DEVICE=device.uri)
            assert service.ask("message 0")
            device.kill()
            device.start()
            assert service.ask("message 1") == ""
            status, error = service.end()
        finally:
            device.kill()
        assert status == 1
        assert error.splitlines()[-1].startswith("keys lost: store default: the device cannot read its keys")
