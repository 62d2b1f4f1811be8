# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Keys by name: made, imported, rotated, renamed, deleted, attested; and what is refused before anything is done."""

from __future__ import annotations

import copy
import pickle
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, cast

import pytest
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from ihsm import Hsm
from ihsm.api import making
from ihsm.api.ec_key import EcPrivateKey
from ihsm.api.errors import KeyNotExportableError, UnsupportedByDeviceError
from ihsm.api.handles import DeviceKey
from ihsm.api.kinds import KINDS, Usage, kind_of, usages_of
from ihsm.api.rsa_key import RsaPrivateKey
from ihsm.api.stored import stored
from ihsm.ddi import AttestationError, Session
from ihsm.ddi.errors import StatusError
from ihsm.errors import (
    ArgumentError,
    ArgumentTypeError,
    IhsmError,
    KeyExistsError,
    KeyNotFoundError,
    KeysLostError,
    StoreDamagedError,
    StoreError,
)
from ihsm.store import KeyRecord, KeyVersion
from ihsm_abi.ddi import DdiOp, DdiStatus, GetUnwrappingKeyReq
from support.certificates import certificate
from support.waiting import HANG_S

ECDSA = ec.ECDSA(hashes.SHA256())
PASSWORD = b"correct horse"
Labels = Callable[[str], str]


def signs(key: object, message: bytes = b"message") -> None:
    if isinstance(key, EcPrivateKey):
        key.public_key().verify(key.sign(message, ECDSA), message, ECDSA)
    else:
        assert isinstance(key, RsaPrivateKey)
        signature = key.sign(message, padding.PKCS1v15(), hashes.SHA256())
        key.public_key().verify(signature, message, padding.PKCS1v15(), hashes.SHA256())


# -- names -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["web", "a b", "../../etc/passwd", "Schlüssel ☂", "x" * 128, "a\u0301", "web@", "@1x", "-rf", "%s{}"]
)
def test_labels_with_odd_characters(hsm: Hsm, name: str) -> None:
    key = hsm.generate(name, "p256")
    try:
        assert name in hsm
        assert name in list(hsm)
        assert key.label == name
        signs(hsm[name])
        assert cast(EcPrivateKey, hsm[name]).public_key() == cast(EcPrivateKey, key).public_key()
    finally:
        hsm.delete(name)
    assert name not in hsm


@pytest.mark.parametrize("name", ["", "web@1", "a\nb", "x" * 129, "ü" * 65, "\ud800", "\x7f", "a\u2028b"])
def test_what_is_no_label_is_refused_before_a_key_is_made(hsm: Hsm, name: str) -> None:
    before = len(hsm.connection.link.residents), len(hsm)
    with pytest.raises(ArgumentError, match="generate: label"):
        hsm.generate(name, "p256")
    with pytest.raises(ArgumentError, match="import_key: label"):
        hsm.import_key(name, ec.generate_private_key(ec.SECP256R1()))
    assert (len(hsm.connection.link.residents), len(hsm)) == before


def test_a_label_that_is_no_text(hsm: Hsm) -> None:
    with pytest.raises(ArgumentTypeError):
        hsm.generate(b"web", "p256")  # type: ignore[arg-type]
    assert b"web" not in hsm
    assert "" not in hsm
    assert "web@0" not in hsm


def test_what_is_not_there(hsm: Hsm) -> None:
    for use in (lambda: hsm["nobody"], lambda: hsm.delete("nobody"), lambda: hsm.rotate("nobody"),
                lambda: hsm.attest("nobody"), lambda: hsm.rename("nobody", "x"), lambda: hsm["nobody@3"]):  # fmt: skip
        with pytest.raises(KeyError) as raised:
            use()
        assert isinstance(raised.value, KeyNotFoundError)
        assert "no key 'nobody'" in str(raised.value)


def test_a_key_is_not_replaced(hsm: Hsm, label: Labels) -> None:
    name = label("first")
    public = cast(EcPrivateKey, hsm.generate(name, "p256")).public_key()
    count = len(hsm.connection.link.residents)
    for again in (
        lambda: hsm.generate(name, "p256"),
        lambda: hsm.import_key(name, ec.generate_private_key(ec.SECP256R1())),
    ):
        with pytest.raises(KeyExistsError, match="is not replaced: delete or rename it"):
            again()
    assert len(hsm.connection.link.residents) == count, "it was refused before the device made anything"
    assert cast(EcPrivateKey, hsm[name]).public_key() == public


