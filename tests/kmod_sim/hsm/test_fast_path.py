# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""AES commands of a program, through the node to the device and back (spec 02 A.7, C, H.4 to H.10)."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher as PycaCipher
from cryptography.hazmat.primitives.ciphers import algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given, settings
from hypothesis import strategies as st

from ihsm.bus import VfioUserFunction
from ihsm.ddi import Session
from ihsm_abi.admin import Psf
from ihsm_abi.aes_queue import AES_CQE, GCM_SQE, XTS_SQE, AesAttr, Cipher, GcmError
from ihsm_abi.ddi import KeyClass
from support.aes_model import padded_aad
from support.bent_function import BentFunction
from support.hsm_driver import Driver, driver_on
from support.hsm_program import CREDENTIAL, Sent, bulk_key, program, provisioned
from support.ioctls import KEPT, Caller, gcm_command, xts_command
from support.process import serve
from support.user_pages import PAGE, USABLE, UserPages
from support.waiting import HANG_S

Covers = Callable[..., None]
DATA = json.loads((Path(__file__).parents[2] / "data" / "fast-path-examples.json").read_text())
CLASSES = {
    "GCM_APPROVED": KeyClass.AesGcmBulk, "GCM_UNAPPROVED": KeyClass.AesGcmBulkUnapproved, "XTS": KeyClass.AesXtsBulk,
}  # fmt: skip
EXAMPLE_SESSION = 3
GCM_KEY, XTS_KEYS = "18", ("19", "20")


@dataclass
class FastPath:
    """A program with a session in which the keys of the examples are; numbers by those of the examples."""

    driver: Driver
    caller: Caller
    session: Session
    numbers: dict[str, int]

    def ids(self) -> dict[str, int]:
        """What each command of the session has."""
        return {"session_id": self.session.session_id, "short_app_id": self.session.short_app_id}

    def gcm(self, data: bytes, aad: bytes, **fields: Any) -> tuple[Any, bytes]:
        """A command of the unapproved key; the answer, and the destination without AAD."""
        source = np.frombuffer(bytearray(padded_aad(aad) + data), np.uint8)
        destination = np.zeros(source.size, np.uint8)
        record = gcm_command(source.ctypes.data, destination.ctypes.data, **self.ids())
        record["src_len"] = record["dst_len"] = source.size
        record["actual_aad_data_len"], record["aligned_aad_len"] = len(aad), len(padded_aad(aad))
        record["key_id"], record["enable_gcm_workaround"] = self.numbers[GCM_KEY], 1
        for name, value in fields.items():
            record[name] = np.frombuffer(value, np.uint8) if isinstance(value, bytes) else value
        result = self.caller.aes(record)
        assert (result.error, result.value) == (0, 0)
        return result.answer, destination[len(padded_aad(aad)) :].tobytes()

    def xts(self, source: int, destination: int, size: int, **fields: int) -> Any:
        """A command of the XTS keys with tweak 5."""
        record = xts_command(source, destination, src_len=size, dst_len=size, **self.ids(), **fields)
        record["key_id1"], record["key_id2"] = (self.numbers[key] for key in XTS_KEYS)
        record["tweak"][0, 0] = 5
        result = self.caller.aes(record)
        assert (result.error, result.value) == (0, 0)
        return result.answer


def fast_path_of(driver: Driver) -> FastPath:
    """Provision the device and bring the keys in."""
    caller = program(driver)
    session = provisioned(caller).open_session(CREDENTIAL)
    numbers = {
        number: bulk_key(session, bytes.fromhex(key["key"]), CLASSES[key["type"]])
        for number, key in DATA["keys"].items()
    }
    return FastPath(driver, caller, session, numbers)


@pytest.fixture(scope="module")
def fast_path(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FastPath]:
    with (
        serve("--socket", str(tmp_path_factory.mktemp("aes") / "s"), "--fips") as server,
        VfioUserFunction(server.paths[0], timeout_s=HANG_S) as function,
        driver_on(function) as driver,
    ):
        yield fast_path_of(driver)
        assert driver.reports == []


