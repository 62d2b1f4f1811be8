# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""AES commands through a driver's node: pyca/cryptography is the judge."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from ihsm.bus import VfioUserFunction
from ihsm.chardev import NodeDevice
from ihsm.ddi import Session
from ihsm.driver import FastPathSession
from ihsm.driver.aes_batch import failed, gcm_entries, xts_entries
from ihsm.driver.aes_commands import pad_aad
from ihsm.errors import (
    AesCommandError,
    ArgumentError,
    ArgumentTypeError,
    AuthenticationFailedError,
    ControllerLostError,
    ControllerNotReadyError,
    IhsmError,
    QueueClosedError,
    QueueProtocolError,
    RequestRefusedError,
    ResourceError,
    SessionClosedError,
    UnsupportedDeviceError,
)
from ihsm_abi.aes_queue import GCM_SQE
from ihsm_abi.ddi import KeyClass
from ihsm_abi.uapi import InternalCode
from support.hsm_driver import Driver, driver_on
from support.hsm_program import CREDENTIAL, bulk_key
from support.ioctls import Script, aes_cqe
from support.nodes import another, node_of
from support.process import ServeProcess
from support.waiting import HANG_S
from userspace.chardev.test_device import provisioned

RAW = [bytes([number]) * 32 for number in (1, 2, 3)]
IV = bytes(range(12))


@dataclass
class Rig:
    """A client with a session, keys whose bytes are known, and the driver below."""

    driver: Driver
    node: NodeDevice
    session: Session
    gcm: int
    xts: tuple[int, int]

    @property
    def ids(self) -> FastPathSession:
        return self.session.fast_path


@pytest.fixture(scope="module")
def rig(server: ServeProcess) -> Iterator[Rig]:
    with (
        VfioUserFunction(server.paths[1], timeout_s=HANG_S) as function,
        driver_on(function) as driver,
        node_of(driver) as node,
        provisioned(node).open_session(CREDENTIAL) as session,
    ):
        gcm = bulk_key(session, RAW[0], KeyClass.AesGcmBulkUnapproved)
        first, second = (bulk_key(session, raw, KeyClass.AesXtsBulk) for raw in RAW[1:])
        yield Rig(driver, node, session, gcm, (first, second))
    assert [str(report) for report in driver.reports] == []


SIZES = [0, 1, 15, 16, 17, 32, 37, 4095, 4096, 4097, 70001]


@pytest.mark.parametrize("aad_bytes", [0, 1, 16, 17, 31, 32, 33, 64, 1000])
@pytest.mark.parametrize("size", SIZES)
def test_gcm(rig: Rig, size: int, aad_bytes: int) -> None:
    queue, text, aad = rig.node.aes_queues[0], os.urandom(size), os.urandom(aad_bytes)
    sealed = queue.gcm_encrypt(rig.ids, rig.gcm, text, aad=aad, iv=IV, timeout_s=HANG_S)
    assert sealed.ciphertext + sealed.tag == AESGCM(RAW[0]).encrypt(IV, text, aad)
    assert sealed.iv == IV
    opened = queue.gcm_decrypt(rig.ids, rig.gcm, sealed.ciphertext, sealed.tag, IV, aad=aad, timeout_s=HANG_S)
    assert opened.data == text
    wrong = bytes([sealed.tag[0] ^ 1]) + sealed.tag[1:]
    with pytest.raises(AuthenticationFailedError):
        queue.gcm_decrypt(rig.ids, rig.gcm, sealed.ciphertext, wrong, IV, aad=aad, timeout_s=HANG_S)


def test_an_iv_is_drawn(rig: Rig) -> None:
    queue = rig.node.aes_queues[0]
    ivs = {queue.gcm_encrypt(rig.ids, rig.gcm, b"text", timeout_s=HANG_S).iv for _ in range(3)}
    assert len(ivs) == 3


def xts(tweak: bytes, data: bytes, unit: int) -> bytes:
    parts = []
    for number, start in enumerate(range(0, len(data), unit)):
        value = (int.from_bytes(tweak, "little") + number) % (1 << 128)
        mode = modes.XTS(value.to_bytes(16, "little"))
        encryptor = Cipher(algorithms.AES(RAW[1] + RAW[2]), mode).encryptor()
        parts.append(encryptor.update(data[start : start + unit]))
    return b"".join(parts)


