# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""AES through the rings of a real device, one-shot and in batches; another library is the judge."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given, settings
from hypothesis import strategies as st

from ihsm.bus import VfioUserFunction
from ihsm.ddi import Credential, Key, KeyRequest, Partition, Session, SoftwareTrustAnchor
from ihsm.driver import Controller, FastPathSession
from ihsm.driver.aes_batch import failed, gcm_entries, xts_entries
from ihsm.embedded import EmbeddedDevice
from ihsm.errors import AesCommandError, AuthenticationFailedError, SessionClosedError
from ihsm_abi.ddi import AesKeySize, KeyClass, KeyType, KeyUsage
from ihsm_abi.ddi.limits import BK3_BYTES
from support.waiting import HANG_S

CREDENTIAL = Credential(b"application id 1", b"personal number.")
ENCRYPT = KeyRequest(KeyUsage.EncryptDecrypt)


@dataclass
class Keys:
    """Fast-path ids of imported keys and their bytes."""

    controller: Controller
    owner: Session
    session: FastPathSession
    gcm: int
    gcm_raw: bytes
    xts: tuple[int, int]
    xts_raw: bytes


@pytest.fixture(scope="module")
def keys() -> Iterator[Keys]:
    with (
        EmbeddedDevice() as device,
        VfioUserFunction(device.socket_path) as function,
        Controller(function) as controller,
    ):
        partition = Partition(controller)
        masked = partition.init_bk3(os.urandom(BK3_BYTES)).masked_bk3
        anchor = SoftwareTrustAnchor(ec.generate_private_key(ec.SECP384R1()))
        partition.establish_credential(CREDENTIAL, masked, anchor)
        with partition.open_session(CREDENTIAL) as session:
            raw = [os.urandom(32) for _ in range(3)]
            gcm = fast_path_id(session, raw[0], KeyClass.AesGcmBulkUnapproved)
            xts = tuple(fast_path_id(session, key, KeyClass.AesXtsBulk) for key in raw[1:])
            yield Keys(controller, session, session.fast_path, gcm, raw[0], (xts[0], xts[1]), raw[1] + raw[2])


def fast_path_id(session: Session, raw: bytes, key_class: KeyClass) -> int:
    key = session.import_key(raw, key_class, ENCRYPT)
    assert key.bulk_key_id is not None
    return key.bulk_key_id


aads = st.binary(max_size=100)
texts = st.one_of(st.binary(min_size=1, max_size=100), st.integers(1, 20_000).map(os.urandom))
any_test = settings(max_examples=60)


@given(aad=aads, text=texts, iv=st.binary(min_size=12, max_size=12))
@any_test
def test_gcm_agrees_with_another_library(keys: Keys, aad: bytes, text: bytes, iv: bytes) -> None:
    queue = keys.controller.aes_queues[0]
    sealed = queue.gcm_encrypt(keys.session, keys.gcm, text, aad=aad, iv=iv, timeout_s=HANG_S)
    assert sealed.iv == iv
    assert sealed.ciphertext + sealed.tag == AESGCM(keys.gcm_raw).encrypt(iv, text, aad)
    opened = queue.gcm_decrypt(keys.session, keys.gcm, sealed.ciphertext, sealed.tag, iv, aad=aad, timeout_s=HANG_S)
    assert opened.data == text


@given(aad=aads, text=st.binary(min_size=1, max_size=100), bit=st.integers(0, 127))
@any_test
def test_a_changed_tag_is_an_authentication_failure(keys: Keys, aad: bytes, text: bytes, bit: int) -> None:
    queue = keys.controller.aes_queues[1]
    iv = bytes(12)
    sealed = queue.gcm_encrypt(keys.session, keys.gcm, text, aad=aad, iv=iv, timeout_s=HANG_S)
    tag = (int.from_bytes(sealed.tag, "big") ^ 1 << bit).to_bytes(16, "big")
    with pytest.raises(AuthenticationFailedError):
        queue.gcm_decrypt(keys.session, keys.gcm, sealed.ciphertext, tag, iv, aad=aad, timeout_s=HANG_S)


def xts_reference(keys: Keys, tweak: int, data: bytes, unit: int) -> bytes:
    out = b""
    for number, start in enumerate(range(0, len(data), unit)):
        block = ((tweak + number) % (1 << 128)).to_bytes(16, "little")
        encryptor = Cipher(algorithms.AES(keys.xts_raw), modes.XTS(block)).encryptor()
        out += encryptor.update(data[start : start + unit]) + encryptor.finalize()
    return out


@pytest.mark.parametrize(
    ("unit", "size"), [(0, 16), (0, 8192), (0, 1 << 20), (512, 4096), (4096, 16384), (8192, 16384)]
)
def test_xts_agrees_with_another_library(keys: Keys, unit: int, size: int) -> None:
    queue = keys.controller.aes_queues[0]
    data, tweak = os.urandom(size), (1 << 128) - 2
    sealed = queue.xts(
        keys.session, keys.xts, tweak.to_bytes(16, "little"), data,
        decrypt=False, data_unit_bytes=unit, timeout_s=HANG_S,
    )  # fmt: skip
    assert sealed.data == xts_reference(keys, tweak, data, unit or size)
    opened = queue.xts(
        keys.session, keys.xts, tweak.to_bytes(16, "little"), sealed.data,
        decrypt=True, data_unit_bytes=unit, timeout_s=HANG_S,
    )  # fmt: skip
    assert opened.data == data


