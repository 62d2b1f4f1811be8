# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Key agreement and derivation: what the device derives is what another library derives on the peer's side."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from typing import Any, cast

import pytest
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, hmac
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.kdf.kbkdf import KBKDFHMAC, CounterLocation, Mode

from ihsm import Hsm
from ihsm.api.cbc import AesCbcKey
from ihsm.api.ec_key import EcPrivateKey
from ihsm.api.errors import MacMismatchError
from ihsm.api.gcm import AesGcmKey
from ihsm.api.hmac_key import HmacKey
from ihsm.api.objects import HsmKey
from ihsm.api.secret_key import SecretKey
from ihsm.api.xts import AesXtsKey
from ihsm.embedded import EmbeddedDevice
from ihsm.errors import ArgumentError, ArgumentTypeError, KeyExistsError


@pytest.fixture(scope="module")
def hsm() -> Iterator[Hsm]:
    with Hsm.private() as hsm:
        yield hsm


CURVES = {"p256": ec.SECP256R1(), "p384": ec.SECP384R1(), "p521": ec.SECP521R1()}
HASHES = [hashes.SHA1(), hashes.SHA256(), hashes.SHA384(), hashes.SHA512()]
AES_BYTES = {"aes128": 16, "aes192": 24, "aes256": 32, "aes256-gcm": 32, "aes256-gcm-approved": 32}
MACS = {"hmac-sha256": hashes.SHA256(), "hmac-sha384": hashes.SHA384(), "hmac-sha512": hashes.SHA512()}
LENGTHS = {"hmac-sha256": (32, 33, 64), "hmac-sha384": (48, 49, 128), "hmac-sha512": (64, 65, 128)}


def agreed(hsm: Hsm, curve: str) -> tuple[SecretKey, bytes]:
    """A secret in the device, and the same as the peer has it."""
    if f"agree-{curve}" not in hsm:
        hsm.generate(f"agree-{curve}", curve, usage="agree")
    key, peer = cast(EcPrivateKey, hsm[f"agree-{curve}"]), ec.generate_private_key(CURVES[curve])
    return key.agree(peer.public_key()), peer.exchange(ec.ECDH(), key.public_key())


@pytest.fixture(scope="module")
def pair(hsm: Hsm) -> tuple[SecretKey, bytes]:
    return agreed(hsm, "p256")


def by_hkdf(
    secret: bytes, algorithm: hashes.HashAlgorithm, length: int, salt: bytes | None, info: bytes | None
) -> bytes:
    return HKDF(algorithm, length, salt, info or b"").derive(secret)


def by_kbkdf(
    secret: bytes, algorithm: hashes.HashAlgorithm, length: int, label: bytes | None, context: bytes | None
) -> bytes:
    where = CounterLocation.BeforeFixed
    kdf = KBKDFHMAC(algorithm, Mode.CounterMode, length, 4, 4, where, label or b"", context or b"", None)
    return kdf.derive(secret)


def assert_is(key: HsmKey, secret: bytes) -> None:
    """A key in the device does what another library does with these bytes."""
    data, iv = os.urandom(48), os.urandom(16)
    if isinstance(key, AesCbcKey):
        assert key.encrypt(iv, data) == Cipher(algorithms.AES(secret), modes.CBC(iv)).encryptor().update(data)
    elif isinstance(key, AesGcmKey):
        assert key.decrypt(iv[:12], AESGCM(secret).encrypt(iv[:12], data, b"a"), b"a") == data
    elif isinstance(key, AesXtsKey):
        assert key.encrypt(iv, data) == Cipher(algorithms.AES(secret), modes.XTS(iv)).encryptor().update(data)
    else:
        assert isinstance(key, HmacKey)
        judge = hmac.HMAC(secret, MACS[key.facts.kind])
        judge.update(data)
        assert key.sign(data) == judge.finalize()


@pytest.mark.parametrize("curve", CURVES)
@pytest.mark.parametrize("algorithm", HASHES, ids=lambda each: each.name)
@pytest.mark.parametrize(("salt", "info"), [(None, None), (b"", b""), (b"salt", b"info"), (bytes(256), bytes(256))])
def test_hkdf(hsm: Hsm, curve: str, algorithm: hashes.HashAlgorithm, salt: bytes | None, info: bytes | None) -> None:
    secret, shared = agreed(hsm, curve)
    key = secret.hkdf(algorithm, kind="aes256-gcm", salt=salt, info=info)
    assert (key.facts.kind, key.facts.origin, key.label) == ("aes256-gcm", "derived", None)
    assert_is(key, by_hkdf(shared, algorithm, 32, salt, info))


