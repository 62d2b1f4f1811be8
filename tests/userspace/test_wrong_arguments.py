# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Public functions with wrong arguments: whatever is given, what is raised is an `IhsmError`, and a built-in error."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import mmap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from ihsm import errors
from ihsm.bus import DmaArena, VfioUserFunction
from ihsm.control import ControlClient
from ihsm.ddi import (
    AttestationError,
    CertificateChainError,
    Credential,
    Key,
    KeyInfo,
    KeyRequest,
    Partition,
    RequestError,
    ResponseError,
    Session,
    SessionTicket,
    SoftwareTrustAnchor,
    calls,
    verify_report,
)
from ihsm.ddi.call_arrays import CallMany
from ihsm.ddi.certificates import load_certificates
from ihsm.ddi.pota import der_signature, raw_signature
from ihsm.ddi.wrapping import wrap_key
from ihsm.driver import Controller, DriverOptions, FastPathSession
from ihsm.driver.aes_batch import gcm_entries, xts_entries
from ihsm.embedded import EmbeddedDevice
from ihsm.errors import ArgumentError, ArgumentTypeError, DriverError, IhsmError
from ihsm.testing import DeviceFaults
from ihsm.uri import DeviceUri
from ihsm_abi.ddi import (
    AesKeySize,
    AesOp,
    EccCurve,
    HashAlgorithm,
    HmacReq,
    HmacResp,
    KeyClass,
    KeyType,
    KeyUsage,
    RsaOpType,
)
from ihsm_abi.hsm_queue import ControlKind
from ihsm_abi.mbor import MborEncodeError
from support.devices import open_device
from support.waiting import HANG_S

WRONG: tuple[Any, ...] = (
    None, object(), "text", "", b"", bytes(5000), -1, 0, 1 << 16, 1 << 40, 1 << 70, 1.5, float("nan"), float("inf"),
    [], [1, "a"], {}, (), True, np.int64(-1), np.zeros(3), Path("path"), bytearray(3), {1: 2}, lambda: None,
)  # fmt: skip
Call = tuple[Callable[..., Any], dict[str, Any]]


def leaks(calls: list[Call]) -> list[str]:
    """What other exceptions come out when one argument after the other is replaced by each of WRONG."""
    found = []
    for function, right in calls:
        for name in right:
            for value in WRONG:
                try:
                    outcome = function(**{**right, name: value})
                    if inspect.iscoroutine(outcome):
                        outcome = asyncio.run(outcome)
                except IhsmError:
                    continue
                except Exception as error:
                    found.append(f"{function.__qualname__}({name}={value!r:.40}): {type(error).__name__}: {error}")
                    continue
                if isinstance(outcome, contextlib.AbstractContextManager):
                    outcome.__exit__(None, None, None)
    return found


class Nowhere:
    """A transport to no device: whoever comes so far has given what can be sent."""

    def exchange(self, message: bytes, kind: ControlKind, session_id: int | None) -> Any:
        assert isinstance(message, bytes)
        raise DriverError("nobody there")

    async def exchange_async(self, message: bytes, kind: ControlKind, session_id: int | None) -> Any:
        return self.exchange(message, kind, session_id)


KEY = Key(1, KeyType.Ecc256Private)
REQUEST = KeyRequest(KeyUsage.SignVerify)
OWNER = ec.generate_private_key(ec.SECP384R1())
UNWRAPPING = rsa.generate_private_key(65537, 2048).public_key()
CREDENTIAL = Credential(bytes(range(16)), bytes(range(16)))
BLOCKS = np.zeros((1, 16), np.uint8)
MANY = CallMany(HmacReq(key_id=1, msg=bytes(16)), {"msg": BLOCKS}, HmacResp, ("tag",))


def client() -> tuple[Session, Partition]:
    partition = Partition(Nowhere())
    partition._info = object()  # type: ignore[assignment]
    return Session(partition, 0, 0, bytes(48), b""), partition


