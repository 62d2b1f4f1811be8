# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Elliptic curves against CAVP vectors and pyca/cryptography."""

from __future__ import annotations

import hashlib

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed, encode_dss_signature
from hypothesis import given, settings
from hypothesis import strategies as st

from ihsm_device.hsm.keystore import (
    ArgumentError,
    Curve,
    DecodeError,
    Handle,
    Hash,
    KeyStore,
    KeyStructureError,
    LengthError,
    Owner,
    PairwiseTest,
    PairwiseTestError,
    PointAtInfinityError,
    PointNotOnCurveError,
    PointRangeError,
    WrongKindError,
)
from support import cavp

OWNER = Owner()
PYCA: dict[Curve, ec.EllipticCurve] = {
    Curve.P256: ec.SECP256R1(),
    Curve.P384: ec.SECP384R1(),
    Curve.P521: ec.SECP521R1(),
}
PRIME = {
    Curve.P256: 2**256 - 2**224 + 2**192 + 2**96 - 1,
    Curve.P384: 2**384 - 2**128 - 2**96 + 2**32 - 1,
    Curve.P521: 2**521 - 1,
}
ORDER = {
    Curve.P256: 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551,
    Curve.P384: 2**384 - 0x389CB27E0BC8D220A7E5F24DB74F58851313E695333AD68D,
    Curve.P521: 2**521 - 0x5AE79787C40D069948033FEB708F65A2FC44A36477663B851449048E16EC79BF7,
}
NAMES = {"P-256": Curve.P256, "P-384": Curve.P384, "P-521": Curve.P521}
EC_DIGEST = {20: hashes.SHA1(), 32: hashes.SHA256(), 48: hashes.SHA384(), 64: hashes.SHA512()}


def private_key(curve: Curve, scalar: int) -> ec.EllipticCurvePrivateKey:
    return ec.derive_private_key(scalar, PYCA[curve])


def point_of(key: ec.EllipticCurvePrivateKey | ec.EllipticCurvePublicKey) -> bytes:
    public = key.public_key() if isinstance(key, ec.EllipticCurvePrivateKey) else key
    return public.public_bytes(serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint)


def load(store: KeyStore, curve: Curve, scalar: int) -> Handle:
    value = store.import_secret(scalar.to_bytes(curve.size_bytes, "big"), OWNER)
    return store.ec_import_scalar(curve, value, OWNER)


