# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Making a store: all of it or nothing, and what is in it; programs that are killed on the way leave old or new."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import load_der_private_key

import support
from ihsm import Hsm, ddi
from ihsm.api import devices, provisioning
from ihsm.api.connection import identity_of
from ihsm.api.ec_key import EcPrivateKey
from ihsm.errors import (
    ArgumentError,
    ArgumentTypeError,
    DeviceNotFoundError,
    IhsmError,
    KeyNotFoundError,
    PinRequiredError,
    StoreDamagedError,
    StoreError,
    StoreExistsError,
    StoreNotFoundError,
    WrongPinError,
)
from ihsm.store import OwnerSecrets, Store
from support.waiting import HANG_S
from userspace.api.conftest import Place

ECDSA = ec.ECDSA(hashes.SHA256())


def check(hsm: Hsm, label: str) -> None:
    key = hsm[label]
    assert isinstance(key, EcPrivateKey)
    key.public_key().verify(key.sign(b"m", ECDSA), b"m", ECDSA)


def test_what_a_store_has(place: Place) -> None:
    owner, bk3 = ec.generate_private_key(ec.SECP384R1()), bytes(range(48))
    with place.serve(), Hsm.create("mine", device=place.uri(), root=place.root, owner_key=owner, bk3=bk3) as hsm:
        store = Store.open("mine", root=place.root)
        assert store.identity == identity_of(hsm.connection.link.partition)
        assert store.device.uri == place.uri()
        kept = load_der_private_key(store.secrets.owner_key, None)
        assert isinstance(kept, ec.EllipticCurvePrivateKey)
        assert kept.private_numbers() == owner.private_numbers()
        assert store.unwrapping_key
        assert len(store.secrets.credential_pin) == 16
        assert not store.pin_protected
        assert not hsm.store.keys()
    with place.serve(), place.open("mine") as hsm:
        unwrapping = hsm.connection.link.session.unwrapping_key()
        assert unwrapping.public_key_der is not None


def test_two_stores_have_nothing_in_common(place: Place) -> None:
    with place.serve():
        place.create("one").close()
        place.create("two").close()
    one, two = (Store.open(name, root=place.root) for name in ("one", "two"))
    assert one.identity == two.identity, "it is the same device"
    for name in ("owner_key", "credential_id", "credential_pin"):
        assert getattr(one.secrets, name) != getattr(two.secrets, name)
    assert one.bmk != two.bmk


