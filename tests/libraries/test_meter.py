# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""The meter that all tests here rely on: it notices what was done in software, twice, or besides."""

from __future__ import annotations

from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding

from ihsm import Hsm
from ihsm.api.rsa_key import RsaPrivateKey
from ihsm.driver import Controller
from libraries.rig import Does, Keys, Signs

SHA256 = hashes.SHA256()


def test_a_signature_made_in_software_is_noticed(keys: Keys, signs: Signs) -> None:
    with pytest.raises(AssertionError), signs(keys("p256")):
        ec.generate_private_key(ec.SECP256R1()).sign(b"message", ec.ECDSA(SHA256))


@pytest.mark.parametrize("number", [0, 2])
def test_another_number_of_signatures_is_noticed(number: int, keys: Keys, signs: Signs) -> None:
    key = keys("rsa2048")
    assert isinstance(key, RsaPrivateKey)
    with pytest.raises(AssertionError), signs(key, number):
        key.sign(b"message", padding.PKCS1v15(), SHA256)


def test_another_command_is_noticed(hsm: Hsm, keys: Keys, does: Does, signs: Signs) -> None:
    with pytest.raises(AssertionError), signs(keys("rsa2048")):
        keys("p256").sign(b"message", ec.ECDSA(SHA256))
    with pytest.raises(AssertionError), does(EccSign=1):
        hsm.attest("p256")


def test_a_command_that_does_not_reach_the_device_is_noticed(
    keys: Keys, signs: Signs, monkeypatch: pytest.MonkeyPatch
) -> None:
    key, exchange, replies = keys("p256"), Controller.exchange, []

    def recorded(controller: Controller, *arguments: Any) -> Any:
        replies.append(exchange(controller, *arguments))
        return replies[-1]

    monkeypatch.setattr(Controller, "exchange", recorded)
    key.sign(b"message", ec.ECDSA(SHA256))
    monkeypatch.setattr(Controller, "exchange", lambda *_: replies[-1])
    with pytest.raises(AssertionError), signs(key):
        key.sign(b"message", ec.ECDSA(SHA256))