def pkcs8(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def verifies(curve: Curve, point: bytes, digest: bytes, signature: bytes) -> bool:
    half = curve.size_bytes
    der = encode_dss_signature(int.from_bytes(signature[:half]), int.from_bytes(signature[half:]))
    public = ec.EllipticCurvePublicKey.from_encoded_point(PYCA[curve], point)
    try:
        public.verify(der, digest, ec.ECDSA(Prehashed(EC_DIGEST[len(digest)])))
    except InvalidSignature:
        return False
    return True


@pytest.mark.parametrize("curve", Curve)
@pytest.mark.parametrize("length", [20, 32, 48, 64])
def test_signatures_verify_elsewhere(store: KeyStore, curve: Curve, length: int) -> None:
    key = store.ec_generate(curve, OWNER)
    point = store.ec_public(key)
    digest = bytes(range(0x80, 0x80 + length))
    signature = store.ec_sign(key, digest)
    assert len(signature) == 2 * curve.size_bytes
    assert verifies(curve, point, digest, signature)
    assert store.ec_verify(curve, point, digest, signature)
    assert not verifies(curve, point, b"\x01" + digest[1:], signature)
    assert store.ec_sign(key, digest) != signature


@pytest.mark.parametrize("curve", Curve)
def test_digest_of_any_length_is_cut_on_the_left(store: KeyStore, curve: Curve) -> None:
    key = store.ec_generate(curve, OWNER)
    point = store.ec_public(key)
    digest = bytes(range(1, 97))
    order_bytes = (ORDER[curve].bit_length() + 7) // 8
    assert store.ec_verify(curve, point, digest[:order_bytes], store.ec_sign(key, digest))
    assert store.ec_verify(curve, point, bytes(4), store.ec_sign(key, b""))
    with pytest.raises(ArgumentError):
        store.ec_sign(key, bytes(97))


def test_ecdsa_verification_cavp(store: KeyStore) -> None:
    verdicts = {True: 0, False: 0}
    for section, case in cavp.cases("asymmetric/ECDSA/FIPS_186-3/SigVer.rsp"):
        name, _, digest_name = section.partition(",")
        if name not in NAMES or "Msg" not in case:
            continue
        curve = NAMES[name]
        size = curve.size_bytes
        digest = hashlib.new(digest_name.replace("-", ""), bytes.fromhex(case["Msg"])).digest()
        numbers = [int(case[field], 16) for field in ("Qx", "Qy", "R", "S")]
        x, y, r, s = (number.to_bytes(size, "big") for number in numbers)
        valid = store.ec_verify(curve, b"\x04" + x + y, digest, r + s)
        assert valid == case["Result"].startswith("P")
        verdicts[valid] += 1
    assert min(verdicts.values()) >= 45


@pytest.mark.parametrize("curve", Curve)
def test_verification_refuses_odd_signatures(store: KeyStore, curve: Curve) -> None:
    key = store.ec_generate(curve, OWNER)
    point, digest, half = store.ec_public(key), bytes(32), curve.size_bytes
    good = store.ec_sign(key, digest)
    order = ORDER[curve].to_bytes(half, "big")
    for bad in (b"", good[:-1], good + b"\0", bytes(2 * half), good[:half] + bytes(half), bytes(half) + good[half:],
                order + good[half:], good[:half] + order):  # fmt: skip
        assert not store.ec_verify(curve, point, digest, bad)
    assert store.ec_verify(curve, point, digest, good)


def test_agreement_cavp(store: KeyStore) -> None:
    """Static unified model, where Z is the x coordinate: the device computes it or refuses the peer's point."""
    computed = 0
    sections = {"EC": Curve.P256, "ED": Curve.P384, "EE": Curve.P521}
    for section, case in cavp.cases("asymmetric/ECDH/KASValidityTest_ECCStaticUnified_NOKC_ZZOnly_init.fax"):
        name = section.split(" ")[0]
        if name not in sections or "dsIUT" not in case:
            continue
        curve, verdict = sections[name], case["Result"]
        if "IUT's" in verdict:
            continue  # our own key is spoilt: the file's Z is not defined
        size = curve.size_bytes
        x, y, d = (int(case[field], 16) for field in ("QsCAVSx", "QsCAVSy", "dsIUT"))
        peer = b"\x04" + x.to_bytes(size, "big") + y.to_bytes(size, "big")
        if "CAVS's Static public key" in verdict:
            with pytest.raises((PointNotOnCurveError, PointRangeError)):
                store.ec_agree(load(store, curve, d), peer, OWNER)
            continue
        agreed = int.from_bytes(store.hook_reveal(store.ec_agree(load(store, curve, d), peer, OWNER)))
        assert (agreed == int(case["Z"], 16)) == ("Z changed" not in verdict)
        computed += 1
    assert computed > 40


@pytest.mark.parametrize("curve", Curve)
@given(data=st.data())
@settings(max_examples=15)
def test_agreement_with_another_implementation(curve: Curve, data: st.DataObject) -> None:
    ours, theirs = (data.draw(st.integers(1, ORDER[curve] - 1)) for _ in range(2))
    store = KeyStore(validation_hooks=True)
    try:
        key = load(store, curve, ours)
        assert store.ec_public(key) == point_of(private_key(curve, ours))
        other = private_key(curve, theirs)
        agreed = store.ec_agree(key, point_of(other), OWNER)
        expected = other.exchange(ec.ECDH(), private_key(curve, ours).public_key())
        assert store.hook_reveal(agreed) == expected
    finally:
        store.close()


@pytest.mark.parametrize("curve", Curve)
def test_point_validation_tells_why(store: KeyStore, curve: Curve) -> None:
    size, p = curve.size_bytes, PRIME[curve]
    good = point_of(private_key(curve, 12345))
    x, y = good[1 : 1 + size], good[1 + size :]
    at_p = p.to_bytes(size, "big")
    key = store.ec_generate(curve, OWNER)
    checks = [
        (good, None),
        (b"\x00", PointAtInfinityError),
        (b"", LengthError),
        (b"\x04" + x, LengthError),
        (good + b"\0", LengthError),
        (b"\x02" + x, LengthError),
        (b"\x06" + x + y, LengthError),
        (b"\x04" + at_p + y, PointRangeError),
        (b"\x04" + x + at_p, PointRangeError),
        (b"\x04" + bytes(size) + y, PointRangeError),
        (b"\x04" + x + bytes(size), PointRangeError),
        (b"\x04" + b"\xff" * 2 * size, PointRangeError),
        (b"\x04" + y + x, PointNotOnCurveError),
        (b"\x04" + x + (int.from_bytes(y) ^ 1).to_bytes(size, "big"), PointNotOnCurveError),
    ]
    for point, error in checks:
        if error is None:
            store.ec_check_point(curve, point)
            continue
        for call in (
            lambda point=point: store.ec_check_point(curve, point),
            lambda point=point: store.ec_agree(key, point, OWNER),
            lambda point=point: store.ec_verify(curve, point, bytes(32), bytes(2 * size)),
        ):
            with pytest.raises(error):
                call()


@pytest.mark.parametrize("curve", Curve)
def test_scalars_out_of_range(store: KeyStore, curve: Curve) -> None:
    for scalar in (0, ORDER[curve], 2 ** (8 * curve.size_bytes) - 1):
        with pytest.raises(KeyStructureError):
            load(store, curve, scalar)
    assert store.ec_public(load(store, curve, ORDER[curve] - 1)) == point_of(private_key(curve, ORDER[curve] - 1))
    with pytest.raises(ArgumentError):
        store.ec_import_scalar(curve, store.generate_secret(curve.size_bytes + 1, OWNER), OWNER)


@pytest.mark.parametrize("curve", Curve)
def test_import_of_der(store: KeyStore, curve: Curve) -> None:
    key = private_key(curve, ORDER[curve] // 3)
    handle = store.ec_import_der(store.import_secret(pkcs8(key), OWNER), OWNER)
    assert store.ec_curve(handle) == curve
    assert store.size(handle) == curve.size_bytes
    assert store.ec_public(handle) == point_of(key)
    digest = bytes(32)
    assert verifies(curve, point_of(key), digest, store.ec_sign(handle, digest))


def test_a_key_without_a_curve_names_none(store: KeyStore) -> None:
    with pytest.raises(WrongKindError):
        store.ec_curve(store.generate_secret(32, OWNER))


def test_import_refuses_other_forms(store: KeyStore) -> None:
    key = private_key(Curve.P256, 0x1122334455667788)
    good = pkcs8(key)
    sec1 = key.private_bytes(
        serialization.Encoding.DER, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
    )
    rsa_key = rsa.generate_private_key(65537, 2048).private_bytes(
        serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    other_curve = pkcs8(ec.derive_private_key(5, ec.SECP256K1()))
    # The same key without its [1] public key, and with [0] parameters in the inner structure.
    inner = bytes.fromhex("02010104 20".replace(" ", "")) + (0x1122334455667788).to_bytes(32, "big")
    algorithm = bytes.fromhex("301306072a8648ce3d020106082a8648ce3d030107")
    public = bytes.fromhex("a144034200") + point_of(key)
    parameters = bytes.fromhex("a00a06082a8648ce3d030107")

    def wrapped(body: bytes) -> bytes:
        sequence = b"\x30" + (b"\x81" if len(body) > 127 else b"") + bytes([len(body)]) + body
        octets = b"\x04" + (b"\x81" if len(sequence) > 127 else b"") + bytes([len(sequence)]) + sequence
        content = b"\x02\x01\x00" + algorithm + octets
        return b"\x30" + (b"\x81" if len(content) > 127 else b"") + bytes([len(content)]) + content

    assert wrapped(inner + public) == good
    for bad in (sec1, rsa_key, other_curve, wrapped(inner), wrapped(inner + parameters + public), good + b"\0",
                good[:-1], b"\x30\x00", b"\xff" * 64):  # fmt: skip
        with pytest.raises(DecodeError):
            store.ec_import_der(store.import_secret(bad, OWNER), OWNER)


def test_import_tells_contradictions(store: KeyStore) -> None:
    good = pkcs8(private_key(Curve.P384, 1234567))
    point = point_of(private_key(Curve.P384, 1234568))
    scalar_at = good.index((1234567).to_bytes(48, "big"))
    for bad in (
        good[: -len(point)] + point,
        good[:scalar_at] + bytes(48) + good[scalar_at + 48 :],
        good[:scalar_at] + ORDER[Curve.P384].to_bytes(48, "big") + good[scalar_at + 48 :],
        good[:-1] + bytes([good[-1] ^ 1]),
    ):
        with pytest.raises(KeyStructureError) as error:
            store.ec_import_der(store.import_secret(bad, OWNER), OWNER)
        assert error.value.size_bytes == 48


@given(data=st.data())
@settings(max_examples=150)
def test_damaged_der_never_yields_another_key(data: st.DataObject) -> None:
    good = pkcs8(private_key(Curve.P256, 99))
    damaged = bytearray(good)
    for _ in range(data.draw(st.integers(1, 3))):
        damaged[data.draw(st.integers(0, len(good) - 1))] = data.draw(st.integers(0, 255))
    store = KeyStore()
    try:
        handle = store.ec_import_der(store.import_secret(bytes(damaged), OWNER), OWNER)
        assert store.ec_public(handle) == point_of(private_key(Curve.P256, 99))
    except (DecodeError, KeyStructureError):
        pass
    finally:
        store.close()


@pytest.mark.parametrize("curve", Curve)
def test_derived_keys_depend_on_all_input(store: KeyStore, curve: Curve) -> None:
    secret = store.import_secret(bytes(range(48)), OWNER)
    other = store.import_secret(bytes(range(1, 49)), OWNER)
    inputs = [(secret, b"label", [b"context"]), (secret, b"label", [b"con", b"text"]), (other, b"label", [b"context"]),
              (secret, b"Label", [b"context"]), (secret, b"label", [secret])]  # fmt: skip
    points = [store.ec_public(store.ec_derive(curve, key, label, context, OWNER)) for key, label, context in inputs]
    assert points[0] == points[1]
    assert len(set(points)) == 4


def test_derivation_follows_fips_186_5(store: KeyStore) -> None:
    """Recomputed with another HMAC: candidate plus one, the first below n - 1."""
    import hmac

    secret = bytes(range(48))
    for curve in Curve:
        size, counter = curve.size_bytes, 0
        while True:
            fixed = b"label\0context" + bytes([counter]) + (8 * size).to_bytes(4, "big")
            blocks = b"".join(
                hmac.digest(secret, (i + 1).to_bytes(4, "big") + fixed, "sha384") for i in range(-(-size // 48))
            )
            candidate = int.from_bytes(blocks[:size]) & (2 ** ORDER[curve].bit_length() - 1)
            if candidate < ORDER[curve] - 1:
                break
            counter += 1
        handle = store.ec_derive(curve, store.import_secret(secret, OWNER), b"label", [b"context"], OWNER)
        assert store.ec_public(handle) == point_of(private_key(curve, candidate + 1))


@pytest.mark.parametrize("curve", Curve)
@pytest.mark.parametrize("test", [PairwiseTest.SIGN, PairwiseTest.AGREE])
def test_pairwise(store: KeyStore, curve: Curve, test: PairwiseTest) -> None:
    key = store.ec_generate(curve, OWNER)
    store.ec_pairwise_test(key, test)
    store.set_fault("pct-ec", 1)
    with pytest.raises(PairwiseTestError):
        store.ec_pairwise_test(key, test)
    store.ec_pairwise_test(key, test)
    with pytest.raises(ArgumentError):
        store.ec_pairwise_test(key, PairwiseTest.ENCRYPT)


def test_digest_is_the_one_of_the_interface(store: KeyStore) -> None:
    assert store.digest(Hash.SHA256, b"abc").hex() == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