def client_calls() -> list[Call]:
    session, partition = client()
    hashed: dict[str, Any] = {"hash_algorithm": HashAlgorithm.Sha256}
    derived: dict[str, Any] = {"secret": KEY, **hashed, "key_type": KeyType.Aes128, "request": REQUEST, "key_length": 1}
    return [
        (session.ecc_sign, {"key": KEY, "digest": bytes(32), **hashed}),
        (session.ecc_sign_number, {"key": KEY, "number": b"1", "label": HashAlgorithm.Sha256}),
        (session.rsa_mod_exp, {"key": KEY, "y": bytes(256), "op_type": RsaOpType.Sign}),
        (session.aes_cbc, {"key": KEY, "op": AesOp.Encrypt, "data": bytes(16), "iv": bytes(16)}),
        (session.hmac, {"key": KEY, "message": b""}),
        (session.ecc_sign_many, {"key": KEY, "digests": np.zeros((1, 32), np.uint8), **hashed}),
        (session.rsa_mod_exp_many, {"key": KEY, "ys": np.zeros((1, 256), np.uint8), "op_type": RsaOpType.Sign}),
        (session.hmac_many, {"key": KEY, "messages": np.zeros((1, 5), np.uint8)}),
        (session.aes_cbc_many, {"key": KEY, "op": AesOp.Encrypt, "data": BLOCKS, "ivs": BLOCKS}),
        (session.call_many, {"many": MANY}),
        (session.call_many_async, {"many": MANY}),
        (session.ecdh, {"key": KEY, "peer_spki": b"", "key_type": KeyType.Secret256, "request": REQUEST}),
        (session.hkdf, {**derived, "salt": b"", "info": b""}),
        (session.kbkdf, {**derived, "label": b"", "context": b""}),
        (session.generate_ecc_key, {"curve": EccCurve.P256, "request": REQUEST}),
        (session.generate_aes_key, {"size": AesKeySize.Aes128, "request": REQUEST}),
        (session.unwrapping_key, {"wait_s": 0.0}),
        (
            session.rsa_unwrap,
            {"unwrapping_key": KEY, "wrapped_blob": b"", "key_class": KeyClass.Aes, "request": REQUEST, **hashed},
        ),
        (session.import_key, {"payload": b"k", "key_class": KeyClass.Aes, "request": REQUEST, **hashed}),
        (session.unmask, {"masked_key": b""}),
        (session.open_key, {"tag": 1}),
        (session.attest, {"key": KEY, "report_data": b""}),
        (session.delete_key, {"key": KEY}),
        (session.change_pin, {"pin": bytes(16)}),
        (session.call, {"request": HmacReq(key_id=1, msg=b""), "response": HmacResp}),
        (session.call_async, {"request": HmacReq(key_id=1, msg=b""), "response": HmacResp}),
        (session.perform, {"call": calls.unwrapping_key()}),
        (session.perform_async, {"call": calls.unwrapping_key()}),
        (partition.certificate_chain, {"slot": 0}),
        (partition.init_bk3, {"bk3": bytes(48)}),
        (partition.set_sealed_bk3, {"sealed_bk3": b""}),
        (
            partition.establish_credential,
            {"credential": CREDENTIAL, "masked_bk3": b"", "anchor": SoftwareTrustAnchor(OWNER), "bmk": b""},
        ),
        (partition.open_session, {"credential": CREDENTIAL, "seed": bytes(48)}),
        (partition.reopen_session, {"credential": CREDENTIAL, "ticket": SessionTicket(0, bytes(48), b"")}),
        (Credential, {"id": bytes(16), "pin": bytes(16)}),
        (KeyRequest, {"usage": KeyUsage.Derive, "session": True, "tag": 1, "label": b""}),
        (SessionTicket, {"session_id": 1, "seed": bytes(48), "bmk_session": b""}),
        (SoftwareTrustAnchor, {"key": OWNER}),
        (KeyInfo.of, {"masked_key": b""}),
        (wrap_key, {"payload": b"k", "unwrapping_key": UNWRAPPING, **hashed, "kek": bytes(32)}),
        (raw_signature, {"der": b""}),
        (der_signature, {"raw": bytes(96)}),
        (verify_report, {"report": b"", "identity": OWNER.public_key(), "report_data": b""}),
        (load_certificates, {"data": b"", "name": "file"}),
    ]


