# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""What is in a record, field by field: the queue entry, or the message, that it carries. As text and as JSON."""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime
from enum import IntEnum, IntFlag
from typing import Any, Final

from ihsm.trace.records import Completion, Entry, Message, Record, RegisterAccess, Request, Response, Unknown
from ihsm_abi.ddi import DdiOp, decode_request_header, decode_response_header
from ihsm_abi.mbor import MborDecodeError
from ihsm_abi.pci import Bar
from ihsm_abi.registers import Register
from ihsm_abi.trace import CONFIG_REGION
from ihsm_abi.trace_fields import Layout, completion_layout, entry_layout, fields_of

Fields = dict[str, Any]
"""By dotted name, integers and bytes; members of enumerations where a value has a name."""
_COMMON: Final = frozenset({"time_ns", "function", "data", "message", "content"})
_REGIONS: Final = {Bar.REGISTERS: "registers", Bar.DOORBELLS: "doorbells", Bar.MSIX: "msix", CONFIG_REGION: "config"}


def layout_of(record: Record) -> Layout | None:
    """The layout of the queue entry that a record carries; None if it carries none that is as long as it must be."""
    if isinstance(record, Entry):
        return entry_layout(record.queue, record.data)
    if isinstance(record, Completion):
        return completion_layout(record.queue, record.data)
    return None


def entry_fields(record: Record) -> Fields:
    """Fields of the queue entry that a record carries, under names such as `hsm_sqe.session_id`."""
    layout = layout_of(record)
    if layout is None or not isinstance(record, Entry | Completion):
        return {}
    found: Fields = {}
    for field in fields_of(layout):
        value = field.read(record.data)
        if field.values is not None and isinstance(value, int) and value in field.values._value2member_map_:
            value = field.values(value)
        found[f"{layout.name}.{field.path}"] = value
    return found


def header_fields(record: Record) -> Fields:
    """Header of the message that a record carries, under names such as `ddi.op`; absent where there is none."""
    try:
        if isinstance(record, Request):
            request, _ = decode_request_header(record.message)
            return _present({"ddi.op": request.op, "ddi.sess_id": request.sess_id})
        if isinstance(record, Response):
            response, _ = decode_response_header(record.message)
            return _present(
                {
                    "ddi.op": response.op,
                    "ddi.sess_id": response.sess_id,
                    "ddi.status": response.status,
                    "ddi.fips_approved": int(response.fips_approved),
                }
            )
    except MborDecodeError:
        pass
    return {}


def _present(values: Fields) -> Fields:
    return {name: value for name, value in values.items() if value is not None}


def own_fields(record: Record) -> Fields:
    """What the record itself says, without what it carries."""
    return {
        field.name: value
        for field in dataclasses.fields(record)
        if field.name not in _COMMON and (value := getattr(record, field.name)) is not None
    }


def to_json(record: Record) -> Fields:
    """A record as an object: numbers, names of values that have one as `NAME_name`, bytes in hexadecimal."""
    kind = str(record.number) if isinstance(record, Unknown) else record.kind.name.lower().replace("_", "-")
    shown: Fields = {"time_ns": record.time_ns, "function": record.function, "kind": kind}
    for name, value in (own_fields(record) | entry_fields(record) | header_fields(record)).items():
        shown[name] = _plain(value)
        if isinstance(value, IntEnum) and not isinstance(value, IntFlag):
            shown[f"{name}_name"] = value.name
    for name in ("data", "message", "content"):
        if hasattr(record, name):
            shown[name] = getattr(record, name).hex()
    return shown


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.hex()
    return int(value) if isinstance(value, int) else str(value)


def to_line(record: Record) -> str:
    """A record on one line, whatever is in it: without zeros, and without characters that a terminal would act on."""
    kind = f"kind-{record.number}" if isinstance(record, Unknown) else record.kind.name.lower().replace("_", "-")
    words = [_time(record.time_ns), f"f{record.function}", f"{kind:14}"]
    if isinstance(record, RegisterAccess):
        words += _access(record)
    else:
        words += [f"{name}={_shown(value)}" for name, value in own_fields(record).items()]
    layout = layout_of(record)
    if layout is not None:
        words.append(layout.name)
        prefix = len(layout.name) + 1
        words += [
            f"{name[prefix:]}={_shown(value)}"
            for name, value in entry_fields(record).items()
            if _says(layout, name, value)
        ]
    elif isinstance(record, Message):
        words += [f"{name.removeprefix('ddi.')}={_shown(value)}" for name, value in header_fields(record).items()]
    return " ".join(words)


def _says(layout: Layout, name: str, value: Any) -> bool:
    """Whether a field is worth a word: not 0, and not said by its bit fields."""
    return name.split(".", 1)[1] not in layout.words and (any(value) if isinstance(value, bytes) else value != 0)


def _access(record: RegisterAccess) -> list[str]:
    region = _REGIONS.get(record.region, f"region{record.region}")
    name = next((f"={r.name}" for r in Register if region == "registers" and r == record.offset), "")
    return [f"{region}+{record.offset:#x}{name}", f"width={record.width}", f"value={record.value:#x}"]


def _time(time_ns: int) -> str:
    """Time of day in UTC, to the nanosecond."""
    seconds, rest = divmod(time_ns, 1_000_000_000)
    try:
        return f"{datetime.fromtimestamp(seconds, UTC):%H:%M:%S}.{rest:09}"
    except (OverflowError, ValueError, OSError):
        return f"{seconds}.{rest:09}"


def _shown(value: Any) -> str:
    if isinstance(value, DdiOp) and not value.known:
        return str(int(value))
    if isinstance(value, IntFlag):
        return "|".join(str(flag.name) for flag in type(value) if flag in value) or "0"
    if isinstance(value, IntEnum):
        return value.name
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, int):
        return str(int(value)) if value < 1 << 16 else f"{value:#x}"
    return printable(str(value))


def printable(text: str) -> str:
    """Text in quotes, with escapes for all that is no printable character."""
    return '"' + "".join(c if c.isprintable() and c not in '"\\' else _escape(c) for c in text) + '"'


def _escape(character: str) -> str:
    return character.encode("unicode_escape").decode() if character != '"' else '\\"'
