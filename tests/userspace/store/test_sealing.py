# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""PIN, scrypt and AES-GCM, judged by pyca's scrypt; what is refused before scrypt takes the machine's memory."""

from __future__ import annotations

import base64
import json
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt as PycaScrypt
from hypothesis import given
from hypothesis import strategies as st

from ihsm.errors import ArgumentError, ArgumentTypeError, PinRequiredError, StoreDamagedError, WrongPinError
from ihsm.store import LONGEST_PIN, OwnerSecrets, Store, StoreDevice, prepare_pin
from ihsm.store.documents import encode_document, parse_document
from ihsm.store.sealing import Scrypt
from support.stores import SECRETS, new_store

SECRET_TEXTS = [base64.b64encode(value).decode() for value in (SECRETS.owner_key, SECRETS.credential_pin)]


def rewrite(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change fields of a document, as somebody does who knows how its digest is made."""
    content = parse_document(path.read_bytes(), path)
    change(content)
    path.write_bytes(encode_document(content))


def test_what_is_sealed_is_what_other_libraries_open(root: Path) -> None:
    store = new_store(root, pin="Straße\u00a0e\u0301")
    plain = json.loads((store.path / "store.json").read_bytes())
    owner = plain["owner"]
    kdf = owner["kdf"]
    assert kdf["name"] == "scrypt"
    material = PycaScrypt(salt=base64.b64decode(kdf["salt"]), length=64, n=kdf["n"], r=kdf["r"], p=kdf["p"]).derive(
        "Straße é".encode()
    )
    associated = json.dumps(
        {name: plain[name] for name in ("format", "id", "device", "identity")}, separators=(",", ":")
    )
    opened = AESGCM(material[:32]).decrypt(
        base64.b64decode(owner["nonce"]), base64.b64decode(owner["ciphertext"]), associated.encode()
    )
    assert base64.b64decode(json.loads(opened)["owner_key"]) == SECRETS.owner_key
    for text in SECRET_TEXTS:
        assert text not in (store.path / "store.json").read_text()


def test_the_default_takes_128_mebibytes() -> None:
    kdf = Scrypt()
    assert (kdf.n, kdf.r, kdf.p, len(kdf.salt)) == (1 << 17, 8, 1, 32)
    assert kdf.salt != Scrypt().salt
    expected = PycaScrypt(salt=kdf.salt, length=64, n=kdf.n, r=kdf.r, p=kdf.p).derive(b"1234")
    assert kdf.derive("1234").key == expected[:32]


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("cafe\u0301", "café"),
        ("a\u00a0b\u2003c\u3000d", "a b c d"),
        (" two  spaces ", " two  spaces "),
        ("Å", "Å"),
        ("Case", "Case"),
        ("ﬁ", "ﬁ"),
        ("🔑", "🔑"),
    ],
)
def test_pins_are_prepared_as_rfc_8265_has_it(typed: str, expected: str, root: Path) -> None:
    assert prepare_pin(typed) == expected
    new_store(root, pin=typed)
    assert Store.open("default", pin=expected, root=root).secrets == SECRETS


@pytest.mark.parametrize("pin", ["", "a\n", "\0", "\t", "\x7f", "\ud800", "\u0378", "x" * (LONGEST_PIN + 1), "é" * 513])
def test_what_is_no_pin(pin: str, root: Path) -> None:
    with pytest.raises(ArgumentError):
        new_store(root, pin=pin)
    assert Store.names(root) == []
    store = new_store(root, pin="1234")
    before = (store.path / "store.json").read_bytes()
    for call in (
        lambda: Store.open("default", pin=pin, root=root),
        lambda: store.change_pin("1234", pin),
        lambda: store.change_pin(pin, "1234"),
    ):
        with pytest.raises(ArgumentError) as caught:
            call()
        assert not pin or pin not in str(caught.value)
    assert (store.path / "store.json").read_bytes() == before


@pytest.mark.parametrize("pin", [b"1234", 1234])
def test_a_pin_is_a_text(pin: Any, root: Path) -> None:
    with pytest.raises(ArgumentTypeError):
        new_store(root, pin=pin)


@given(st.text())
def test_preparing_twice_changes_nothing(text: str) -> None:
    try:
        prepared = prepare_pin(text)
    except ArgumentError:
        return
    assert prepare_pin(prepared) == prepared


def test_wrong_missing_and_needless_pins(root: Path) -> None:
    new_store(root, "sealed", pin="1234")
    new_store(root, "plain")
    for wrong in ("1235", "12345", "123", " 1234", "１２３４"):
        with pytest.raises(WrongPinError, match="wrong PIN"):
            Store.open("sealed", pin=wrong, root=root)
    with pytest.raises(PinRequiredError, match="--pin-file"):
        Store.open("sealed", root=root)
    with pytest.raises(WrongPinError, match="has no PIN"):
        Store.open("plain", pin="1234", root=root)
    assert Store.open("sealed", pin="1234", root=root).pin_protected
    assert not Store.open("plain", root=root).pin_protected


def test_changing_the_pin(root: Path) -> None:
    store = new_store(root)
    for old, new in ((None, "1234"), ("1234", "5678"), ("5678", "5678"), ("5678", None), (None, None)):
        store.change_pin(old, new)
        assert store.pin_protected == (new is not None)
        assert Store.open("default", pin=new, root=root).secrets == SECRETS == store.secrets
    store.change_pin(None, "1234")
    before = (store.path / "store.json").read_bytes()
    for wrong, error in (("5678", WrongPinError), (None, PinRequiredError)):
        with pytest.raises(error):
            store.change_pin(wrong, "9")
    assert (store.path / "store.json").read_bytes() == before


def test_each_pin_has_its_salt_and_each_seal_its_nonce(root: Path) -> None:
    store = new_store(root, pin="1234")
    owners = []
    for change in (
        lambda: None,
        lambda: store.change_pin("1234", "1234"),
        lambda: store.update(identity=bytes(32)),
        lambda: store.update(identity=bytes(range(32))),
    ):
        change()
        owners.append(json.loads((store.path / "store.json").read_bytes())["owner"])
    assert len({owner["nonce"] for owner in owners}) == 4
    assert len({owner["kdf"]["salt"] for owner in owners}) == 2


def test_without_the_pin_all_but_the_secrets_can_be_had(root: Path) -> None:
    new_store(root, pin="1234")
    store = Store.open("default", root=root, unlock=False)
    assert (store.pin_protected, store.bmk) == (True, b"bmk")
    store.update(bmk=b"other")
    for call in (lambda: store.secrets, lambda: store.update(device=StoreDevice.at("pci:1"))):
        with pytest.raises(PinRequiredError):
            call()
    assert Store.open("default", pin="1234", root=root).bmk == b"other"
    new_store(root, "plain")
    assert Store.open("plain", root=root, unlock=False).secrets == SECRETS


def test_a_pin_that_was_changed_meanwhile(root: Path) -> None:
    new_store(root, pin="1234")
    stale = Store.open("default", pin="1234", root=root)
    Store.open("default", pin="1234", root=root).change_pin("1234", "5678")
    stale.update(bmk=b"other")
    with pytest.raises(WrongPinError, match="changed meanwhile"):
        stale.update(identity=bytes(32))
    current = Store.open("default", pin="5678", root=root)
    assert (current.bmk, current.identity) == (b"other", stale.identity)


@pytest.mark.parametrize(
    "change",
    [
        lambda content: content.update(device={"kind": "uri", "uri": "vfio-user:/tmp/mallory"}),
        lambda content: content.update(identity="00" * 32),
        lambda content: content.update(id="00" * 16),
        lambda content: content["owner"].update(nonce=base64.b64encode(bytes(12)).decode()),
        lambda content: content["owner"].update(ciphertext=base64.b64encode(bytes(99)).decode()),
    ],
)
def test_a_device_that_was_put_in_the_place_of_the_store_s(
    root: Path, change: Callable[[dict[str, Any]], object]
) -> None:
    """Who may write the file and knows the digest, but not the PIN, cannot have the owner's key used elsewhere."""
    store = new_store(root, pin="1234")
    rewrite(store.path / "store.json", change)
    with pytest.raises(StoreDamagedError, match="changed by something else"):
        Store.open("default", pin="1234", root=root)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("n", 1 << 24),
        ("n", 1 << 60),
        ("n", 100),
        ("n", 0),
        ("n", -2),
        ("n", True),
        ("n", 16.0),
        ("r", 1 << 20),
        ("r", 0),
        ("p", 1 << 20),
        ("p", 0),
        ("salt", ""),
        ("salt", "AAAA"),
        ("salt", "A" * 1000),
        ("salt", None),
        ("name", "pbkdf2"),
        ("name", ["scrypt"]),
    ],
)
def test_parameters_that_would_eat_the_machine(root: Path, field: str, value: Any) -> None:
    store = new_store(root, pin="1234")
    rewrite(store.path / "store.json", lambda content: content["owner"]["kdf"].update({field: value}))
    with pytest.raises(StoreDamagedError, match=rf"owner\.kdf\.{field}: "):
        Store.open("default", pin="1234", root=root)


