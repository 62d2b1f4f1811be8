# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""The responder is judged by DMTF's own requester, which is fetched and built when these tests first run."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from ihsm_abi.spdm.codes import MeasurementOperation, SummaryType
from ihsm_abi.spdm.measurements import decode_record
from support.certificates import certificate
from support.libspdm import LibspdmError, LibspdmRequester
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
