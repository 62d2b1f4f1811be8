# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Both dialects: the device's encoder against the host's decoder and back, and hostile input (spec 03 §6)."""

from __future__ import annotations

import dataclasses

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import load_der_public_key
from hypothesis import given
from hypothesis import strategies as st

from ihsm.ddi.transforms import Dialect as HostDialect
from ihsm.ddi.transforms import ecc_raw_to_spki, ecc_spki_to_raw
from ihsm_abi.ddi import (
    DdiStatus,
    DeviceKind,
    EccSignReq,
    EccSignResp,
    GetUnwrappingKeyResp,
    HashAlgorithm,
    RsaModExpReq,
    RsaUnwrapReq,
)
from ihsm_device.hsm.errors import RefusedError
from ihsm_device.hsm.keystore import RsaPublic
from ihsm_device.hsm.wire import BY_ID, DIALECTS, P384, Curve, Point, der
from ihsm_device.hsm.wire.curves import P256, P521
from support import points
from support.messages import sample

VIRTUAL, PHYSICAL = DIALECTS[DeviceKind.Virtual], DIALECTS[DeviceKind.Physical]
CURVES = {P256: ec.SECP256R1(), P384: ec.SECP384R1(), P521: ec.SECP521R1()}
curves = st.sampled_from(list(CURVES))


def key_point(curve: Curve, scalar: int) -> tuple[bytes, Point]:
    spki = points.spki(ec.derive_private_key(scalar, CURVES[curve]).public_key())
    return spki, Point.from_uncompressed(curve, spki[len(curve.form.spki_prefix) :])


@given(curves, st.integers(1, 2**200))
def test_points(curve: Curve, scalar: int) -> None:
    spki, point = key_point(curve, scalar)
    assert point.in_range
    assert point.on_curve
    assert VIRTUAL.write_ec_point(point) == spki
    raw = PHYSICAL.write_ec_point(point)
    assert raw == ecc_spki_to_raw(spki)
    assert ecc_raw_to_spki(raw, curve.form.public_type) == spki
    assert VIRTUAL.read_ec_point(spki, curve) == PHYSICAL.read_ec_point(raw, curve) == point
    assert VIRTUAL.read_ec_point(spki + b"more", curve) == PHYSICAL.read_ec_point(raw + b"more", curve) == point


@given(curves, st.data())
def test_signatures(curve: Curve, data: st.DataObject) -> None:
    signature = data.draw(st.binary(min_size=2 * curve.size, max_size=2 * curve.size))
    for dialect in DIALECTS.values():
        wire = dialect.write_signature(signature, curve)
        assert dialect.read_signature(wire, curve) == signature
        assert HostDialect(dialect.kind).to_host(EccSignResp(signature=wire)).signature == signature
        assert dialect.read_signature(wire[:-1], curve) is None
        assert dialect.read_signature(wire + b"\0", curve) is None


@given(st.binary(max_size=512))
def test_numbers(number: bytes) -> None:
    for dialect in DIALECTS.values():
        assert dialect.read_number(dialect.write_number(number)) == number
        request = HostDialect(dialect.kind).to_wire(dataclasses.replace(sample(RsaModExpReq), y=number))
        assert dialect.read_number(request.y) == number


@given(curves, st.binary(min_size=1, max_size=64), st.sampled_from(list(HashAlgorithm)))
def test_digests_are_the_same_number_in_both_dialects(curve: Curve, digest: bytes, algorithm: HashAlgorithm) -> None:
    request = EccSignReq(key_id=0, digest=digest, digest_algo=algorithm)
    wire = HostDialect(DeviceKind.Physical).to_wire(request).digest
    physical = PHYSICAL.read_digest(wire, curve, algorithm)
    assert int.from_bytes(physical, "big") == int.from_bytes(digest, "big")
    assert VIRTUAL.read_digest(digest, curve, algorithm) == digest
    order_bits = curve.p.bit_length()
    if 8 * len(digest) <= order_bits:
        assert 8 * len(physical) <= order_bits, "the signer must not drop bits of a number that fits"
    with pytest.raises(RefusedError) as caught:
        PHYSICAL.read_digest(wire[:-1], curve, algorithm)
    assert caught.value.status == DdiStatus.InvalidArg


def test_a_digest_beyond_the_order_keeps_the_length_of_its_hash() -> None:
    digest = bytes(4) + bytes(range(1, 45))
    wire = digest[::-1].ljust(68, b"\0")
    assert PHYSICAL.read_digest(wire, P256, HashAlgorithm.Sha384) == digest
    assert PHYSICAL.read_digest(wire, P256, HashAlgorithm(99)) == digest[4:]


@given(st.binary(min_size=256, max_size=600))
def test_wrapped_blobs(blob: bytes) -> None:
    for dialect in DIALECTS.values():
        request = dataclasses.replace(sample(RsaUnwrapReq), wrapped_blob=blob)
        wire = HostDialect(dialect.kind).to_wire(request).wrapped_blob
        assert dialect.read_wrapped_blob(wire) == (blob[:256], blob[256:])