@pytest.mark.parametrize("curve", CURVES)
@pytest.mark.parametrize("algorithm", HASHES, ids=lambda each: each.name)
@pytest.mark.parametrize(("label", "context"), [(None, None), (b"label", b"context"), (bytes(256), bytes(256))])
def test_kbkdf(
    hsm: Hsm, curve: str, algorithm: hashes.HashAlgorithm, label: bytes | None, context: bytes | None
) -> None:
    secret, shared = agreed(hsm, curve)
    key = secret.kbkdf(algorithm, kind="aes256", label=label, context=context)
    assert_is(key, by_kbkdf(shared, algorithm, 32, label, context))


@pytest.mark.parametrize("kind", AES_BYTES)
def test_every_kind_of_aes_key(pair: tuple[SecretKey, bytes], kind: str) -> None:
    secret, shared = pair
    sha = hashes.SHA384()
    size = AES_BYTES[kind]
    assert_is(secret.hkdf(sha, kind=kind, info=b"i", length=size), by_hkdf(shared, sha, size, None, b"i"))
    assert_is(secret.kbkdf(sha, kind=kind, context=b"c"), by_kbkdf(shared, sha, size, None, b"c"))


def test_an_xts_key_is_two_derivations(pair: tuple[SecretKey, bytes]) -> None:
    secret, shared = pair
    sha = hashes.SHA256()
    halves = [by_hkdf(shared, sha, 32, b"s", info) for info in (b"data", b"tweak")]
    assert_is(secret.hkdf(sha, kind="aes256-xts", salt=b"s", info=(b"data", b"tweak")), b"".join(halves))
    halves = [by_kbkdf(shared, sha, 32, b"l", context) for context in (b"data", b"tweak")]
    assert_is(secret.kbkdf(sha, kind="aes256-xts", label=b"l", context=(b"data", b"tweak")), b"".join(halves))
    with pytest.raises(ArgumentError, match="hkdf: info: aes256-xts is two keys: a pair needed"):
        secret.hkdf(sha, kind="aes256-xts", info=b"data")
    with pytest.raises(ArgumentError, match="hkdf: info: the two keys of AES-XTS would be the same"):
        secret.hkdf(sha, kind="aes256-xts", info=(b"data", b"data"))
    with pytest.raises(ArgumentTypeError, match="kbkdf: context: a pair, aes256 is one key"):
        secret.kbkdf(sha, kind="aes256", context=(b"data", b"tweak"))


@pytest.mark.parametrize(("kind", "length"), [(kind, size) for kind in LENGTHS for size in (None, *LENGTHS[kind])])
def test_hmac_keys_of_every_length(pair: tuple[SecretKey, bytes], kind: str, length: int | None) -> None:
    secret, shared = pair
    size = length or MACS[kind].digest_size
    sha = hashes.SHA256()
    assert_is(secret.hkdf(sha, kind=kind, length=length), by_hkdf(shared, sha, size, None, None))
    assert_is(secret.kbkdf(sha, kind=kind, label=b"l", length=length), by_kbkdf(shared, sha, size, b"l", None))


def test_macs(pair: tuple[SecretKey, bytes]) -> None:
    secret, shared = pair
    key = cast(HmacKey, secret.hkdf(hashes.SHA256(), kind="hmac-sha256"))
    judge = hmac.HMAC(by_hkdf(shared, hashes.SHA256(), 32, None, None), hashes.SHA256())
    judge.update(bytes(1024))
    tag = key.sign(bytearray(1024))
    assert tag == judge.finalize()
    key.verify(bytes(1024), tag)
    assert len(key.sign(b"")) == 32
    for wrong in (tag[:-1], tag + b"x", b"", bytes([tag[0] ^ 1]) + tag[1:]):
        for error in (MacMismatchError, InvalidSignature):
            with pytest.raises(error):
                key.verify(bytes(1024), wrong)
    with pytest.raises(MacMismatchError, match="verify: the tag is not that of this message under a derived"):
        key.verify(bytes(1023), tag)
    for attempt in (lambda: key.sign(bytes(1025)), lambda: key.verify(bytes(1025), tag)):
        with pytest.raises(ArgumentError, match="message: 1025 bytes, the device takes at most 1024"):
            attempt()
    with pytest.raises(ArgumentTypeError, match="sign: message: str"):
        key.sign(cast(Any, "text"))
    with pytest.raises(ArgumentTypeError, match="verify: tag: NoneType"):
        key.verify(b"", cast(Any, None))