@pytest.mark.parametrize(("size", "unit"), [(16, 0), (512, 0), (2048, 512), (12288, 4096), (16384, 8192), (1 << 20, 0)])
def test_xts(rig: Rig, size: int, unit: int) -> None:
    queue, data, tweak = rig.node.aes_queues[0], os.urandom(size), os.urandom(16)
    sealed = queue.xts(rig.ids, rig.xts, tweak, data, decrypt=False, data_unit_bytes=unit, timeout_s=HANG_S).data
    assert sealed == xts(tweak, data, unit or size)
    again = queue.xts(rig.ids, rig.xts, tweak, sealed, decrypt=True, data_unit_bytes=unit, timeout_s=HANG_S)
    assert again.data == data


def test_coroutines(rig: Rig) -> None:
    queue = rig.node.aes_queues[0]

    async def work() -> list[bytes]:
        sealed = [
            queue.submit_gcm(rig.ids, rig.gcm, b"text", decrypt=False, iv=bytes([n]) * 12, timeout_s=HANG_S).awaited()
            for n in range(4)
        ]
        return [each.ciphertext for each in await asyncio.gather(*sealed)]

    expected = [AESGCM(RAW[0]).encrypt(bytes([n]) * 12, b"text", b"")[:-16] for n in range(4)]
    assert asyncio.run(work()) == expected


# -- batches -----------------------------------------------------------------------------------------------------------


@dataclass
class Held:
    released: int = 0

    def release(self) -> None:
        self.released += 1


@pytest.mark.parametrize("aad", [b"", b"aad", bytes(32)])
@pytest.mark.parametrize("size", [0, 5, 16, 100])
def test_a_gcm_batch(rig: Rig, size: int, aad: bytes) -> None:
    count, padded = 5, pad_aad(aad)
    stride = max(len(padded) + size, 1)
    memory = rig.node.allocate(count * stride)
    rows = memory.view.reshape(count, stride)
    texts = np.frombuffer(os.urandom(count * size), np.uint8).reshape(count, size)
    rows[:, : len(padded)] = np.frombuffer(padded, np.uint8)
    rows[:, len(padded) : len(padded) + size] = texts
    places = np.uint64(memory.iova) + np.uint64(stride) * np.arange(count, dtype=np.uint64)
    ivs = np.frombuffer(os.urandom(12 * count), np.uint8).reshape(count, 12)
    entries = gcm_entries(rig.ids, rig.gcm, places, places, size, decrypt=False, aad_bytes=len(aad), ivs=ivs)
    held = Held()
    done = rig.node.aes_queues[0].submit(entries, HANG_S, held, rig.ids).result()
    assert held.released == 1
    assert not len(failed(done))
    assert (done["iv"] == ivs).all()
    for row, text, iv, entry in zip(rows, texts, ivs, done, strict=True):
        expected = AESGCM(RAW[0]).encrypt(iv.tobytes(), text.tobytes(), aad)
        assert row[len(padded) : len(padded) + size].tobytes() + entry["tag"].tobytes() == expected
    rows[:, : len(padded)] = np.frombuffer(padded, np.uint8)
    tags = done["tag"].copy()
    tags[2, 0] ^= 1
    entries = gcm_entries(rig.ids, rig.gcm, places, places, size, decrypt=True, aad_bytes=len(aad), ivs=ivs, tags=tags)
    done = asyncio.run(rig.node.aes_queues[0].submit(entries, HANG_S).awaited())
    assert failed(done).tolist() == [2]
    assert (rows[3, len(padded) : len(padded) + size] == texts[3]).all()


def test_an_xts_batch(rig: Rig) -> None:
    count, size = 4, 1024
    source, target = rig.node.allocate(count * size), rig.node.allocate(count * size, 4096)
    assert target.iova % 4096 == 0
    source.view[:] = np.frombuffer(os.urandom(count * size), np.uint8)
    offsets = np.uint64(size) * np.arange(count, dtype=np.uint64)
    tweaks = np.frombuffer(os.urandom(16 * count), np.uint8).reshape(count, 16)
    entries = xts_entries(
        rig.ids, rig.xts, np.uint64(source.iova) + offsets, np.uint64(target.iova) + offsets, size, tweaks,
        decrypt=False, data_unit_bytes=512,
    )  # fmt: skip
    assert not len(failed(rig.node.aes_queues[0].submit(entries, HANG_S).result()))
    for number in range(count):
        data = source.view[number * size : (number + 1) * size].tobytes()
        assert target.view[number * size : (number + 1) * size].tobytes() == xts(tweaks[number].tobytes(), data, 512)
    source.release()
    target.release()