def test_two_at_once_make_one_key(hsm: Hsm, label: Labels) -> None:
    name, together = label("both"), threading.Barrier(4)

    def make() -> object:
        together.wait(HANG_S)
        return hsm.generate(name, "p256")

    with ThreadPoolExecutor(4) as pool:
        futures = [pool.submit(make) for _ in range(4)]
        ends = [future.exception(HANG_S) for future in futures]
    assert [type(end) for end in ends if end is not None] == [KeyExistsError] * 3
    (made,) = [future.result() for future, end in zip(futures, ends, strict=True) if end is None]
    assert made.public_key() == cast(EcPrivateKey, hsm[name]).public_key()  # type: ignore[attr-defined]


def test_rename(hsm: Hsm, label: Labels) -> None:
    old, new = label("old"), label("new")
    key = hsm.generate(old, "p256")
    hsm.rename(old, new)
    assert old not in hsm
    signs(key)
    signs(hsm[new])
    hsm.generate(old, "p256")
    with pytest.raises(KeyExistsError):
        hsm.rename(old, new)


# -- versions ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["p256", "rsa2048"])
def test_rotation_keeps_old_versions_usable(hsm: Hsm, label: Labels, kind: str) -> None:
    name = label("turned")
    first = hsm.generate(name, kind)
    second = hsm.rotate(name)
    assert (first.version, second.version) == (1, 2)
    assert second.kind == kind
    publics = [cast(EcPrivateKey, hsm[each]).public_key() for each in (f"{name}@1", f"{name}@2", name)]
    assert publics[0] != publics[1] == publics[2]
    for key in (first, second, hsm[f"{name}@1"], hsm[name]):
        signs(key)
    hsm.delete(f"{name}@2")
    assert f"{name}@2" not in hsm
    assert hsm[name].version == 1
    assert hsm.rotate(name).version == 3, "a number never means two keys"


def test_rotation_keeps_usages(hsm: Hsm, label: Labels) -> None:
    hsm.generate(label("both"), "rsa2048", usage={"sign", "decrypt"})
    assert hsm.rotate(label("both")).usages == (Usage.SIGN, Usage.DECRYPT)
    hsm.generate(label("agree"), "p256", usage="agree")
    assert hsm.rotate(label("agree")).usages == (Usage.AGREE,)


# -- deletion ----------------------------------------------------------------------------------------------------------


def test_a_deleted_key_is_gone_from_store_and_device(hsm: Hsm, label: Labels) -> None:
    name = label("gone")
    key = hsm.generate(name, "p256")
    hsm.rotate(name)
    signs(key)
    before = len(hsm.connection.link.residents)
    hsm.delete(name)
    assert len(hsm.connection.link.residents) == before - 2
    with pytest.raises(KeyNotFoundError, match=f"sign: key '{name}' was deleted"):
        signs(key)
    hsm.connection.link.device.reset(subsystem=True)
    with pytest.raises(KeyNotFoundError):
        signs(key)
    with pytest.raises(KeyNotFoundError, match="attest"):
        key.attest()


def test_deletion_of_a_key_in_use(hsm: Hsm, label: Labels, caplog: pytest.LogCaptureFixture) -> None:
    """Whoever signs has signed or is told; nobody takes the device for lost."""
    key = hsm.generate(label("used"), "p256")
    ends: list[BaseException] = []
    begun = threading.Barrier(5)

    def work() -> None:
        signs(key)
        begun.wait(HANG_S)
        try:
            while True:
                signs(key)
        except BaseException as error:
            ends.append(error)

    with ThreadPoolExecutor(4) as pool:
        for _ in range(4):
            pool.submit(work)
        begun.wait(HANG_S)
        caplog.clear()
        hsm.delete(label("used"))
    assert [type(end) for end in ends] == [KeyNotFoundError] * 4
    assert not caplog.records