@pytest.mark.parametrize("size", [256, 384, 512])
@pytest.mark.parametrize("e", [3, 65537, 2**32 - 1])
def test_rsa_public_keys(size: int, e: int) -> None:
    n = 2 ** (8 * size - 1) + 12345
    public = RsaPublic(n.to_bytes(size, "big"), e.to_bytes((e.bit_length() + 7) // 8, "big"))
    for dialect in DIALECTS.values():
        answer = GetUnwrappingKeyResp(key_id=0, pub_key=dialect.rsa_public_key(public), masked_key=b"")
        host = HostDialect(dialect.kind).to_host(answer)
        spki = der.read(host.pub_key.der).contents
        numbers = der.read(der.read(spki, der.read(spki).end, tag=der.BIT_STRING).contents, 1).contents
        first = der.read(numbers)
        second = der.read(numbers, first.end)
        assert (int.from_bytes(first.contents, "big"), int.from_bytes(second.contents, "big")) == (n, e)


def test_a_real_rsa_key_loads() -> None:
    key = load_der_public_key(points.RSA_SPKI)
    assert isinstance(key, rsa.RSAPublicKey)
    numbers = key.public_numbers()
    public = RsaPublic(numbers.n.to_bytes(256, "big"), numbers.e.to_bytes(3, "big"))
    assert VIRTUAL.write_rsa_public(public) == points.RSA_SPKI


@given(st.binary(max_size=300), curves)
def test_any_bytes_are_a_point_or_refused(wire: bytes, curve: Curve) -> None:
    for dialect in DIALECTS.values():
        try:
            point = dialect.read_ec_point(wire, curve)
        except RefusedError:
            continue
        assert point.curve is curve


@given(curves, st.integers(1, 2**64), st.data())
def test_a_damaged_spki_never_yields_a_point_of_another_curve(curve: Curve, scalar: int, data: st.DataObject) -> None:
    spki = bytearray(key_point(curve, scalar)[0])
    spki[data.draw(st.integers(0, len(spki) - 1))] ^= data.draw(st.integers(1, 255))
    for wanted in BY_ID.values():
        read = _read_or_status(bytes(spki), wanted)
        if isinstance(read, Point):
            assert wanted is curve
            assert len(read.uncompressed()) == 1 + 2 * curve.size
        else:
            assert read in (DdiStatus.KeyDecodeFailed, DdiStatus.DerAndKeyTypeMismatch)


def _read_or_status(wire: bytes, curve: Curve) -> Point | DdiStatus:
    try:
        return VIRTUAL.read_ec_point(wire, curve)
    except RefusedError as error:
        return error.status


@pytest.mark.parametrize("curve", CURVES, ids=lambda curve: curve.form.curve.name)
def test_bad_points_are_seen(curve: Curve) -> None:
    spki, point = key_point(curve, 7)
    form = curve.form
    for axis in ("x", "y"):
        for value in (0, curve.p, curve.p + 1):
            wire = points.out_of_range(spki, DeviceKind.Virtual, form, axis=axis, value=value)
            assert not VIRTUAL.read_ec_point(wire, curve).in_range
    off = VIRTUAL.read_ec_point(points.off_curve(spki, DeviceKind.Virtual, form), curve)
    assert off.in_range
    assert not off.on_curve
    for bad in (points.infinity(form), points.compressed(spki, form), points.RSA_SPKI, b"", spki[:-1]):
        with pytest.raises(RefusedError) as caught:
            VIRTUAL.read_ec_point(bad, curve)
        assert caught.value.status == DdiStatus.KeyDecodeFailed
    for other in (ec.SECP256K1(), ec.SECP224R1()):
        with pytest.raises(RefusedError) as caught:
            VIRTUAL.read_ec_point(points.ec_spki(other), curve)
        assert caught.value.status == DdiStatus.DerAndKeyTypeMismatch
    assert point.raw()[: form.padded_bytes][::-1].lstrip(b"\0") == point.x.to_bytes(curve.size, "big").lstrip(b"\0")


@pytest.mark.parametrize("curve", CURVES, ids=lambda curve: curve.form.curve.name)
def test_an_spki_says_nothing_else_and_has_a_whole_point(curve: Curve) -> None:
    """The named curve alone in the parameters, as many bytes of a point as the curve has, nothing behind the point."""
    spki, point = key_point(curve, 7)
    algorithm = der.read(der.read(spki).contents).contents
    whole = point.uncompressed()

    def encoded(algorithm: bytes, point: bytes, after: bytes = b"") -> bytes:
        bits = der.element(der.BIT_STRING, b"\0" + point)
        return der.element(der.SEQUENCE, der.element(der.SEQUENCE, algorithm) + bits + after)

    assert _read_or_status(encoded(algorithm, whole), curve) == point
    for wire in (
        encoded(algorithm + der.element(der.NULL), whole),
        encoded(algorithm, whole[:-1]),
        encoded(algorithm, whole + b"\0"),
        encoded(algorithm, whole, der.element(der.NULL)),
    ):
        assert _read_or_status(wire, curve) == DdiStatus.KeyDecodeFailed


# -- DER ---------------------------------------------------------------------------------------------------------------


@given(st.integers(0, 255), st.binary(max_size=70000))
def test_der_elements(tag: int, contents: bytes) -> None:
    encoded = der.element(tag, contents)
    assert der.read(encoded + b"rest") == (tag, contents, len(encoded))


@given(st.binary(max_size=64))
def test_der_refuses_or_reads_canonically(data: bytes) -> None:
    try:
        found = der.read(data)
    except der.DerError:
        return
    assert der.element(found.tag, found.contents) == data[: found.end]


@pytest.mark.parametrize(
    ("dotted", "encoded"),
    [
        ("1.2.840.10045.2.1", "06072a8648ce3d0201"),
        ("1.2.840.113549.1.1.1", "06092a864886f70d010101"),
        ("2.23.133.5.4.100.6", "060767810505046406"),
    ],
)
def test_object_identifiers(dotted: str, encoded: str) -> None:
    assert der.object_identifier(dotted).hex() == encoded


def test_integers() -> None:
    for value, encoded in ((0, "020100"), (127, "02017f"), (128, "02020080"), (256, "02020100"), (65537, "0203010001")):
        assert der.integer(value).hex() == encoded