def test_the_typed_client() -> None:
    assert leaks(client_calls()) == []


def test_every_operation_is_walked() -> None:
    walked = {function.__name__ for function, _ in client_calls() if hasattr(function, "__name__")}
    for kind in (Session, Partition):
        for name, member in inspect.getmembers(kind, inspect.isfunction):
            if not name.startswith("_") and len(inspect.signature(member).parameters) > 1:
                assert name in walked, f"{kind.__name__}.{name}"


def test_the_driver(tmp_path: Path) -> None:
    options = DriverOptions(interrupts=False, hsm_queues=1, aes_queues=1)
    with open_device("vfio-user", tmp_path) as device, Controller(device.function, options) as controller:
        session, queue = FastPathSession(0, 0), controller.aes_queues[0]
        limit = {"timeout_s": HANG_S}
        batch: dict[str, Any] = {"session": session, "sources": [0], "targets": [0]}
        calls: list[Call] = [
            (queue.submit_gcm, {"session": session, "key_id": 1, "text": b"", "decrypt": True, "iv": bytes(12),
                                "aad": b"", "tag": bytes(16), **limit}),
            (queue.submit_xts, {"session": session, "key_ids": (1, 2), "tweak": bytes(16), "data": bytes(16),
                                "decrypt": True, "data_unit_bytes": 0, **limit}),
            (queue.submit, {"entries": np.zeros(1, queue.ring.sqe), **limit}),
            (gcm_entries, {**batch, "key_ids": 1, "text_bytes": 16, "decrypt": False, "aad_bytes": 0,
                           "ivs": np.zeros((1, 12), np.uint8), "tags": None}),
            (xts_entries, {**batch, "key_ids": (1, 2), "data_bytes": 16, "tweaks": np.zeros(16, np.uint8),
                           "decrypt": False, "data_unit_bytes": 0}),
            (controller.hsm_queues[0].submit_message, {"message": b"ab", "kind": ControlKind.NONE, "session_id": 1,
                                                       "response_bytes": 1, **limit}),
            (controller.submit, {"message": b"ab", "kind": ControlKind.NONE, "session_id": None, **limit}),
            (controller.hsm_queues[0].submit_flush, {"session_id": 1, **limit}),
            (controller.admin.execute, {"opcode": 0x06, "prp1": 0, "dw10": 0, "dw11": 0}),
            (controller.allocate, {"size_bytes": 1, "alignment": 64}),
            (FastPathSession, {"session_id": 1, "short_app_id": 0}),
            (DriverOptions, {"interrupts": True, "spin_us": 1.0, "hsm_queues": 1, "aes_queues": 1, "hsm_entries": 4,
                             "aes_entries": 4, "buffer_bytes": 0, "timeout_s": 1.0}),
        ]  # fmt: skip
        found = leaks(calls)
        assert found == []
        assert controller.exchange(b"ab", ControlKind.NONE, None, timeout_s=HANG_S).message == b"ba"


def test_ways_to_a_function(tmp_path: Path) -> None:
    with open_device("vfio-user", tmp_path) as device:
        function: Any = device.function
        calls: list[Call] = [
            (function.read_config, {"offset": 0, "size_bytes": 4}),
            (function.write_config, {"offset": 0x3C, "data": b"\0"}),
            (function.bar_bytes, {"bar": 0}),
            (function.read_bar, {"bar": 0, "offset": 0, "width": 4}),
            (function.write_bar, {"bar": 0, "offset": 0, "width": 4, "value": 0}),
            (function.map_bar, {"bar": 0}),
            (function.allocate_arena, {"size_bytes": 4096}),
            (function.map_dma, {"fd": None, "offset": 0, "iova": 1 << 50, "size_bytes": 4096}),
            (function.unmap_dma, {"iova": 1 << 50, "size_bytes": 4096}),
            (function.enable_interrupts, {"events": [None]}),
            (Controller, {"function": None, "options": None}),
            (DeviceUri.parse, {"text": "auto"}),
            (type(function), {"path": tmp_path / "none", "timeout_s": 1.0}),
            (ControlClient, {"socket_path": tmp_path / "none", "timeout_s": 1.0}),
        ]
        assert leaks(calls) == []
        assert function.bar_bytes(0) == 4096