@pytest.mark.parametrize(
    ("n", "r", "p"), [(1 << 20, 16, 1), (1 << 23, 2, 1), (1 << 10, 1 << 10, 1 << 10), (1 << 17, 8, 64)]
)
def test_parameters_that_are_too_much_together(root: Path, n: int, r: int, p: int) -> None:
    store = new_store(root, pin="1234")
    rewrite(store.path / "store.json", lambda content: content["owner"]["kdf"].update(n=n, r=r, p=p))
    with pytest.raises(StoreDamagedError, match=r"owner\.kdf: n, r and p"):
        Store.open("default", pin="1234", root=root)


def test_what_others_made_with_more_work_opens() -> None:
    kdf = Scrypt.parse(Scrypt(n=1 << 20, r=8, p=1).record())
    assert kdf.n == 1 << 20


def test_no_secret_is_shown(root: Path) -> None:
    secrets = OwnerSecrets(b"owner-key-secret", b"credential-id-16", b"credential-pin16")
    shown = []
    for name, pin in (("sealed", "pin-secret"), ("plain", None)):
        store = new_store(root, name, pin=pin, secrets=secrets)
        shown += [repr(store), str(store), repr(store.secrets), repr(store._header), repr(store._key)]
        rewrite(store.path / "store.json", lambda content: content["owner"].update(extra="owner-key-secret"))
        with pytest.raises(StoreDamagedError) as caught:
            Store.open(name, pin=pin, root=root)
        path = store.path / "store.json"
        path.write_bytes(path.read_bytes()[:-3])
        with pytest.raises(StoreDamagedError) as cut:
            Store.open(name, pin=pin, root=root)
        for error in (caught.value, cut.value):
            context: BaseException | None = error
            while context is not None:
                shown += [repr(context), repr(vars(context)), "".join(traceback.format_exception(context))]
                shown.append(repr(getattr(context, "doc", "")))
                context = context.__context__
    for text in shown:
        for secret in (secrets.owner_key, secrets.credential_pin, b"pin-secret"):
            assert secret.decode() not in text
            assert base64.b64encode(secret).decode() not in text


@pytest.mark.parametrize(
    "values",
    [
        (b"", b"i" * 16, b"p" * 16),
        (b"k", b"i" * 15, b"p" * 16),
        (b"k", b"i" * 16, b"p" * 17),
        (b"k" * 4097, b"i" * 16, b"p" * 16),
    ],
)
def test_secrets_of_another_length(values: tuple[bytes, bytes, bytes]) -> None:
    with pytest.raises(ArgumentError):
        OwnerSecrets(*values)
