# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""The host-side transforms against the recorded examples, and as inverses of each other."""

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ihsm.ddi import transforms
from ihsm.ddi.transforms import Dialect
from ihsm_abi.ddi import OPERATIONS, DdiOp, DerPublicKey, DeviceKind, KeyType, OpenSessionReq
from ihsm_abi.ddi.formats import ECC_FORMATS
from ihsm_abi.mbor import (
    EncodeErrorKind,
    FixedOctets,
    MborDecodeError,
    MborEncodeError,
    MborMap,
    Nested,
    Octets,
)
from support.ddi_replay import VECTORS

TO_WIRE: dict[str, Callable[[bytes], bytes]] = {
    "T1": transforms.ecc_spki_to_raw,
    "T4": transforms.pota_signature_to_wire,
    "T5": transforms.digest_to_wire,
    "T8": transforms.wrapped_blob_to_wire,
}


def to_host(entry: dict[str, Any], wire: bytes) -> bytes:
    if entry["id"] in ("T2", "T3"):
        key = DerPublicKey(der=wire, key_kind=KeyType(entry["key_kind"]))
        converted = transforms.public_key_to_host(key)
        assert converted is not None
        return converted.der
    return wire[::-1] if entry["id"] == "T7" else transforms.signature_to_host(wire)


@pytest.mark.parametrize("entry", VECTORS["transforms"], ids=lambda e: f"{e['id']}-{e['case']}".replace(" ", "_"))
def test_recorded_transforms(entry: dict[str, Any]) -> None:
    if entry["id"] in TO_WIRE:
        host = bytes.fromhex(entry["host"])
        if "error" in entry:
            with pytest.raises(MborEncodeError) as refused:
                TO_WIRE[entry["id"]](host)
            assert refused.value.kind.name == entry["error"]
        else:
            assert TO_WIRE[entry["id"]](host).hex() == entry["wire"]
        return
    wire = bytes.fromhex(entry["wire"])
    if "error" in entry:
        with pytest.raises(MborDecodeError) as caught:
            to_host(entry, wire)
        assert caught.value.kind.name == entry["error"]
    else:
        assert to_host(entry, wire).hex() == entry["host"]


def values(cls: type[MborMap], content: dict[str, Any]) -> MborMap:
    """A map from a vector's JSON."""
    parts: dict[str, Any] = {}
    for field in cls.mbor_fields:
        if field.name in content:
            raw = content[field.name]
            if isinstance(field.spec, Nested):
                parts[field.name] = values(field.type, raw)
            elif isinstance(field.spec, Octets | FixedOctets):
                parts[field.name] = bytes.fromhex(raw)
            else:
                parts[field.name] = field.type(raw)
    return cls(**parts)


@pytest.mark.parametrize(
    "entry",
    [m for m in VECTORS["messages"] if "host_data" in m],
    ids=lambda e: f"{e['name']}-{e['direction']}".replace(" ", "_"),
)
def test_messages_of_a_physical_device(entry: dict[str, Any]) -> None:
    operation = OPERATIONS[DdiOp(entry["op_code"])]
    dialect = Dialect(DeviceKind.Physical)
    cls = operation.request if entry["direction"] == "request" else operation.response
    host, wire = values(cls, entry["host_data"]), values(cls, entry["data"])
    converted = dialect.to_wire(host) if entry["direction"] == "request" else dialect.to_host(wire)
    assert converted == (wire if entry["direction"] == "request" else host)
    for unchanged in (Dialect(), Dialect(DeviceKind.Virtual)):
        assert unchanged.to_wire(host) is host
        assert unchanged.to_host(wire) is wire


@given(st.sampled_from(ECC_FORMATS), st.data())
def test_point_forms_are_inverse(curve: Any, data: st.DataObject) -> None:
    """Whatever the coordinates are: points off the curve are converted too."""
    size = curve.coordinate_bytes
    point = data.draw(st.binary(min_size=2 * size, max_size=2 * size))
    spki = curve.spki_prefix + b"\x04" + point
    raw = transforms.ecc_spki_to_raw(spki)
    assert len(raw) == curve.raw_bytes
    assert transforms.ecc_raw_to_spki(raw, curve.public_type) == spki
    assert transforms.signature_to_host(raw) == point


@given(st.binary(max_size=200))
def test_other_bytes_are_no_public_key(junk: bytes) -> None:
    with pytest.raises(MborEncodeError) as caught:
        transforms.ecc_spki_to_raw(junk)
    assert caught.value.kind is EncodeErrorKind.DerDecodeFailed


@given(st.binary(max_size=600), st.sampled_from([kind for kind in KeyType if "Public" in kind.name]))
def test_raw_public_keys_never_crash(raw: bytes, kind: KeyType) -> None:
    key = DerPublicKey(der=raw, key_kind=kind)
    try:
        converted = transforms.public_key_to_host(key)
    except MborDecodeError:
        return
    assert converted is not None
    assert converted.der.startswith(b"\x30")


def test_a_key_is_sent_under_the_kind_of_its_curve() -> None:
    spki = bytes.fromhex(VECTORS["transforms"][0]["host"])
    for kind, good in ((KeyType.Ecc256Public, True), (KeyType.Ecc384Public, False), (KeyType.Rsa2kPublic, False)):
        key = DerPublicKey(der=spki, key_kind=kind)
        if good:
            assert len(transforms.public_key_to_wire(key).der) == 64
        else:
            with pytest.raises(MborEncodeError):
                transforms.public_key_to_wire(key)


@pytest.mark.parametrize("size", [0, 1, 32, 64, 68, 69, 96])
def test_digests_are_reversed_and_padded_or_cut_to_68_bytes(size: int) -> None:
    digest = bytes(range(1, size + 1))
    assert transforms.digest_to_wire(digest) == (digest[::-1] + bytes(68))[:68]


@pytest.mark.parametrize("size", [97, 136])
def test_digests_that_no_request_carries_are_refused(size: int) -> None:
    """Cut to what a physical device takes, they would be signed as another digest."""
    with pytest.raises(MborEncodeError, match=f"digest of {size} bytes") as refused:
        transforms.digest_to_wire(bytes(size))
    assert refused.value.kind is EncodeErrorKind.InvalidLen


def test_compressed_points_are_refused() -> None:
    curve = ECC_FORMATS[0]
    with pytest.raises(MborEncodeError):
        transforms.ecc_spki_to_raw(curve.spki_prefix + b"\x02" + bytes(64))


def test_every_transformed_field_exists() -> None:
    tables = {**transforms._TO_WIRE, **transforms._TO_HOST}
    assert OpenSessionReq.__name__ in tables
    classes = {
        cls.__name__: cls for operation in OPERATIONS.values() for cls in (operation.request, operation.response)
    }
    for name, changes in tables.items():
        assert set(changes) <= {field.name for field in classes[name].mbor_fields}
