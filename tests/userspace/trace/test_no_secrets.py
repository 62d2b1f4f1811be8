# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""No recording has a secret in it: a full self-test, the golden path with its known secrets, and keys in the clear."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from ihsm.control import ControlClient
from ihsm.ddi import Credential, Key, KeyRequest
from ihsm.driver import Controller, DriverOptions
from ihsm.embedded import EmbeddedDevice
from ihsm.selftest import lifecycle, private_keys, run_selftest, runner
from ihsm.selftest.bench import Bench
from ihsm.trace.live import TraceReader
from ihsm.trace.records import Completion, Entry, Message, Record, decode, kind_of
from ihsm.uri import DeviceUri, open_uri
from ihsm_abi.ddi import HashAlgorithm, KeyType, KeyUsage
from ihsm_abi.ddi.firmware_ops import (
    GetPrivKeyReq,
    GetPrivKeyResp,
    GetRngGenerateReq,
    GetRngGenerateResp,
    RawKeyImportReq,
    RawKeyImportResp,
    ShaDigestGenerateReq,
    ShaDigestGenerateResp,
)
from ihsm_abi.ddi.limits import CREDENTIAL_ID_BYTES, PIN_BYTES
from ihsm_abi.trace import TraceKind
from support import golden_path
from support.commands import uri
from support.waiting import HANG_S

WINDOW = 16
"""Bytes in a row of a secret that would be a leak."""
REPORT_DATA_BYTES = 128
"""Of what the self-test draws, what an attestation report is to carry: sent, signed and public."""


class Recording:
    """All that a served device records while a block runs."""

    def __init__(self, device: EmbeddedDevice) -> None:
        self._socket_path = device.socket_path
        self.raw: list[bytes] = []

    @contextmanager
    def running(self) -> Iterator[None]:
        with TraceReader(self._socket_path) as reader, ControlClient(self._socket_path, HANG_S) as client:
            thread = threading.Thread(target=self._read, args=(reader,))
            thread.start()
            try:
                yield
            finally:
                client.mark("end")
                thread.join()

    def _read(self, reader: TraceReader) -> None:
        while new := reader.read(HANG_S):
            self.raw += new
            if any(kind_of(record) == TraceKind.MARK for record in new):
                return

    @property
    def records(self) -> list[Record]:
        return [decode(record) for record in self.raw]

    def has(self, secret: bytes) -> bool:
        """Whether any part of a secret is in it, in either byte order: a physical device turns some around."""
        data = b"".join(self.raw)
        windows = {
            way[at : at + WINDOW]
            for way in (secret, secret[::-1])
            for at in range(0, max(1, len(secret) - WINDOW + 1), WINDOW)
        }
        return any(window in data for window in windows)


@pytest.fixture(scope="module", params=["physical", "virtual"])
def device(request: pytest.FixtureRequest) -> Iterator[EmbeddedDevice]:
    with EmbeddedDevice(["--kind", request.param, "--validation-hooks"]) as device:
        yield device


@contextmanager
def opened(device: EmbeddedDevice) -> Iterator[Controller]:
    with Controller(open_uri(DeviceUri.parse(uri(device))), DriverOptions(timeout_s=HANG_S)) as controller:
        yield controller


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """What the self-test draws for texts, keys, credentials and reports: all of it but IVs, tweaks and AAD."""
    found: list[bytes] = []
    urandom, pkcs8 = os.urandom, private_keys.pkcs8

    def draw(size: int) -> bytes:
        data = urandom(size)
        if size > 20:
            found.append(data)
        return data

    def encode(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> bytes:
        numbers = key.private_numbers()
        own = numbers.private_value if isinstance(numbers, ec.EllipticCurvePrivateNumbers) else numbers.d
        found.append(own.to_bytes((own.bit_length() + 7) // 8, "big"))
        return pkcs8(key)

    class Noted(Credential):
        def __init__(self, id: bytes, pin: bytes) -> None:
            super().__init__(id, pin)
            found.append(pin)  # the id stands in attestation reports

    monkeypatch.setattr(os, "urandom", draw)
    monkeypatch.setattr(private_keys, "pkcs8", encode)
    for module in (runner, lifecycle):
        monkeypatch.setattr(module, "Credential", Noted)
    return found


def test_a_full_self_test(device: EmbeddedDevice, drawn: list[bytes]) -> None:
    recording = Recording(device)
    with recording.running(), opened(device) as controller:
        report = run_selftest(controller)
    assert report.failed == 0, report
    assert {len(secret) for secret in drawn} >= {16, 32, 48, 1000, REPORT_DATA_BYTES}
    assert len(drawn) > 20
    for number, secret in enumerate(drawn):
        public = len(secret) == REPORT_DATA_BYTES
        assert recording.has(secret) is public, f"draw {number}, {len(secret)} bytes"
    records = recording.records
    messages = [record for record in records if isinstance(record, Message)]
    assert messages
    assert all(record.message for record in messages)
    entries = [record for record in records if isinstance(record, Entry)]
    assert len(entries) == len([record for record in records if isinstance(record, Completion)]) > 250


def test_the_golden_path(device: EmbeddedDevice) -> None:
    recording = Recording(device)
    with recording.running(), opened(device) as controller:
        golden_path.walk(controller, lambda: controller.reset(subsystem=True))
    known = (
        golden_path.ID,
        golden_path.PIN,
        golden_path.SEED,
        golden_path.BK3,
        golden_path.AES_KEY,
        golden_path.DIGEST,
    )
    for secret in known:
        assert not recording.has(secret)
    assert recording.has(golden_path.IV), "a value that is sent and is no secret"


def test_keys_in_the_clear(device: EmbeddedDevice) -> None:
    """What only validation hooks carry."""
    key, text = bytes(range(0xC0, 0xE0)), bytes(range(0x40, 0x80))
    label = b"planted: a label is no secret"
    recording = Recording(device)
    with recording.running(), opened(device) as controller:
        bench = Bench(controller, Credential(os.urandom(CREDENTIAL_ID_BYTES), os.urandom(PIN_BYTES)), provision=True)
        steps: tuple[tuple[str, Callable[[Bench], str]], ...] = (
            *lifecycle.OPENING,
            *lifecycle.PROVISIONING,
            *lifecycle.SESSION,
        )
        for _, step in steps:
            step(bench)
        session = bench.session
        request = KeyRequest(KeyUsage.EncryptDecrypt, label=label)
        made = session.call(
            RawKeyImportReq(raw=key, key_kind=KeyType.Aes256, key_properties=request.properties), RawKeyImportResp
        )
        revealed = session.call(GetPrivKeyReq(key_id=made.key_id), GetPrivKeyResp).key_data
        drawn = session.call(GetRngGenerateReq(rng_len=32), GetRngGenerateResp).rng_number
        digest = session.call(
            ShaDigestGenerateReq(sha_mode=HashAlgorithm.Sha256, msg=text), ShaDigestGenerateResp
        ).digest
        session.delete_key(Key(made.key_id, KeyType.Aes256, masked_key=made.masked_key))
    assert revealed == key
    for secret in (key, text, drawn, digest):
        assert not recording.has(secret)
    assert recording.has(label)