def test_a_key_is_deleted_though_the_device_cannot_be_told(
    hsm: Hsm, label: Labels, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    hsm.generate(label("gone"), "p256")

    def lost(*_: Any) -> None:
        raise IhsmError("the device is gone")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(hsm.connection), "run", lost)
        hsm.delete(label("gone"))
    assert label("gone") not in hsm
    assert "the device could not be told: the device is gone" in caplog.text


# -- import ------------------------------------------------------------------------------------------------------------

EC_CURVES: dict[str, ec.EllipticCurve] = {"p256": ec.SECP256R1(), "p384": ec.SECP384R1(), "p521": ec.SECP521R1()}


@pytest.fixture(scope="module")
def owns() -> dict[str, Any]:
    keys: dict[str, Any] = {kind: ec.generate_private_key(curve) for kind, curve in EC_CURVES.items()}
    return keys | {f"rsa{bits}": rsa.generate_private_key(65537, bits) for bits in (2048, 3072, 4096)}


@pytest.mark.parametrize("kind", ["p256", "p384", "p521", "rsa2048", "rsa3072", "rsa4096"])
def test_keys_of_all_kinds_come_in(hsm: Hsm, owns: dict[str, Any], label: Labels, kind: str) -> None:
    key = hsm.import_key(label("own"), owns[kind])
    assert (key.kind, key.origin, key.usages) == (kind, "host", (Usage.SIGN,))
    assert cast(EcPrivateKey, key).public_key() == owns[kind].public_key()
    signs(key)


FORMS = {
    "PEM PKCS8": (Encoding.PEM, PrivateFormat.PKCS8),
    "PEM traditional": (Encoding.PEM, PrivateFormat.TraditionalOpenSSL),
    "DER PKCS8": (Encoding.DER, PrivateFormat.PKCS8),
    "DER traditional": (Encoding.DER, PrivateFormat.TraditionalOpenSSL),
}


@pytest.mark.parametrize("kind", ["p256", "rsa2048"])
@pytest.mark.parametrize("form", FORMS)
def test_keys_of_all_forms_come_in(hsm: Hsm, owns: dict[str, Any], label: Labels, kind: str, form: str) -> None:
    data = owns[kind].private_bytes(*FORMS[form], NoEncryption())
    for number, given in enumerate((data, bytearray(data), memoryview(data))):
        key = hsm.import_key(label(f"{kind} {form} {number}"), given)
        assert cast(EcPrivateKey, key).public_key() == owns[kind].public_key()


@pytest.mark.parametrize("encoding", [Encoding.PEM, Encoding.DER])
def test_encrypted_keys(hsm: Hsm, owns: dict[str, Any], label: Labels, encoding: Encoding) -> None:
    data = owns["p256"].private_bytes(encoding, PrivateFormat.PKCS8, BestAvailableEncryption(PASSWORD))
    for password in (None, b"wrong", b""):
        with pytest.raises(ArgumentError, match=r"import_key: (key: .* its password is wrong|password: .*not given)"):
            hsm.import_key(label("locked"), data, password=password)
    assert label("locked") not in hsm
    signs(hsm.import_key(label("locked"), data, password=PASSWORD))
    with pytest.raises(ArgumentTypeError, match="password: str"):
        hsm.import_key(label("other"), data, password="text")  # type: ignore[arg-type]


def test_text_around_a_pem(hsm: Hsm, owns: dict[str, Any], label: Labels) -> None:
    """OpenSSL says what it knows of a key before it (`openssl pkcs12`), and a certificate may be beside it."""
    pem = owns["p256"].private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    leaf = x509.load_der_x509_certificate(certificate(1)).public_bytes(Encoding.PEM)
    signs(hsm.import_key(label("bag"), b"Bag Attributes\n    localKeyID: 01 02\nKey Attributes: <No>\n" + pem))
    signs(hsm.import_key(label("beside"), leaf + pem))


def test_keys_in_the_format_of_openssh(hsm: Hsm, owns: dict[str, Any]) -> None:
    data = owns["p256"].private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())
    refused(hsm, ValueError, "OpenSSH.*ssh-keygen -p -m PKCS8", data)


def refused(hsm: Hsm, error: type[Exception], match: str, *arguments: Any, **named: Any) -> None:
    count = len(hsm)
    with pytest.raises(error, match=match) as raised:
        hsm.import_key("refused", *arguments, **named)
    assert isinstance(raised.value, IhsmError)
    assert len(hsm) == count
    assert "refused" not in hsm