def test_awaited(hsm: Hsm) -> None:
    async def main() -> None:
        agreed(hsm, "p256")
        own, peer = cast(EcPrivateKey, hsm["agree-p256"]), ec.generate_private_key(ec.SECP256R1())
        secret = await own.agree_async(peer.public_key())
        shared, sha = peer.exchange(ec.ECDH(), own.public_key()), hashes.SHA512()
        mac = cast(HmacKey, await secret.hkdf_async(sha, kind="hmac-sha512", info=b"i"))
        cbc = await secret.kbkdf_async(sha, kind="aes128", label=b"l")
        tag = await mac.sign_async(b"m")
        judge = hmac.HMAC(by_hkdf(shared, sha, 64, None, b"i"), sha)
        judge.update(b"m")
        assert tag == judge.finalize()
        await mac.verify_async(b"m", tag)
        with pytest.raises(MacMismatchError):
            await mac.verify_async(b"n", tag)
        return_value.append((cbc, by_kbkdf(shared, sha, 16, b"l", None)))

    return_value: list[tuple[HsmKey, bytes]] = []
    asyncio.run(main())
    assert_is(*return_value[0])


@pytest.mark.parametrize(
    ("parameters", "error", "words"),
    [
        ({"kind": "des"}, ArgumentError, "hkdf: kind: 'des', one of aes128, .*hmac-sha512 needed"),
        ({"kind": 3}, ArgumentTypeError, "hkdf: kind: int"),
        ({"kind": "p256"}, ArgumentError, "hkdf: kind: p256, the device derives aes128"),
        ({"kind": "secret256"}, ArgumentError, "hkdf: kind: secret256, the device derives"),
        ({"kind": "aes128", "length": 32}, ArgumentError, "hkdf: length: 32, aes128 has 16 bytes"),
        ({"kind": "hmac-sha256", "length": 31}, ArgumentError, "hkdf: length: 31, hmac-sha256 has 32 to 64 bytes"),
        ({"kind": "hmac-sha384", "length": 129}, ArgumentError, "hkdf: length: 129, hmac-sha384 has 48 to 128 bytes"),
        ({"kind": "hmac-sha384", "length": "x"}, ArgumentTypeError, "hkdf: length: str"),
        ({"kind": "aes128", "info": bytes(257)}, ArgumentError, "hkdf: info: 257 bytes, at most 256"),
        ({"kind": "aes128", "salt": bytes(257)}, ArgumentError, "hkdf: salt: 257 bytes, at most 256"),
        ({"kind": "aes128", "salt": "salt"}, ArgumentTypeError, "hkdf: salt: str"),
    ],
)
def test_what_cannot_be_derived(
    pair: tuple[SecretKey, bytes], parameters: Any, error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        pair[0].hkdf(hashes.SHA256(), **parameters)


def test_hashes_that_the_device_does_not_have(pair: tuple[SecretKey, bytes]) -> None:
    with pytest.raises(UnsupportedAlgorithm, match=r"kbkdf: the device derives with sha1, .*, not sha3-256"):
        pair[0].kbkdf(hashes.SHA3_256(), kind="aes128")
    with pytest.raises(ArgumentTypeError, match="hkdf: algorithm: ABCMeta, must be a HashAlgorithm"):
        pair[0].hkdf(cast(Any, hashes.SHA256), kind="aes128")


def test_agreement_needs_a_key_and_a_peer_that_fit(hsm: Hsm) -> None:
    signing = cast(EcPrivateKey, hsm.generate("signing", "p256", usage="sign"))
    with pytest.raises(ArgumentError, match="agree: key: key 'signing' was made for sign, agree is needed"):
        signing.agree(ec.generate_private_key(ec.SECP256R1()).public_key())
    agreed(hsm, "p256")
    key = cast(EcPrivateKey, hsm["agree-p256"])
    with pytest.raises(ArgumentError, match="agree: peer_public_key: on secp384r1, key 'agree-p256' is on secp256r1"):
        key.agree(ec.generate_private_key(ec.SECP384R1()).public_key())
    with pytest.raises(ArgumentTypeError, match="agree: peer_public_key: bytes"):
        key.agree(cast(Any, b"key"))
    with pytest.raises(UnsupportedAlgorithm, match=r"exchange: .*agree"):
        key.exchange(ec.ECDH(), key.public_key())
    with pytest.raises(ArgumentError, match=r"sign: key: .* was made for agree, sign is needed"):
        key.sign(b"", ec.ECDSA(hashes.SHA256()))


@pytest.mark.parametrize("kind", ["hmac-sha256", "secret384"])
def test_kinds_that_are_only_derived(hsm: Hsm, kind: str) -> None:
    words = f"{kind} keys are only derived in the device, by agree"
    with pytest.raises(UnsupportedAlgorithm, match=words):
        hsm.generate("x", kind)
    with pytest.raises(UnsupportedAlgorithm, match=words):
        hsm.import_key("x", bytes(32), kind=kind)
    assert "x" not in hsm


def test_keys_are_kept_when_asked(tmp_path: Any) -> None:
    sha = hashes.SHA256()
    with Hsm.create("kept", device="private", root=tmp_path) as hsm:
        secret, shared = agreed(hsm, "p256")
        before = list(hsm)
        derived = {
            "gcm": secret.hkdf(sha, kind="aes256-gcm"),
            "xts": secret.hkdf(sha, kind="aes256-xts", info=(b"d", b"t")),
            "cbc": secret.hkdf(sha, kind="aes192"),
            "mac": secret.hkdf(sha, kind="hmac-sha256"),
            "long": secret.hkdf(sha, kind="hmac-sha512", length=100),
        }
        assert list(hsm) == before
        for label, key in {**derived, "secret": secret}.items():
            kept = hsm.keep(label, key)
            assert (kept.label, kept.facts.origin, kept.facts.kind) == (label, "derived", key.facts.kind)
        with pytest.raises(KeyExistsError):
            hsm.keep("gcm", derived["xts"])
        with pytest.raises(ArgumentError, match="keep: key: key 'gcm' is in the store already"):
            hsm.keep("again", hsm["gcm"])
        with pytest.raises(ArgumentTypeError, match="keep: key: bytes"):
            hsm.keep("again", cast(Any, b"key"))
        with pytest.raises(UnsupportedAlgorithm, match="rotate: hmac-sha256 keys are only derived"):
            hsm.rotate("mac")
    with Hsm.open("kept", root=tmp_path) as hsm:
        assert_is(hsm["gcm"], by_hkdf(shared, sha, 32, None, None))
        assert_is(hsm["xts"], b"".join(by_hkdf(shared, sha, 32, None, info) for info in (b"d", b"t")))
        assert_is(hsm["cbc"], by_hkdf(shared, sha, 24, None, None))
        assert_is(hsm["mac"], by_hkdf(shared, sha, 32, None, None))
        assert_is(hsm["long"], by_hkdf(shared, sha, 100, None, None))
        again = cast(SecretKey, hsm["secret"]).hkdf(sha, kind="aes128", info=b"tomorrow")
        assert_is(again, by_hkdf(shared, sha, 16, None, b"tomorrow"))
        with pytest.raises(ArgumentError, match=r"keep: key: .* is of another Hsm"):
            hsm.keep("stranger", secret)


def test_an_absent_salt_is_that_of_the_rfc_on_every_device(tmp_path: Any) -> None:
    with (
        EmbeddedDevice(["--profile", "firmware", "--state", str(tmp_path / "state")]) as device,
        Hsm.create("firmware", device=f"vfio-user:{device.socket_path}", root=tmp_path / "stores") as hsm,
    ):
        secret, shared = agreed(hsm, "p521")
        sha = hashes.SHA256()
        assert_is(secret.hkdf(sha, kind="aes256-gcm", info=b"i"), by_hkdf(shared, sha, 32, None, b"i"))
