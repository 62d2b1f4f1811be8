# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Write the dissector that has Wireshark read traces: python -m ihsm_abi.trace_lua OUT.lua

Everything of the wire in it comes from the declarations, as tables; what it does with them is `trace_dissector.lua`.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterable, Iterator, Mapping
from enum import IntEnum
from pathlib import Path
from typing import Any, Final

from ihsm_abi.admin import ADMIN_SQE, AdminOpcode, QueueDw10
from ihsm_abi.ddi.cutting import is_secret
from ihsm_abi.ddi.headers import ReqHdr, RespHdr
from ihsm_abi.ddi.registry import OPERATIONS
from ihsm_abi.ddi.status import DdiStatus
from ihsm_abi.ddi.types import ErrResp
from ihsm_abi.mbor import (
    MAP_COUNT_MASK,
    U8,
    U16,
    U32,
    U64,
    Bool,
    Enum32,
    Field,
    FixedOctets,
    MborMap,
    Nested,
    Octets,
)
from ihsm_abi.mbor_schema import PAD_MASK
from ihsm_abi.pci import Bar
from ihsm_abi.registers import Cc, Register
from ihsm_abi.resources import ADMIN_QUEUE_ID, FIRST_AES_QUEUE_ID
from ihsm_abi.trace import DISSECTOR_NAME, HAS_PAYLOAD, TraceKind
from ihsm_abi.trace_fields import BODIES, COMMAND_IDS, GCM_SQE, HEADER, LAYOUTS, XTS_SQE, Layout, fields_of

TEMPLATE: Final = Path(__file__).with_name("trace_dissector.lua")
PLACE: Final = "-- (the declarations)\n"
"""Line of the template that the tables take the place of."""
_ADDRESSES: Final = re.compile(r"(addr|prp\d|mptr|iova|offset|value|dw\d+|prot|flags)$")
"""Numbers that are read in hexadecimal."""
_TYPES: Final = {U8: "u8", U16: "u16", U32: "u32", U64: "u64", Enum32: "u32", Bool: "bool"}

Value = Any


def lua(value: Value) -> str:
    """A value as Lua writes it: tables of tables, strings and numbers; what is None is left out of a table."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(int(value))
    if isinstance(value, str):
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    if isinstance(value, Mapping):
        members = (f"[{lua(name)}] = {lua(part)}" for name, part in value.items() if part is not None)
        return "{" + ", ".join(members) + "}"
    if isinstance(value, Iterable):
        return "{" + ", ".join(map(lua, value)) + "}"
    raise TypeError(f"{value!r} is nothing for Lua")


def snake(name: str) -> str:
    """A class's name as that of a field: EccSignReq is ecc_sign_req."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()


def _layout(layout: Layout) -> Value:
    """A layout with its fields, each followed by its bit fields."""
    return {
        "size": layout.dtype.itemsize,
        "cid": COMMAND_IDS.get(layout.name),
        "status": layout.status or None,
        "fields": [
            {
                "path": field.path,
                "offset": field.offset,
                "size": field.size,
                "number": field.is_number,
                "mask": None if field.mask is None else field.mask << field.low,
                "hex": bool(_ADDRESSES.search(field.path)) or None,
                "values": None if field.values is None else field.values.__name__,
            }
            for field in fields_of(layout)
            if not field.path.startswith("reserved")
        ],
    }


def _all_layouts() -> dict[str, Layout]:
    return {HEADER.name: HEADER} | {layout.name: layout for layout in BODIES.values()} | dict(LAYOUTS)


def _maps() -> dict[str, type[MborMap]]:
    """Every map type that messages have, nested ones too, by name."""
    found: dict[str, type[MborMap]] = {}

    def add(cls: type[MborMap]) -> None:
        found[cls.__name__] = cls
        for field in cls.mbor_fields:
            if isinstance(field.spec, Nested):
                add(field.type)

    for cls in (ReqHdr, RespHdr, ErrResp):
        add(cls)
    for operation in OPERATIONS.values():
        add(operation.request)
        add(operation.response)
    return found