def test_keys_that_the_device_does_not_take(hsm: Hsm, owns: dict[str, Any]) -> None:
    edwards = ed25519.Ed25519PrivateKey.generate()
    pem = edwards.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    refused(hsm, UnsupportedAlgorithm, "Ed25519PrivateKey: the device takes EC and RSA", pem)
    refused(hsm, TypeError, "Ed25519PrivateKey, must be", edwards)
    small = rsa.generate_private_key(65537, 1024)
    refused(hsm, UnsupportedByDeviceError, "RSA of 1024 bits: the device takes p256", small)
    for curve in (ec.SECP192R1(), ec.SECP256K1()):
        key = ec.generate_private_key(curve)
        refused(hsm, UnsupportedByDeviceError, f"{curve.name}: the device takes", key)
        pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        refused(hsm, UnsupportedByDeviceError, f"{curve.name}: the device takes", pem)


def test_what_is_no_private_key(hsm: Hsm, owns: dict[str, Any]) -> None:
    public = owns["p256"].public_key()
    refused(hsm, TypeError, "must be an EC or RSA private key", public)
    spki = public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    for garbage in (b"", b"garbage", bytes(1000), spki, b"-----BEGIN PRIVATE KEY-----\n", b"\x30\x82\xff\xff"):
        refused(hsm, ValueError, "no private key in PEM or DER", garbage)
    for thing in ("text", None, 7, ["list"]):
        refused(hsm, TypeError, "import_key: key", thing)


def test_the_kind_is_a_check(hsm: Hsm, owns: dict[str, Any]) -> None:
    refused(hsm, ValueError, "kind: p384, but the key is p256", owns["p256"], kind="p384")
    refused(hsm, ValueError, "kind: aes256, but the key is p256", owns["p256"], kind="aes256")
    refused(hsm, ValueError, "'p257', one of p256", owns["p256"], kind="p257")
    refused(hsm, TypeError, "kind: int", owns["p256"], kind=256)


def test_aes_keys_have_their_length(hsm: Hsm) -> None:
    for kind, size in (("aes128", 16), ("aes192", 24), ("aes256", 32), ("aes256-gcm", 32), ("aes256-xts", 64)):
        for wrong in (0, size - 1, size + 1):
            refused(hsm, ValueError, f"{wrong} bytes, an {kind} key has {size}", bytes(wrong), kind=kind)
    refused(hsm, ValueError, "two halves of an AES-XTS key must differ", bytes(range(32)) * 2, kind="aes256-xts")


def test_a_key_of_the_device_is_not_imported_again(hsm: Hsm, label: Labels) -> None:
    refused(hsm, UnsupportedAlgorithm, "does not leave it", hsm.generate(label("own"), "p256"))


