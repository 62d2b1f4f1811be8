# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Which records a filter lets through, and which kinds a device need not record for it."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ihsm.trace.decoding import to_json, to_line
from ihsm.trace.filters import Filter, Filters
from ihsm.trace.records import (
    Completion,
    Doorbell,
    Entry,
    Interrupt,
    Lost,
    Record,
    RegisterRead,
    Request,
    Start,
    Unknown,
)
from ihsm_abi import json_text
from ihsm_abi.ddi import HmacReq, encode_request
from ihsm_abi.trace import DoorbellKind, LostWhere
from support.trace_records import RECORDS

CID = 0x1234
ENTRY = Entry(queue=1, slot=0, data=b"\0\0" + CID.to_bytes(2, "little") + bytes(60))
COMPLETION = Completion(queue=256, slot=0, vector=17, phase=1, data=b"\0\0" + CID.to_bytes(2, "little") + bytes(60))
REQUEST = Request(queue=1, cid=CID, length=9, message=encode_request(HmacReq(key_id=1, msg=b"")))
DOORBELL = Doorbell(offset=8, value=1, queue=1, which=DoorbellKind.SQ_TAIL)
INTERRUPT = Interrupt(vector=17)
READ = RegisterRead(region=0, offset=0x1C, width=4, value=1)
ALL = (ENTRY, COMPLETION, REQUEST, DOORBELL, INTERRUPT, READ)


@pytest.mark.parametrize(
    ("conditions", "expected"),
    [
        ([], ALL),
        (["entry,completion"], (ENTRY, COMPLETION)),
        (["kind=entry,completion"], (ENTRY, COMPLETION)),
        (["kind!=entry,completion"], (REQUEST, DOORBELL, INTERRUPT, READ)),
        (["queue=1"], (ENTRY, REQUEST, DOORBELL)),
        (["queue!=1"], (COMPLETION, INTERRUPT, READ)),
        (["queue=0x1", "kind!=doorbell"], (ENTRY, REQUEST)),
        ([f"cid={CID}"], (ENTRY, COMPLETION, REQUEST)),
        (["vector=17"], (COMPLETION, INTERRUPT)),
        (["region=0", "offset=0x1c"], (READ,)),
        (["operation=Hmac"], (REQUEST,)),
        (["operation=1077,1062"], (REQUEST,)),
        (["operation=EccSign"], ()),
    ],
)
def test_what_fits(conditions: list[str], expected: tuple[Record, ...]) -> None:
    filters = Filters(map(Filter.parse, conditions))
    assert tuple(record for record in ALL if filters.fit(record)) == expected
    for record in expected:
        name = record.kind.name.lower().replace("_", "-")
        assert filters.kinds is None or name in filters.kinds


def test_kinds_that_a_device_need_not_record() -> None:
    assert Filters([]).kinds is None
    assert Filters([Filter.parse("queue=1")]).kinds is None
    assert set(Filters([Filter.parse("entry,mark"), Filter.parse("kind!=mark")]).kinds or ()) == {
        "entry", "start", "lost",
    }  # fmt: skip


def test_what_is_missing_is_always_told() -> None:
    filters = Filters([Filter.parse("kind=mark"), Filter.parse("queue=7")])
    assert filters.fit(Lost(count=1, where=LostWhere.RING))
    assert filters.fit(Start(version=1, ready=0, software=""))


@given(RECORDS)
def test_every_record_has_a_line_and_an_object(record: Record) -> None:
    line = to_line(record)
    assert line.isprintable()
    assert json_text.parse(json_text.dump(to_json(record))) == to_json(record)


def test_a_kind_of_a_later_version() -> None:
    record = Unknown(number=30, content=b"abc")
    assert "kind-30" in to_line(record)
    assert to_json(record)["content"] == b"abc".hex()


@given(st.text(max_size=30))
def test_any_text_is_a_filter_or_refused(text: str) -> None:
    with contextlib.suppress(ValueError):
        Filter.parse(text)