def _map_field(field: Field) -> Value:
    spec = field.spec
    described: dict[str, Value] = {"name": field.name, "id": spec.id, "optional": field.optional or None}
    if isinstance(spec, Nested):
        return described | {"type": "map", "map": field.type.__name__}
    if isinstance(spec, Octets | FixedOctets):
        kind = "octets" if isinstance(spec, Octets) else "fixed"
        return described | {"type": kind, "secret": is_secret(field) or None}
    values = field.type.__name__ if isinstance(spec, Enum32) else None
    return described | {"type": _TYPES[type(spec)], "values": values}


def map_name(cls: type[MborMap]) -> str:
    """What fields of a map are named by: both headers share their names."""
    return "ddi" if cls in (ReqHdr, RespHdr) else f"ddi.{snake(cls.__name__)}"


def _enums() -> Iterator[type[IntEnum]]:
    for layout in _all_layouts().values():
        yield from layout.enums.values()
    for cls in _maps().values():
        for field in cls.mbor_fields:
            if isinstance(field.spec, Enum32):
                yield field.type
    yield Register


def tables() -> Iterator[tuple[str, Value]]:
    """The declarations, by the names of the template."""
    yield "NAME", DISSECTOR_NAME
    yield "VALUES", {enum.__name__: {member.value: member.name for member in enum} for enum in _enums()}
    yield "KINDS", {kind.name: kind.value for kind in TraceKind}
    yield "PAYLOADS", {kind.value: True for kind in sorted(HAS_PAYLOAD)}
    yield "LAYOUTS", {name: _layout(layout) for name, layout in _all_layouts().items()}
    yield "BODIES", {kind.value: layout.name for kind, layout in BODIES.items()}
    yield (
        "MAPS",
        {
            name: {"name": map_name(cls), "fields": [_map_field(field) for field in cls.mbor_fields]}
            for name, cls in _maps().items()
        },
    )
    yield (
        "OPERATIONS",
        {
            operation.op.value: {"request": operation.request.__name__, "response": operation.response.__name__}
            for operation in OPERATIONS.values()
        },
    )
    attr = GCM_SQE.dtype.fields["attr"][1]  # type: ignore[index]
    cipher = next(field for field in fields_of(GCM_SQE) if field.path == "attr.cipher")
    yield (
        "ABI",
        {
            "admin_queue": ADMIN_QUEUE_ID,
            "first_aes_queue": FIRST_AES_QUEUE_ID,
            "attr_offset": attr,
            "cipher_low": cipher.low,
            "ciphers": {0: GCM_SQE.name, 1: XTS_SQE.name},
            "create_sq": AdminOpcode.CREATE_SQ,
            "opc_offset": ADMIN_SQE.fields["opc"][1],  # type: ignore[index]
            "dw10_offset": ADMIN_SQE.fields["dw10"][1],  # type: ignore[index]
            "dw10_id_mask": QueueDw10.id.mask,
            "map_count_mask": MAP_COUNT_MASK,
            "pad_mask": PAD_MASK,
            "success": DdiStatus.Success,
            "request_header": ReqHdr.__name__,
            "response_header": RespHdr.__name__,
            "error": ErrResp.__name__,
            "registers_bar": Bar.REGISTERS,
            "cc": Register.CC,
            "cc_en": Cc.en.mask << Cc.en.low,
        },
    )


def render() -> str:
    """The whole script."""
    before, after = TEMPLATE.read_text().split(PLACE)
    declared = "".join(f"local {name} = {lua(value)}\n" for name, value in tables())
    return f"{before}{declared}{after}"


def main(arguments: Iterable[str] | None = None) -> None:
    """Write the script that the arguments name."""
    parser = argparse.ArgumentParser(prog="python -m ihsm_abi.trace_lua", description="Write Wireshark's dissector.")
    parser.add_argument("out", type=Path, metavar="OUT.lua")
    options = parser.parse_args(None if arguments is None else list(arguments))
    options.out.write_text(render())


if __name__ == "__main__":
    main()