def test_certificates_are_kept_with_the_key_in_one_write(
    hsm: Hsm, owns: dict[str, Any], label: Labels, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(type(hsm.store), "set_certificates", lambda *_: pytest.fail("a second write"))
    leaf, root = certificate(1, key=owns["p256"].public_key()), certificate(0)
    key = hsm.import_key(label("own"), owns["p256"], certificates=[leaf, bytearray(root)])
    assert key.certificates == hsm[label("own")].certificates == (leaf, root)
    refused(hsm, TypeError, "certificates: str", owns["p256"], certificates=["leaf"])
    refused(hsm, ValueError, "number 1 is none in DER", owns["p256"], certificates=[b"leaf"])
    refused(hsm, ValueError, "number 2 is none in DER", owns["p256"], certificates=[leaf, root[:-1]])
    refused(hsm, ValueError, "first one is not this key's", owns["p256"], certificates=[root, leaf])
    refused(hsm, ValueError, "first one is not this key's", bytes(32), kind="aes256", certificates=[leaf])


def test_certificates_are_replaced(hsm: Hsm, label: Labels) -> None:
    name = label("own")
    root = certificate(0)
    old, new = (
        certificate(1, key=cast(EcPrivateKey, key).public_key())
        for key in (hsm.generate(name, "p256"), hsm.rotate(name))
    )
    hsm.set_certificates(name, [new])
    hsm.set_certificates(f"{name}@1", [old, root])
    for wrong in ([old], [b"junk"], [new, b""]):
        with pytest.raises(ArgumentError, match="set_certificates: certificates"):
            hsm.set_certificates(name, wrong)
    assert hsm[name].certificates == (new,)
    assert hsm[f"{name}@1"].certificates == (old, root)
    hsm.set_certificates(name, [])
    assert hsm[name].certificates == ()


# -- usages ------------------------------------------------------------------------------------------------------------


def test_usages_are_refused_by_name(hsm: Hsm, owns: dict[str, Any]) -> None:
    refused(hsm, ValueError, "'decrypt', a p256 key has sign or agree", owns["p256"], usage="decrypt")
    refused(hsm, ValueError, "'agree', a rsa2048 key has sign or decrypt", owns["rsa2048"], usage="agree")
    refused(hsm, ValueError, "sign and agree: the device allows a key one usage", owns["p256"], usage={"sign", "agree"})
    refused(hsm, ValueError, "none given", owns["p256"], usage=[])
    refused(hsm, TypeError, "usage: int", owns["p256"], usage=[1])
    refused(hsm, TypeError, "usage: int", owns["p256"], usage=1)
    for kind, match in (("p257", "'p257', one of"), (None, "NoneType")):
        with pytest.raises(IhsmError, match=match):
            hsm.generate("x", kind)  # type: ignore[arg-type]


def test_the_first_usage_is_the_default() -> None:
    usages = {"p": Usage.SIGN, "r": Usage.SIGN, "h": Usage.SIGN, "a": Usage.ENCRYPT, "s": Usage.DERIVE}
    assert {name: usages_of("x", kind, None) for name, kind in KINDS.items()} == {
        name: (usages[name[0]],) for name in KINDS
    }
    assert usages_of("x", kind_of("x", "rsa2048"), ["decrypt", "sign"]) == (Usage.SIGN, Usage.DECRYPT)


def test_a_key_is_used_for_what_it_was_made_for(hsm: Hsm, label: Labels) -> None:
    agrees = cast(EcPrivateKey, hsm.generate(label("agrees"), "p256", usage="agree"))
    with pytest.raises(ArgumentError, match=r"sign: key: key '.*agrees' was made for agree, sign is needed"):
        agrees.sign(b"m", ECDSA)
    signing = cast(RsaPrivateKey, hsm.generate(label("signs"), "rsa2048"))
    with pytest.raises(ArgumentError, match=r"decrypt: key: .* was made for sign, decrypt is needed"):
        signing.decrypt(bytes(256), padding.PKCS1v15())


# -- attestation -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["p256", "p384", "p521", "rsa2048", "rsa4096"])
def test_reports_on_keys(hsm: Hsm, owns: dict[str, Any], label: Labels, kind: str) -> None:
    keys = [hsm.import_key(label("imported"), owns[kind])]
    if kind.startswith("p"):
        keys.append(hsm.generate(label("made"), kind))
    for key in keys:
        name = cast(str, key.label)
        for verified in (hsm.attest(name, b"nonce"), key.attest(b"nonce"), hsm.attest(key, bytearray(b"nonce"))):
            assert verified.content.public_key == cast(EcPrivateKey, key).public_key()
            assert verified.content.report_data.rstrip(b"\0") == b"nonce"
            assert verified.report
            assert len(verified.chain.der) >= 2


def test_a_report_on_another_key_is_refused(hsm: Hsm, label: Labels) -> None:
    one, other = (hsm.generate(label(name), "p256") for name in ("one", "other"))
    one.facts = other.facts  # as a store would have it whose public keys were exchanged
    with pytest.raises(AttestationError, match="about another key"):
        one.attest()


def test_report_data_are_checked(hsm: Hsm, label: Labels) -> None:
    key = hsm.generate(label("own"), "p256")
    assert key.attest(bytes(range(128))).content.report_data == bytes(range(128))
    with pytest.raises(ArgumentError, match="129 bytes, at most 128"):
        key.attest(bytes(129))
    with pytest.raises(ArgumentTypeError, match="report_data: str"):
        key.attest("text")  # type: ignore[arg-type]
    with pytest.raises(ArgumentTypeError, match="must be a label or a key"):
        hsm.attest(7)  # type: ignore[arg-type]


# -- key objects -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["p256", "rsa2048"])
def test_key_objects_are_copied_as_themselves_and_do_not_pickle(hsm: Hsm, label: Labels, kind: str) -> None:
    key = hsm.generate(label("own"), kind)
    assert copy.copy(key) is key
    assert copy.deepcopy([key])[0] is key
    for error in (KeyNotExportableError, TypeError, UnsupportedAlgorithm):
        with pytest.raises(error, match=r"pickle: key .* is in the device"):
            pickle.dumps(key)
    assert repr(key) == f"<{type(key).__name__} {kind}: key {label('own')!r}>"
    assert isinstance(key, DeviceKey)


# -- records that cannot be --------------------------------------------------------------------------------------------


def test_records_that_cannot_be(hsm: Hsm, owns: dict[str, Any], label: Labels) -> None:
    hsm.generate(label("own"), "p256")
    good = hsm.store.key(label("own")).newest
    rsa_public = owns["rsa2048"].public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    masked = good.usages["sign"]
    wrong: list[tuple[dict[str, Any], str, type[StoreError]]] = [
        ({"kind": "p257"}, "its kind 'p257' is not known here", StoreError),
        ({"public": None}, "public: no p256 public key", StoreDamagedError),
        ({"public": b"garbage"}, "public: no p256 public key", StoreDamagedError),
        ({"public": rsa_public}, "public: no p256 public key", StoreDamagedError),
        ({"kind": "p384"}, "public: no p384 public key", StoreDamagedError),
        ({"usages": {"fly": masked}}, "usages: a p256 key has sign or agree", StoreDamagedError),
        ({"kind": "aes256-xts", "public": None, "usages": {"encrypt": masked}}, "tweak is missing", StoreDamagedError),
        ({"kind": "aes256", "usages": {"encrypt": masked}}, "public: a aes256 key has none", StoreDamagedError),
    ]
    for number, (change, match, error) in enumerate(wrong):
        name = label(f"wrong {number}")
        fields = {"kind": good.kind, "usages": dict(good.usages), "public": good.public} | change
        hsm.store.add_key(KeyRecord(name, (KeyVersion(**fields),)))
        for use in (lambda name=name: hsm[name], lambda name=name: hsm.rotate(name)):
            with pytest.raises(error, match=match):
                use()
        assert name in hsm
        hsm.delete(name)
    assert stored("s", "l", good)[1] == {Usage.SIGN: (masked,)}


def test_a_key_of_another_device(hsm: Hsm, label: Labels) -> None:
    """Its masked form does not unmask: said by the key's name, with what to do."""
    hsm.generate(label("own"), "p256")
    good = hsm.store.key(label("own")).newest
    masked = bytearray(good.usages["sign"])
    masked[-1] ^= 1
    version = KeyVersion(kind="p256", usages={"sign": bytes(masked)}, public=good.public)
    hsm.store.add_key(KeyRecord(label("flawed"), (version,)))
    before = hsm.connection.link
    with pytest.raises(KeysLostError, match=r"sign: key '.*flawed': the device cannot read .*MaskedKeyDecodeFailed"):
        signs(hsm[label("flawed")])
    with pytest.raises(KeysLostError, match="attest: "):
        hsm.attest(label("flawed"))
    assert hsm.connection.link is before
    signs(hsm[label("own")])


def test_an_unwrapping_key_that_is_not_made_yet_is_waited_for(
    hsm: Hsm, owns: dict[str, Any], label: Labels, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, perform = [], Session.perform

    def pending(self: Session, call: Any) -> Any:
        if isinstance(call.request, GetUnwrappingKeyReq):
            asked.append(call)
            if len(asked) < 3:
                raise StatusError(DdiOp.GetUnwrappingKey, DdiStatus.PendingKeyGeneration)
        return perform(self, call)

    monkeypatch.setattr(making, "_PENDING_INTERVAL_S", 0.001)
    monkeypatch.setattr(Session, "perform", pending)
    signs(hsm.import_key(label("own"), owns["p256"]))
    assert len(asked) == 3