def without_what_differs(entry: bytes, cipher: Cipher, *, keeps_iv: bool) -> bytes:
    """A queue entry without addresses, command id, and the numbers of session, keys and drawn IVs."""
    sqe = np.frombuffer(bytearray(entry), GCM_SQE if cipher is Cipher.GCM else XTS_SQE)
    for name in ("cmd_id", "session_id", "key_id", "key_id1", "key_id2", "tail_src_addr", "tail_dst_addr"):
        if name in (sqe.dtype.names or ()):
            sqe[name] = 0
    sqe["src"]["addr"] = sqe["dst"]["addr"] = 0
    if cipher is Cipher.GCM and not keeps_iv:
        sqe["iv"] = 0
    return sqe.tobytes()


@pytest.mark.parametrize("example", DATA["examples"], ids=lambda example: example["name"])
def test_worked_examples(
    fast_path: FastPath, monkeypatch: pytest.MonkeyPatch, covers: Covers, example: dict[str, Any]
) -> None:
    raw = bytes.fromhex(example["sqe"])
    cipher = Cipher(AesAttr(np.frombuffer(raw, GCM_SQE)[0]["attr"]).cipher)
    sqe = np.frombuffer(raw, GCM_SQE if cipher is Cipher.GCM else XTS_SQE)[0]
    cqe = np.frombuffer(bytes.fromhex(example["cqe"]), AES_CQE)[0]
    text = bytes.fromhex(example["source"] + example.get("tail", ""))
    pages = UserPages(USABLE, USABLE)
    source, destination = pages.put(0x100, text), pages.put(PAGE + 0xA00, bytes([KEPT]) * len(text))
    usual: dict[str, Any] = {"src_len": len(text), "dst_len": len(text), "op_code": AesAttr(sqe["attr"]).decrypt}
    sent = Sent(fast_path.driver.controller, monkeypatch)
    if cipher is Cipher.GCM:
        iv = bytes.fromhex(example["device_iv"]) if "device_iv" in example else sqe["iv"].tobytes()
        record = gcm_command(source, destination, **usual, **fast_path.ids(), enable_gcm_workaround=1)
        record["key_id"] = fast_path.numbers[str(sqe["key_id"])]
        record["tag"], record["init_vector"] = sqe["tag"], np.frombuffer(iv, np.uint8)
        record["actual_aad_data_len"], record["aligned_aad_len"] = sqe["actual_aad_len"], sqe["aligned_aad_len"]
    else:
        record = xts_command(source, destination, **usual, **fast_path.ids())
        record["data_unit_len"], record["tweak"] = AesAttr(sqe["attr"]).dul, sqe["tweak"]
        record["key_id1"], record["key_id2"] = (fast_path.numbers[str(sqe[name])] for name in ("key_id1", "key_id2"))
    result = fast_path.caller.aes(record)
    assert (result.error, result.value) == (0, 0)

    expected = without_what_differs(raw, cipher, keeps_iv="device_iv" not in example)
    assert without_what_differs(sent.entries[0], cipher, keeps_iv="device_iv" not in example) == expected
    status = Psf(cqe["psf"]).status
    assert (result.answer["result"], result.answer["extended_status"]) == (status, cqe["err"])
    assert result.answer["fips_approved"] == cqe["fips_approved"]
    output = pages.get(PAGE + 0xA00, len(text))
    if status:
        assert result.answer["byte_count"] == 0
        assert result.answer["cmd_spec"].tobytes() == bytes([KEPT]) * 16
    else:
        assert result.answer["byte_count"] == len(text)
        if cipher is Cipher.XTS:
            assert sha256(output).hexdigest() == example["sha256"]
        else:
            aad = int(sqe["aligned_aad_len"])
            assert output[aad:].hex() == example["destination"] + example.get("tail_result", "")
        if cipher is Cipher.GCM and not usual["op_code"]:
            assert result.answer["cmd_spec"].tobytes() == cqe["tag"].tobytes()
            assert result.answer["iv_from_fw"].tobytes() == cqe["iv"].tobytes()
    covers("kmod/A.4/gcm" if cipher is Cipher.GCM else "kmod/A.4/xts")


