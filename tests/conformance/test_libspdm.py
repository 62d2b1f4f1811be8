# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""The responder is judged by DMTF's own requester, which is fetched and built when these tests first run."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import pytest

from ihsm_abi.spdm.algorithms import Aead, BaseAsym, BaseHash, Dhe
from ihsm_abi.spdm.codes import Capability as C
from ihsm_abi.spdm.codes import MeasurementOperation, SummaryType
from ihsm_abi.spdm.measurements import decode_record
from support.certificates import certificate
from support.libspdm import ERROR_PEER, LibspdmError, LibspdmRequester
from support.spdm_exchange import Attested, attested_device
from support.spdm_vendor import Protocol

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def device() -> Iterator[Attested]:
    with attested_device() as device:
        yield device


@pytest.fixture
def protocol() -> Protocol:
    return Protocol()


@pytest.fixture
def requester(device: Attested, protocol: Protocol) -> Iterator[LibspdmRequester]:
    requester = LibspdmRequester(device.exchange({(3, 7): protocol}), root=device.root)
    requester.connect()
    requester.digests()
    requester.certificate()
    yield requester
    requester.close()


def test_chain_challenge_and_measurements(requester: LibspdmRequester) -> None:
    requester.challenge(SummaryType.TCB)
    requester.challenge(SummaryType.NONE)
    requester.challenge(SummaryType.ALL)
    for raw in (False, True):
        count, record = requester.measurements(raw=raw)
        assert [block.index for block in decode_record(record, count)] == list(range(1, 37))
    _, record = requester.measurements(36)
    assert [block.index for block in decode_record(record, 1)] == [36]
    assert requester.measurements(MeasurementOperation.COUNT)[0] == 36


def test_sessions_one_after_the_other(requester: LibspdmRequester, protocol: Protocol) -> None:
    summary = requester.challenge(SummaryType.ALL)
    for _ in range(3):
        assert requester.start_session(SummaryType.ALL) == summary
        requester.measurements()
        requester.digests()
        requester.certificate()
        assert requester.vendor_defined(b"\x07abc") == b"\x07cba"
        requester.end_session()
    assert protocol.ended == 3


def test_measurements_one_by_one_with_one_signature(requester: LibspdmRequester) -> None:
    """Whatever comes between begins the series anew, as libspdm has it."""

    def ask_for_a_block_that_there_is_not() -> None:
        with pytest.raises(LibspdmError, match="get_measurement"):
            requester.measurements(99)

    for inside in (False, True):
        if inside:
            requester.start_session()
        for between in (None, requester.digests, ask_for_a_block_that_there_is_not):
            assert requester.measurements(MeasurementOperation.COUNT, signed=False)[0] == 36
            for index in range(1, 36):
                requester.measurements(index, signed=False)
            if between is not None:
                between()
            requester.measurements(36)


def test_digests_that_are_read_again_before_a_challenge(requester: LibspdmRequester) -> None:
    requester.digests()
    requester.challenge()
    requester.certificate()
    requester.start_session()
    requester.digests()
    requester.end_session()
    requester.challenge()


SESSIONS: Final = C.ENCRYPT | C.MAC | C.KEY_EX
EVERYTHING: Final = {
    "BASE_ASYM_ALGO": 0xFFF,
    "BASE_HASH_ALGO": 0x7F,
    "DHE_NAME_GROUP": 0x7F,
    "AEAD_CIPHER_SUITE": 0xF,
    "REQ_BASE_ASYM_ALG": 0xFFF,
    "OTHER_PARAMS_SUPPORT": 3,
}
CAPABLE: Final = SESSIONS | C.CERT | C.CHAL | C.ENCAP | C.HBEAT | C.KEY_UPD
"""As DMTF's conformance suite is."""
SERVED: Final[dict[str, dict[str, int]]] = {
    "offers everything": {**EVERYTHING, "CAPABILITY_FLAGS": CAPABLE},
    "can authenticate itself": {**EVERYTHING, "CAPABILITY_FLAGS": CAPABLE | C.MUT_AUTH},
    "can do so without encapsulated requests": {"CAPABILITY_FLAGS": SESSIONS | C.CERT | C.CHAL | C.MUT_AUTH},
    "has a pre-shared key": {"CAPABILITY_FLAGS": SESSIONS | C.PSK},
    "would shake hands in the clear": {"CAPABILITY_FLAGS": SESSIONS | C.HANDSHAKE_IN_THE_CLEAR},
    "takes chunks": {"CAPABILITY_FLAGS": SESSIONS | C.CHUNK},
    "takes chunks of 2600 bytes": {"CAPABILITY_FLAGS": SESSIONS | C.CHUNK, "transfer_bytes": 2600},
    "SHA-256": {"BASE_HASH_ALGO": BaseHash.SHA256},
    "SHA-512": {"BASE_HASH_ALGO": BaseHash.SHA512},
    "SHA-256 and SHA3-384": {"BASE_HASH_ALGO": BaseHash.SHA256 | BaseHash.SHA3_384},
    "takes long": {"CAPABILITY_CT_EXPONENT": 31},
}


