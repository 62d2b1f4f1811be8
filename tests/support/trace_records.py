# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Records of traces that hypothesis makes, of every kind."""

from dataclasses import fields
from typing import Any

from hypothesis import strategies as st

from ihsm.trace.records import TYPES, Record
from ihsm_abi.trace import BODIES, NO_QUEUE

_TEXTS = st.binary(max_size=60).map(lambda data: data.decode("utf-8", "surrogateescape"))


def _values(cls: type[Record], name: str) -> st.SearchStrategy[Any]:
    if name == cls.payload_field:
        return _TEXTS if cls.is_text else st.binary(max_size=200)
    bits = 64 if name == "time_ns" else 16 if name == "function" else 8 * BODIES[cls.kind][name].itemsize
    if name in cls.enums:
        made: Any = cls.enums[name]
        return st.sampled_from(list(made))
    numbers = st.integers(0, (1 << bits) - 1)
    if name in cls.optional:
        return st.none() | numbers.filter(lambda value: value != NO_QUEUE)
    return numbers


def records_of(cls: type[Record]) -> st.SearchStrategy[Record]:
    """Any record of a class."""
    return st.builds(cls, **{field.name: _values(cls, field.name) for field in fields(cls)})


RECORDS = st.one_of([records_of(cls) for cls in TYPES.values()])