@given(aad=st.binary(max_size=70), text=st.binary(min_size=1, max_size=100), iv=st.binary(min_size=12, max_size=12))
@settings(max_examples=40)
def test_gcm_agrees_with_another_library(fast_path: FastPath, aad: bytes, text: bytes, iv: bytes) -> None:
    key = AESGCM(bytes.fromhex(DATA["keys"][GCM_KEY]["key"]))
    answer, ciphertext = fast_path.gcm(text, aad, init_vector=iv)
    assert answer["extended_status"] == 0
    assert ciphertext + answer["cmd_spec"].tobytes() == key.encrypt(iv, text, aad)
    back, plaintext = fast_path.gcm(ciphertext, aad, init_vector=iv, tag=answer["cmd_spec"].tobytes(), op_code=1)
    assert (back["extended_status"], plaintext) == (0, text)


def xts_reference(data: bytes) -> bytes:
    key = b"".join(bytes.fromhex(DATA["keys"][number]["key"]) for number in XTS_KEYS)
    encryptor = PycaCipher(algorithms.AES(key), modes.XTS((5).to_bytes(16, "little"))).encryptor()
    return encryptor.update(data) + encryptor.finalize()


@pytest.mark.parametrize(("pages", "offset"), [(255, 0), (255, 16), (600, 256)])
def test_lists_of_several_segments(fast_path: FastPath, pages: int, offset: int) -> None:
    memory = UserPages(*[USABLE] * (2 * pages + 1))
    data = os.urandom(pages * PAGE - offset)
    source = memory.put(offset, data)
    answer = fast_path.xts(source, memory.address + (pages + 1) * PAGE - offset, len(data))
    assert (answer["result"], answer["extended_status"], answer["byte_count"]) == (0, 0, len(data))
    assert memory.get((pages + 1) * PAGE - offset, len(data)) == xts_reference(data)


def test_in_place(fast_path: FastPath) -> None:
    memory, data = UserPages(USABLE, USABLE), os.urandom(PAGE)
    address = memory.put(0x10, data)
    assert fast_path.xts(address, address, PAGE)["extended_status"] == 0
    assert memory.get(0x10, PAGE) == xts_reference(data)


def test_what_the_device_refuses_leaves_the_destination(fast_path: FastPath) -> None:
    """20 bytes are one data unit for the driver, and no whole blocks for the device."""
    memory = UserPages(USABLE)
    memory.put(0, bytes(range(64)))
    answer = fast_path.xts(memory.address, memory.address + 32, 20)
    assert (answer["result"], answer["extended_status"], answer["byte_count"]) == (1, 0xC, 0)
    assert memory.get(0, 64) == bytes(range(64))


def test_a_tail_without_the_workaround(fast_path: FastPath) -> None:
    answer, _ = fast_path.gcm(bytes(37), b"", enable_gcm_workaround=0)
    assert (answer["result"], answer["extended_status"]) == (2, GcmError.LENGTH_ALIGNMENT)


def test_each_mapping_on_its_own(function: BentFunction) -> None:
    """With `dma="strict"` the device reaches nothing that is not lent to it at the moment."""
    with driver_on(function, dma="strict") as driver:
        fast_path = fast_path_of(driver)
        text, iv = bytes(range(37)), bytes(12)
        answer, ciphertext = fast_path.gcm(text, b"aad", init_vector=iv)
        key = AESGCM(bytes.fromhex(DATA["keys"][GCM_KEY]["key"]))
        assert ciphertext + answer["cmd_spec"].tobytes() == key.encrypt(iv, text, b"aad")
        memory, data = UserPages(*[USABLE] * 4), os.urandom(PAGE)
        source = memory.put(0x10, data)
        assert fast_path.xts(source, memory.address + 2 * PAGE + 0x20, PAGE)["extended_status"] == 0
        assert memory.get(2 * PAGE + 0x20, PAGE) == xts_reference(data)
        driver.unbind()
        assert driver.reports == []