def test_faults() -> None:
    with EmbeddedDevice() as device, DeviceFaults(device) as faults, ControlClient(device.socket_path) as client:
        faults.add("never-ready")  # number 1, which True is as well, may be cleared
        hit = faults.add("all-ones")
        with VfioUserFunction(device.socket_path, timeout_s=HANG_S) as function:
            function.read_bar(0, 0, 4)
        calls: list[Call] = [
            (DeviceFaults, {"device": device}),
            (lambda action, **values: faults.add(action, **values),
             {"action": "delay-completion", "queue": 1, "operation": 1062, "session": 1, "nth": 1, "ms": 1}),
            (hit.wait, {"hits": 1, "timeout_s": 0}),
            (client.add_fault, {"fault": hit.fault}),
            (client.wait_fault, {"number": hit.number, "hits": 1, "timeout_s": 0}),
            (client.clear_fault, {"number": 99_999}),
        ]  # fmt: skip
        assert leaks(calls) == []
        assert hit.hits == 1


def test_memory() -> None:
    with DmaArena(mmap.mmap(-1, 1 << 20), 0, lambda: None) as arena:
        calls: list[Call] = [
            (arena.allocate, {"size_bytes": 64, "alignment": 64}),
            (arena.allocate_pages, {"size_bytes": 64}),
        ]
        assert leaks(calls) == []


@pytest.mark.parametrize(
    ("kind", "builtin"),
    [
        (ArgumentError, ValueError),
        (ArgumentTypeError, TypeError),
        (errors.DeviceNotFoundError, FileNotFoundError),
        (errors.ConnectionLostError, ConnectionError),
        (errors.RequestRefusedError, OSError),
        (errors.ResourceError, OSError),
        (errors.ArenaFullError, MemoryError),
        (errors.ArenaRequestError, ValueError),
        (errors.BusTimeoutError, TimeoutError),
        (errors.CommandTimeoutError, TimeoutError),
        (errors.FaultNotFoundError, LookupError),
        (errors.FaultNotHitError, TimeoutError),
        (errors.ControllerTimeoutError, TimeoutError),
        (errors.SessionClosedError, ValueError),
        (errors.UriError, ValueError),
        (AttestationError, ValueError),
        (CertificateChainError, ValueError),
        (ResponseError, ValueError),
        (RequestError, MborEncodeError),
    ],
)
def test_each_is_what_the_language_would_raise(kind: type[Exception], builtin: type[Exception]) -> None:
    assert issubclass(kind, IhsmError)
    assert issubclass(kind, builtin)


def test_a_message_names_operation_and_argument() -> None:
    session, _ = client()
    unknown: Any = 77
    for call, text in (
        (lambda: session.hmac(KEY, "text"), "CryptoOperations.hmac: message: str, must be bytes"),  # type: ignore[arg-type]
        (lambda: session.open_key(1 << 16), "OpenKey: .*key_tag"),
        (lambda: session.generate_ecc_key(unknown, REQUEST), "generate_ecc_key: curve: 77 is no EccCurve"),
        (lambda: Credential(bytes(16), bytes(15)), "Credential: PIN: 15 bytes, must be 16"),
    ):
        with pytest.raises((ArgumentError, ArgumentTypeError, RequestError), match=text):
            call()


def test_a_certificate_is_not_loaded_for_this() -> None:
    with pytest.raises(CertificateChainError, match="file: "):
        load_certificates(b"\x30\x03\x02\x01\x00", "file")
    assert x509.__name__
