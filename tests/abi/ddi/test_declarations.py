# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Every declaration of the device interface against the tables in ddi-ops.json, field by field."""

import json
from pathlib import Path
from typing import Any

import pytest

from ihsm_abi.ddi import OPERATION_OF_REQUEST, OPERATIONS, DdiOp, DdiStatus, control_kind, enums, firmware_ops, types
from ihsm_abi.ddi import headers as headers_module
from ihsm_abi.ddi import masked_key as masked_key_module
from ihsm_abi.ddi import provisioning as provisioning_module
from ihsm_abi.ddi import sessions as sessions_module
from ihsm_abi.ddi.envelope import encode_message, encode_request
from ihsm_abi.ddi.headers import ReqHdr, RespHdr
from ihsm_abi.hsm_queue import ControlKind
from ihsm_abi.mbor import U8, U16, U32, U64, Bool, Enum32, Field, FixedOctets, MborMap, Nested, Octets, OpenEnum, encode

TABLES = json.loads((Path(__file__).parents[2] / "data" / "ddi-ops.json").read_text())
FIRMWARE = TABLES["firmware_extra"]
MODULES = (enums, types, headers_module, provisioning_module, sessions_module, masked_key_module, firmware_ops)
OPERATION_TABLES = TABLES["ops"] + FIRMWARE["ops"]
# Map types that no receiver takes (the envelope's extension) or that no message carries.
UNUSED_TYPES = {"DdiReqExt", "DdiRespExt", "DdiErrReq"}
KINDS = {
    "NoSession": ControlKind.NONE,
    "Open": ControlKind.OPEN,
    "Close": ControlKind.CLOSE,
    "InSession": ControlKind.IN_SESSION,
}
SPECS = {
    "u8": U8,
    "u16": U16,
    "u32": U32,
    "u64": U64,
    "bool": Bool,
    "enum": Enum32,
    "map": Nested,
    "bytes": Octets,
    "fixed_bytes": FixedOctets,
}


def declared(name: str) -> Any:
    """The class that the interface calls Ddi<name>."""
    if name in ("DdiOp", "DdiStatus"):
        return {"DdiOp": DdiOp, "DdiStatus": DdiStatus}[name]
    return next(getattr(m, name.removeprefix("Ddi")) for m in MODULES if hasattr(m, name.removeprefix("Ddi")))


def check_fields(cls: type[MborMap], table: list[dict[str, Any]]) -> None:
    assert [field.name for field in cls.mbor_fields] == [row["name"] for row in table]
    for field, row in zip(cls.mbor_fields, table, strict=True):
        check_field(field, row)


def check_field(field: Field, row: dict[str, Any]) -> None:
    assert field.spec.id == row["id"]
    assert type(field.spec) is SPECS[row["type"]]
    assert field.optional == row["optional"]
    if isinstance(field.spec, Octets):
        assert field.spec.max == row["max"]
    elif isinstance(field.spec, FixedOctets):
        assert field.spec.size == row["max"]
    elif isinstance(field.spec, Nested | Enum32):
        assert field.type is declared(row["ref"])


@pytest.mark.parametrize("table", OPERATION_TABLES, ids=lambda t: t["name"])
def test_operations(table: dict[str, Any]) -> None:
    operation = OPERATIONS[DdiOp(table["op"])]
    assert operation.op.name == table["name"]
    assert operation.kind == KINDS[table["session_control"]] == table["session_control_value"]
    assert control_kind(table["op"]) is operation.kind
    assert operation.request.__name__ == table["request_type"].removeprefix("Ddi")
    assert operation.response.__name__ == table["response_type"].removeprefix("Ddi")
    assert OPERATION_OF_REQUEST[operation.request] is operation
    assert OPERATION_OF_REQUEST.get(operation.response) is None
    check_fields(operation.request, table["request"])
    check_fields(operation.response, table["response"])


def test_nothing_is_declared_twice_or_left_out() -> None:
    assert {int(op) for op in OPERATIONS} == {table["op"] for table in OPERATION_TABLES}
    assert {op.name: int(op) for op in DdiOp} == {t["name"]: t["op"] for t in OPERATION_TABLES} | {"Invalid": 1001}
    assert control_kind(DdiOp.Invalid) is control_kind(9999) is ControlKind.IN_SESSION


@pytest.mark.parametrize("name", sorted(set(TABLES["types"]) - UNUSED_TYPES))
def test_shared_types(name: str) -> None:
    check_fields(declared(name), TABLES["types"][name])


@pytest.mark.parametrize("name", sorted(FIRMWARE["types"]))
def test_firmware_types(name: str) -> None:
    check_fields(declared(name), FIRMWARE["types"][name])


def test_headers() -> None:
    check_fields(ReqHdr, TABLES["request_header"])
    check_fields(RespHdr, TABLES["response_header"])


@pytest.mark.parametrize("name", sorted((TABLES["enums"] | FIRMWARE["enums"]).keys() - {"DdiOp"}))
def test_enumerations(name: str) -> None:
    table = (TABLES["enums"] | FIRMWARE["enums"])[name]
    expected = dict(table["values"])
    for difference in FIRMWARE["differences"]:
        if difference["item"] == name:
            expected |= difference.get("values", {})
    cls = declared(name)
    assert {member.name: int(member) for member in cls} == expected
    assert issubclass(cls, OpenEnum) == (table["mbor_type"] is not None)


def test_statuses() -> None:
    rows = TABLES["status"] + FIRMWARE["status"]
    assert {status.name: int(status) for status in DdiStatus} == {row["name"]: row["value"] for row in rows}
    assert len(DdiStatus) == TABLES["counts"]["status_codes"] + TABLES["counts"]["firmware_extra_status"]


def extreme(cls: type[MborMap], largest: bool) -> MborMap:
    """The shortest or longest value of a map type."""
    values: dict[str, Any] = {}
    for field in cls.mbor_fields:
        if field.optional and not largest:
            continue
        if isinstance(field.spec, Nested):
            values[field.name] = extreme(field.type, largest)
        elif isinstance(field.spec, Octets):
            values[field.name] = bytes(field.spec.max if largest else 0)
        elif isinstance(field.spec, FixedOctets):
            values[field.name] = bytes(field.spec.size)
        else:
            values[field.name] = field.type(1)
    return cls(**values)


@pytest.mark.parametrize("table", TABLES["ops"], ids=lambda t: t["name"])
@pytest.mark.parametrize("largest", [False, True], ids=["min", "max"])
def test_message_lengths(table: dict[str, Any], largest: bool) -> None:
    operation = OPERATIONS[DdiOp(table["op"])]
    bound = "max" if largest else "min"
    session_id = 0 if operation.kind in (ControlKind.CLOSE, ControlKind.IN_SESSION) else None
    request = encode_request(extreme(operation.request, largest), session_id=session_id)
    assert len(request) == table[f"request_len_{bound}"]
    header = RespHdr(
        rev=types.ApiRev(major=1, minor=0) if operation.op is not DdiOp.GetApiRev else None,
        op=operation.op,
        sess_id=None if operation.kind is ControlKind.NONE else 0,
        status=DdiStatus.Success,
        fips_approved=False,
    )
    response = encode_message(header, extreme(operation.response, largest))
    assert len(response) == table[f"response_len_{bound}"]


@pytest.mark.parametrize("cls", sorted({cls for o in OPERATIONS.values() for cls in (o.request, o.response)}, key=str))
def test_every_message_has_a_codec(cls: type[MborMap]) -> None:
    for largest in (False, True):
        value = extreme(cls, largest)
        assert cls.mbor_decoder(encode(value), 0) == (value, len(encode(value)))