@pytest.mark.parametrize(("text", "aad"), [(64, 0), (37, 20), (5, 0), (4096, 13)])
def test_a_gcm_batch_in_place(keys: Keys, text: int, aad: int) -> None:
    """300 commands, more than the ring holds, on buffers in DMA memory."""
    controller, count = keys.controller, 300
    room = -(-aad // 32) * 32
    stride = room + -(-text // 64) * 64
    with controller.allocate(count * stride) as memory:
        plain = np.frombuffer(os.urandom(count * stride), np.uint8).reshape(count, stride).copy()
        plain[:, :room] = 0  # all-zero AAD is its own padding
        memory.view[:] = plain.reshape(-1)
        places = memory.iova + np.arange(count, dtype=np.uint64) * stride
        ivs = np.frombuffer(os.urandom(12 * count), np.uint8).reshape(count, 12)
        entries = gcm_entries(keys.session, keys.gcm, places, places, text, decrypt=False, aad_bytes=aad, ivs=ivs)
        completions = controller.aes_queues[0].submit(entries, HANG_S).result()
        assert not len(failed(completions))
        result = memory.view.reshape(count, stride)
        for number in range(count):
            expected = AESGCM(keys.gcm_raw).encrypt(
                ivs[number].tobytes(), plain[number, room : room + text].tobytes(), bytes(aad)
            )
            assert result[number, room : room + text].tobytes() + completions["tag"][number].tobytes() == expected
        entries = gcm_entries(
            keys.session, keys.gcm, places, places, text,
            decrypt=True, aad_bytes=aad, ivs=ivs, tags=completions["tag"],
        )  # fmt: skip
        completions = controller.aes_queues[1].submit(entries, HANG_S).future().result(HANG_S)
        assert not len(failed(completions))
        assert (memory.view.reshape(count, stride)[:, room : room + text] == plain[:, room : room + text]).all()


def test_an_xts_batch(keys: Keys) -> None:
    controller, count, size = keys.controller, 50, 512
    with controller.allocate(2 * count * size) as memory:
        data = os.urandom(count * size)
        memory.view[: count * size] = np.frombuffer(data, np.uint8)
        sources = memory.iova + np.arange(count, dtype=np.uint64) * size
        tweaks = np.zeros((count, 16), np.uint8)
        tweaks[:, 0] = range(count)
        targets = sources + count * size
        entries = xts_entries(keys.session, keys.xts, sources, targets, size, tweaks, decrypt=False)
        assert not len(failed(controller.aes_queues[0].submit(entries, HANG_S).result()))
        assert memory.view[count * size :].tobytes() == xts_reference(keys, 0, data, size)


def test_failures_of_a_batch_are_found(keys: Keys) -> None:
    controller = keys.controller
    with controller.allocate(64) as memory:
        places = np.full(3, memory.iova, np.uint64)
        entries = gcm_entries(keys.session, [keys.gcm, 0xFFFF, keys.gcm], places, places, 16, decrypt=False)
        assert failed(controller.aes_queues[0].submit(entries, HANG_S).result()).tolist() == [1]


def test_another_session_id_is_of_no_use_for_a_session_key(keys: Keys) -> None:
    wrong = FastPathSession(keys.session.session_id, keys.session.short_app_id ^ 1)
    with pytest.raises(AesCommandError, match="KEY_APP"):
        keys.controller.aes_queues[0].gcm_encrypt(wrong, keys.gcm, b"text", iv=bytes(12), timeout_s=HANG_S)


@pytest.mark.parametrize("size", [AesKeySize.AesGcmBulk256, AesKeySize.AesGcmBulk256Unapproved])
def test_an_iv_is_used_once_and_returned(keys: Keys, size: AesKeySize) -> None:
    """The default profile has the device take the client's IV for approved keys, too."""
    queue, made = keys.controller.aes_queues[0], keys.owner.generate_aes_key(size, ENCRYPT)
    assert made.bulk_key_id is not None
    sealed = [queue.gcm_encrypt(keys.session, made.bulk_key_id, b"text", timeout_s=HANG_S) for _ in range(20)]
    assert len({one.iv for one in sealed}) == len({one.ciphertext for one in sealed}) == 20
    for one in sealed:
        opened = queue.gcm_decrypt(keys.session, made.bulk_key_id, one.ciphertext, one.tag, one.iv, timeout_s=HANG_S)
        assert opened.data == b"text"
    keys.owner.delete_key(made)


def test_a_closed_session_encrypts_nothing(keys: Keys) -> None:
    """The client sees to it: a device goes by the key, whose application the ids still name (spec 05 §17.1)."""
    queue = keys.controller.aes_queues[0]
    with keys.owner.partition.open_session(CREDENTIAL) as other:
        ids = other.fast_path
        queue.gcm_encrypt(ids, keys.gcm, b"text", timeout_s=HANG_S)
    assert ids.ended
    with pytest.raises(SessionClosedError):
        queue.gcm_encrypt(ids, keys.gcm, b"text", timeout_s=HANG_S)
    with pytest.raises(SessionClosedError, match="HmacReq: session 1 is closed"):
        other.hmac(Key(1, KeyType.HmacSha256), b"message")
    by_hand = FastPathSession(other.session_id, other.short_app_id)
    assert queue.gcm_encrypt(by_hand, keys.gcm, b"text", timeout_s=HANG_S).tag


def test_buffers_come_back(keys: Keys) -> None:
    free = keys.controller.arena.free_bytes
    queue = keys.controller.aes_queues[0]
    for _ in range(50):
        queue.gcm_encrypt(keys.session, keys.gcm, bytes(100_000), iv=bytes(12), timeout_s=HANG_S)
        with pytest.raises(AesCommandError):
            queue.gcm_encrypt(keys.session, 0xFFFF, bytes(100_000), iv=bytes(12), timeout_s=HANG_S)
    assert keys.controller.arena.free_bytes == free