def test_a_store_with_a_pin(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    with Hsm.create(device="private", pin="1234", root=place.root) as hsm:
        hsm.generate("web", "p256")
    for touch in ("PrivateDevice", "NamedDevice"):
        monkeypatch.setattr(devices, touch, lambda *_, **__: pytest.fail("a device was touched"))
    with pytest.raises(WrongPinError):
        place.open(pin="4321")
    with pytest.raises(PinRequiredError):
        place.open()
    monkeypatch.undo()
    with place.open(pin="1234") as hsm:
        check(hsm, "web")
        hsm.connection.link.device.reset(subsystem=True)
        check(hsm, "web")


def test_there_is_no_store(place: Place) -> None:
    with pytest.raises(StoreNotFoundError, match="`ihsm init` makes one"):
        place.open()


WRONG: dict[str, tuple[dict[str, Any], type[Exception]]] = {
    "short BK3": ({"bk3": bytes(47)}, ArgumentError),
    "BK3 of text": ({"bk3": "x" * 48}, ArgumentTypeError),
    "owner on another curve": ({"owner_key": ec.generate_private_key(ec.SECP256R1())}, ArgumentError),
    "RSA owner": ({"owner_key": rsa.generate_private_key(65537, 2048)}, ArgumentTypeError),
    "empty PIN": ({"pin": ""}, ArgumentError),
    "PIN of bytes": ({"pin": b"1234"}, ArgumentTypeError),
    "name with a slash": ({"store": "a/b"}, ArgumentError),
    "nobody there": ({"device": "vfio-user:/nowhere"}, DeviceNotFoundError),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_cannot_be_leaves_no_store(place: Place, name: str) -> None:
    arguments, error = WRONG[name]
    with pytest.raises(error) as raised:
        Hsm.create(**{"device": "vfio-user:/nowhere", "root": place.root} | arguments)
    assert isinstance(raised.value, IhsmError)
    assert Store.names(place.root) == []


def test_a_store_is_not_replaced(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    with place.serve():
        place.create().close()
        before = (place.root / "default" / "store.json").read_bytes()
        monkeypatch.setattr(provisioning, "new_device", lambda *_: pytest.fail("a device was touched"))
        with pytest.raises(StoreExistsError):
            place.create()
        assert (place.root / "default" / "store.json").read_bytes() == before


@pytest.mark.parametrize("method", ["init_bk3", "establish_credential", "open_session"])
def test_a_device_that_refuses_leaves_nothing(place: Place, monkeypatch: pytest.MonkeyPatch, method: str) -> None:
    def refused(*_: Any, **__: Any) -> None:
        raise IhsmError("refused")

    monkeypatch.setattr(ddi.Partition, method, refused)
    with pytest.raises(IhsmError, match="refused"):
        Hsm.create(device="private", root=place.root)
    assert [path.name for path in place.root.iterdir() if path.name != ".lock"] == []


def test_an_owner_that_is_no_key(place: Place) -> None:
    with place.serve():
        place.create().close()
        store = Store.open(root=place.root)
        secrets = OwnerSecrets(b"no key", store.secrets.credential_id, store.secrets.credential_pin)
        arguments = {"masked_bk3": store.masked_bk3, "bmk": store.bmk, "unwrapping_key": store.unwrapping_key}
        Store.create(
            "broken",
            device=store.device,
            secrets=secrets,
            identity=store.identity,
            root=place.root,
            **arguments,  # type: ignore[arg-type]
        )
        with pytest.raises(StoreDamagedError, match="owner: no P-384 private key"):
            place.open("broken")
        place.open().close()


# -- kills -------------------------------------------------------------------------------------------------------------


def run(root: Path, work: str, count: int) -> tuple[bool, list[str]]:
    """Whether the program was killed, and what it said."""
    environment = dict(os.environ)
    tests = str(Path(support.__file__).parents[1])
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, (tests, environment.get("PYTHONPATH"))))
    command = [sys.executable, "-m", "support.dying", str(root), work, str(count)]
    ended = subprocess.run(command, stdout=subprocess.PIPE, env=environment, text=True, check=False)
    assert ended.returncode in (0, -signal.SIGKILL)
    return ended.returncode != 0, ended.stdout.splitlines()


kills = pytest.mark.parametrize(
    "times", [pytest.param(3, id="some"), pytest.param(50, id="fifty", marks=pytest.mark.long)]
)


@kills
def test_a_killed_maker_leaves_a_store_or_none(place: Place, times: int) -> None:
    chance = random.Random(times)
    killed = 0
    for number in range(times):
        root = place.root / str(number)
        died, said = run(root, "create", chance.randint(1, 90))
        killed += died
        try:
            with Hsm.open(root=root) as hsm:
                hsm.generate("web", "p256")
                check(hsm, "web")
        except StoreNotFoundError:
            assert "created" not in said
            Hsm.create(device="private", root=root).close()
    assert killed


@kills
def test_what_a_killed_user_was_told_is_there(place: Place, times: int) -> None:
    """Keys that were reported made sign and verify, whatever came after; those that were deleted are gone."""
    Hsm.create(device="private", root=place.root).close()
    chance = random.Random(times)
    killed = 0
    said: list[str] = []
    for _ in range(times):
        died, lines = run(place.root, "use", chance.randint(20, 400))
        killed += died
        said += lines
        assert Store.open(root=place.root).keys() is not None
    assert killed
    done = [line.split() for line in said if " " in line]
    assert done, "no program came far enough"
    with place.open(wait_s=HANG_S) as hsm:
        names = set(hsm)
        for what, label in done:
            (name,) = {label, f"{label}-renamed"} & names
            check(hsm, name)
            if what == "renamed":
                assert name != label
            if what == "deleted":
                with pytest.raises(KeyNotFoundError):
                    hsm[f"{name}@1"]
            elif what == "turned":
                check(hsm, f"{name}@2")
        hsm.generate("new", "p256")
        check(hsm, "new")
    leftovers = [path.name for path in place.root.iterdir() if path.name.startswith((".new", ".gone"))]
    assert leftovers == []


def test_stores_are_stores(place: Place) -> None:
    """What is damaged is said by its name, before a device is touched."""
    Hsm.create(device="private", root=place.root).close()
    (place.root / "default" / "store.json").write_text("{}")
    with pytest.raises(StoreError, match=r"store\.json"):
        place.open()
