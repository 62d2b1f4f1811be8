# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""One device with a key of each kind, and a meter that says what the device did."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Final

import pytest

from ihsm import Hsm
from ihsm.api.ec_key import EcPrivateKey
from ihsm.control import ControlClient
from ihsm.ddi.channel import Channel
from ihsm.embedded import EmbeddedDevice
from libraries.rig import DeviceKey, Does, Keys, Signs

KINDS: Final = {"p256": "sign", "p384": "sign", "p521": "sign", "rsa2048": ("sign", "decrypt"), "rsa3072": "sign"}


@pytest.fixture(scope="session")
def device() -> Iterator[EmbeddedDevice]:
    """A device that only these tests have."""
    with EmbeddedDevice() as device:
        yield device


@pytest.fixture(scope="session")
def hsm(device: EmbeddedDevice, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hsm]:
    """A key of each kind, by its kind, and the one of the examples; all fit into the device and stay there."""
    root = tmp_path_factory.mktemp("stores")
    with Hsm.create("libraries", device=f"vfio-user:{device.socket_path}", root=root) as hsm:
        for kind, usage in KINDS.items():
            hsm.generate(kind, kind, usage=usage)
        hsm.generate("web", "p256")
        yield hsm


@pytest.fixture
def keys(hsm: Hsm) -> Keys:
    """Keys by kind."""

    def key(kind: str) -> DeviceKey:
        found = hsm[kind]
        assert isinstance(found, DeviceKey)
        return found

    return key


@pytest.fixture(params=["p256", "rsa2048"])
def key(request: pytest.FixtureRequest, keys: Keys) -> DeviceKey:
    """An EC key, then an RSA key."""
    return keys(request.param)


@pytest.fixture
def does(hsm: Hsm, device: EmbeddedDevice, monkeypatch: pytest.MonkeyPatch) -> Does:
    """`with does(EccSign=1):` the device executes just these commands, by its own count and by ours.

    Ours tells them apart, the device's knows that they reached it: what a library did in software is in neither.
    """
    seen: Counter[str] = Counter()
    encode = Channel._encode

    def counting(channel: Channel, request: Any, session_id: int | None) -> Any:
        operation, message = encode(channel, request, session_id)
        seen[operation.op.name] += 1
        return operation, message

    monkeypatch.setattr(Channel, "_encode", counting)

    @contextmanager
    def does(**operations: int) -> Iterator[None]:
        seen.clear()
        before = executed(device)
        yield
        assert dict(seen) == {name: number for name, number in operations.items() if number}
        assert executed(device) - before == sum(operations.values())

    return does


def executed(device: EmbeddedDevice) -> int:
    """How many commands the device has taken from its HSM and AES queues."""
    with ControlClient(device.socket_path) as client:
        counters = client.status()["counters"]
    number: int = counters["hsm_commands"] + counters["aes_commands"]
    return number


@pytest.fixture
def signs(does: Does) -> Signs:
    """`with signs(key, 2):` the device makes two signatures with the key and does nothing else."""

    def signs(key: DeviceKey, number: int = 1) -> AbstractContextManager[None]:
        return does(**{"EccSign" if isinstance(key, EcPrivateKey) else "RsaModExp": number})

    return signs