def test_batches_that_a_driver_cannot_take(rig: Rig) -> None:
    queue, held = rig.node.aes_queues[0], Held()
    memory = rig.node.allocate(64)
    place = np.array([memory.iova], np.uint64)
    entries = gcm_entries(rig.ids, rig.gcm, place, place, 37, decrypt=False)
    wrong = [entries.copy() for _ in range(2)]
    wrong[0]["src"]["type"] = 0x30
    wrong[1]["tail_dst_addr"] += 1
    for each in (*wrong, np.zeros(1, np.uint64), np.zeros((1, 1), GCM_SQE)):
        with pytest.raises(ArgumentError):
            queue.submit(each, HANG_S, held)
    assert held.released == 4


# -- what is refused ---------------------------------------------------------------------------------------------------


def encrypt(rig: Rig, session: FastPathSession | None = None, node: NodeDevice | None = None) -> None:
    queue = (node or rig.node).aes_queues[0]
    queue.gcm_encrypt(session or rig.ids, rig.gcm, b"text", iv=IV, timeout_s=HANG_S)


def test_a_status_of_the_device(rig: Rig) -> None:
    with pytest.raises(AesCommandError) as refused:
        rig.node.aes_queues[0].gcm_encrypt(rig.ids, 0xFFFF, b"text", iv=IV, timeout_s=HANG_S)
    assert (refused.value.sts, refused.value.err) == (2, 2)


def test_a_session_that_is_not_open_here(rig: Rig) -> None:
    with another(rig.driver) as other, pytest.raises(SessionClosedError, match="not open here"):
        encrypt(rig, node=other)
    with pytest.raises(SessionClosedError):
        encrypt(rig, FastPathSession(7, 0))
    with pytest.raises(RequestRefusedError, match="SHORTAPP_ID"):
        encrypt(rig, FastPathSession(rig.session.session_id, 9))


def test_a_session_that_ended_sends_nothing(rig: Rig) -> None:
    with rig.session.partition.open_session(CREDENTIAL) as session:  # type: ignore[attr-defined]
        encrypt(rig, session.fast_path)
        pending = rig.node.aes_queues[0].submit_gcm(
            session.fast_path, rig.gcm, b"text", decrypt=False, iv=IV, timeout_s=HANG_S
        )
    with pytest.raises(SessionClosedError, match="closed"):
        pending.result()
    with pytest.raises(SessionClosedError):
        encrypt(rig, session.fast_path)
    with pytest.raises(SessionClosedError):
        rig.node.aes_queues[0].submit(np.zeros(1, GCM_SQE), HANG_S, None, session.fast_path)


def test_wrong_arguments(rig: Rig) -> None:
    queue = rig.node.aes_queues[0]
    with pytest.raises(ArgumentTypeError):
        queue.gcm_encrypt(rig.ids, rig.gcm, "text", iv=IV, timeout_s=HANG_S)  # type: ignore[arg-type]
    with pytest.raises(ArgumentError):
        queue.submit_gcm(rig.ids, rig.gcm, b"", decrypt=False, iv=IV, tag=bytes(16), timeout_s=HANG_S)
    with pytest.raises(ArgumentError, match="length"):
        queue.xts(rig.ids, rig.xts, bytes(16), bytes(500), decrypt=False, data_unit_bytes=512, timeout_s=HANG_S)
    with pytest.raises(ArgumentError, match="length"):
        queue.xts(rig.ids, rig.xts, bytes(16), b"", decrypt=False, timeout_s=HANG_S)


ENDS: dict[InternalCode, type[IhsmError]] = {
    InternalCode.SUCCESS: QueueClosedError,
    InternalCode.ABORTED: QueueClosedError,
    InternalCode.ABORT_IN_PROGRESS: ControllerNotReadyError,
    InternalCode.QSELECT_FAILED: ControllerNotReadyError,
    InternalCode.QDISABLED: QueueClosedError,
    InternalCode.UNDEFINED: QueueClosedError,
}