@pytest.mark.parametrize("settings", SERVED.values(), ids=SERVED)
def test_requesters_of_other_kinds(device: Attested, settings: dict[str, int]) -> None:
    requester = LibspdmRequester(device.exchange(), root=device.root, **settings)
    requester.connect()
    requester.digests()
    requester.certificate()
    summary = requester.challenge()
    requester.measurements()
    assert requester.start_session() == summary
    requester.measurements()
    requester.end_session()
    chosen = [requester.chosen(name) for name in ("BASE_ASYM_ALGO", "DHE_NAME_GROUP", "AEAD_CIPHER_SUITE")]
    assert chosen == [BaseAsym.ECDSA_P384, Dhe.SECP384R1, Aead.AES_256_GCM]
    requester.close()


@pytest.mark.parametrize(
    "settings",
    [
        pytest.param({"CAPABILITY_FLAGS": 0}, id="no capability"),
        pytest.param({"CAPABILITY_FLAGS": C.CERT | C.CHAL}, id="answers challenges"),
        pytest.param({"CAPABILITY_FLAGS": C.KEY_EX | C.MAC}, id="does not encrypt"),
        pytest.param({"SECURED_MESSAGE_VERSION": 0x1000}, id="secured messages 1.0"),
    ],
)
def test_requesters_without_sessions(device: Attested, settings: dict[str, int]) -> None:
    requester = LibspdmRequester(device.exchange(), root=device.root, **settings)
    requester.connect()
    requester.digests()
    requester.certificate()
    requester.challenge()
    requester.measurements()
    with pytest.raises(LibspdmError, match="start_session"):
        requester.start_session()
    requester.measurements()
    requester.close()


@pytest.mark.parametrize(
    "settings",
    [
        pytest.param({"BASE_ASYM_ALGO": BaseAsym.ECDSA_P256}, id="signature"),
        pytest.param({"BASE_HASH_ALGO": BaseHash.SHA3_384}, id="hash"),
        pytest.param({"DHE_NAME_GROUP": Dhe.SECP256R1 | Dhe.SECP521R1}, id="group"),
        pytest.param({"AEAD_CIPHER_SUITE": Aead.AES_128_GCM | Aead.CHACHA20_POLY1305}, id="cipher"),
    ],
)
def test_requesters_with_whom_nothing_is_common(device: Attested, settings: dict[str, int]) -> None:
    requester = LibspdmRequester(device.exchange(), root=device.root, **settings)
    with pytest.raises(LibspdmError) as refused:
        requester.connect()
    assert refused.value.status == ERROR_PEER
    requester.close()


@pytest.mark.parametrize(("size", "served"), [(48, 1), (52, 2), (300, 4), (2200, 6), (2600, 6)])
def test_requesters_that_take_little(device: Attested, size: int, served: int) -> None:
    """The shorter answers of these."""
    requester = LibspdmRequester(device.exchange(), root=device.root, transfer_bytes=size)
    requester.connect()
    asked = (
        requester.certificate,
        requester.digests,
        requester.challenge,
        lambda: requester.measurements(14),
        lambda: requester.measurements(raw=True),
        requester.measurements,
    )
    for ask in asked[:served]:
        ask()
    for ask in asked[served:]:
        with pytest.raises(LibspdmError) as refused:
            ask()
        assert refused.value.status == ERROR_PEER
    requester.close()


def test_a_chain_of_another_root_is_refused(device: Attested) -> None:
    requester = LibspdmRequester(device.exchange(), root=certificate(0))
    requester.connect()
    requester.digests()
    with pytest.raises(LibspdmError, match="get_certificate"):
        requester.certificate()


def test_a_spoilt_measurement_is_noticed(device: Attested) -> None:
    """So that the judge is seen to judge."""
    exchange = device.exchange()
    honest = exchange.exchange

    def spoil(vendor: int, type: int, payload: bytes, timeout_s: float = 1.0) -> bytes:
        answer = bytearray(honest(vendor, type, payload, timeout_s))
        if answer[1] == 0x60:
            answer[20] ^= 1
        return bytes(answer)

    exchange.exchange = spoil  # type: ignore[method-assign]
    requester = LibspdmRequester(exchange, root=device.root)
    requester.connect()
    requester.digests()
    requester.certificate()
    requester.challenge()
    with pytest.raises(LibspdmError, match="get_measurement"):
        requester.measurements()