@pytest.mark.parametrize("code", ENDS, ids=[code.name for code in ENDS])
@pytest.mark.parametrize("batch", [False, True])
def test_a_command_that_ends_in_the_driver(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, code: InternalCode, batch: bool
) -> None:
    """The ioctl succeeds all the same; one that timed out and completed late seems to have succeeded itself."""
    script = Script()
    script.end(code, errno.EAGAIN)
    monkeypatch.setattr(rig.driver.controller, "execute", script)
    memory, held = rig.node.allocate(64), Held()
    place = np.array([memory.iova], np.uint64)
    entries = gcm_entries(rig.ids, rig.gcm, place, place, 37, decrypt=False)
    pending = rig.node.aes_queues[0].submit(entries, HANG_S, held) if batch else None
    with pytest.raises(ENDS[code]) as refused:
        pending.result() if pending else encrypt(rig)
    assert type(refused.value) is ENDS[code]
    assert held.released == batch


@pytest.mark.parametrize("code", [InternalCode.ABORTED, InternalCode.QSELECT_FAILED])
def test_a_driver_that_tells(server: ServeProcess, monkeypatch: pytest.MonkeyPatch, code: InternalCode) -> None:
    """Without its quirks, what became of a command is what the ioctl says."""
    quirks = {"aes_returns_uncopied": False, "aes_shows_internal_code": False}
    with (
        VfioUserFunction(server.paths[0], timeout_s=HANG_S) as function,
        driver_on(function, quirks) as driver,
        node_of(driver) as node,
        provisioned(node).open_session(CREDENTIAL) as session,
        monkeypatch.context() as patch,
    ):
        script = Script()
        script.end(code, errno.EAGAIN)
        patch.setattr(driver.controller, "execute", script)
        with pytest.raises(ENDS[code]):
            node.aes_queues[0].gcm_encrypt(session.fast_path, 1, b"text", timeout_s=HANG_S)


def test_a_completion_that_cannot_be(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    script = Script()
    script.complete(aes_cqe(len=1 << 20))
    monkeypatch.setattr(rig.driver.controller, "execute", script)
    with pytest.raises(QueueProtocolError):
        encrypt(rig)


def test_no_memory(rig: Rig) -> None:
    """The driver cannot pin pages that there are not."""
    gone = np.array([4096], np.uint64)
    entries = gcm_entries(rig.ids, rig.gcm, gone, gone, 64, decrypt=False)
    with pytest.raises(ResourceError):
        rig.node.aes_queues[0].submit(entries, HANG_S).result()


def test_the_controller_is_not_ready(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(rig.driver.controller, "state", None)
        with pytest.raises(ControllerNotReadyError):
            encrypt(rig)
    monkeypatch.setattr(rig.driver.controller, "abort_in_progress", True)
    with pytest.raises(ControllerNotReadyError):
        encrypt(rig)


def test_no_aes_queues(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not NodeDevice(
        "/dev/azihsm0", calls=rig.node._calls, options=type(rig.node.options)(aes_queues=0)
    ).aes_queues
    monkeypatch.setattr(rig.driver.controller.aes_pool, "count", 0)
    with pytest.raises(UnsupportedDeviceError):
        encrypt(rig)


def test_after_the_reset_of_another_program_no_key_is_used(driver: Driver) -> None:
    """Its number may be that of the other program's key by then, and the driver lets the session go on."""
    with node_of(driver) as node, another(driver) as other:
        session = provisioned(node).open_session(CREDENTIAL)
        number = bulk_key(session, RAW[0], KeyClass.AesGcmBulkUnapproved)
        other.reset(subsystem=True)
        theirs = provisioned(other).open_session(CREDENTIAL)
        assert bulk_key(theirs, RAW[1], KeyClass.AesGcmBulkUnapproved) == number
        with pytest.raises(ControllerLostError):
            node.aes_queues[0].gcm_encrypt(session.fast_path, number, b"text", timeout_s=HANG_S)


def test_a_closed_device(driver: Driver) -> None:
    node = node_of(driver)
    session = provisioned(node).open_session(CREDENTIAL)
    entries = np.zeros(1, GCM_SQE)
    node.close()
    held = Held()
    with pytest.raises(QueueClosedError):
        node.aes_queues[0].submit(entries, HANG_S, held)
    assert held.released == 1
    with pytest.raises(QueueClosedError):
        node.aes_queues[0].gcm_encrypt(session.fast_path, 1, b"text", timeout_s=HANG_S)
    assert node.aes_queues[0].outstanding == 0
