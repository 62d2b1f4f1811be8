# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""The vault filled to its last byte and emptied, again and again: nothing is left of its keys, nothing grows."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_der_public_key,
)

from ihsm.ddi.wrapping import wrap_key
from ihsm_abi.ddi import HashAlgorithm
from support import golden_path, oracle, points
from support.commanded import Commander, pieces

GROWTH_KIB = 4096
"""More than the interpreter's own fluctuation, less than what one leaked object per key would take."""
BULK_KEYS_MAX = 7


class Vault:
    """The process, and the keys that open what it masks."""

    def __init__(self, state: Path) -> None:
        self.process = Commander("support.vault_life")
        backups = {name: bytes.fromhex(value) for name, value in self.process("start", str(state)).items()}
        hierarchy = golden_path.device_hierarchy(state)
        owner = points.spki(golden_path.POTA_KEY.public_key())
        self._masking_keys = (
            oracle.open_masked(backups["bmk"], hierarchy.partition_backup_key(owner)).key,
            oracle.open_masked(backups["bmk_session"], hierarchy.session_backup_key(golden_path.SEED)).key,
        )
        unwrapping = load_der_public_key(backups["unwrapping_spki"])
        assert isinstance(unwrapping, rsa.RSAPublicKey)
        self._unwrapping = unwrapping

    def offer_rsa_keys(self) -> None:
        """Let the process import RSA keys, which it never sees in clear."""
        own = rsa.generate_private_key(65537, 2048).private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
        for name in ("rsa", "rsa-crt"):
            self.process("offer", name, wrap_key(own, self._unwrapping, HashAlgorithm.Sha256).hex())

    def opened(self, masked: str) -> bytes:
        """Plaintext of a masked key of the partition or of the session."""
        blob = bytes.fromhex(masked)
        try:
            return oracle.open_masked(blob, self._masking_keys[0]).plaintext
        except AssertionError:
            return oracle.open_masked(blob, self._masking_keys[1]).plaintext


@pytest.fixture
def vault(tmp_path: Path) -> Iterator[Vault]:
    vault = Vault(tmp_path / "state")
    yield vault
    vault.process.end()


def test_keys_of_a_full_vault_are_found_and_gone_after_their_deletion(vault: Vault) -> None:
    vault.offer_rsa_keys()
    before = vault.process("account")
    filled = vault.process("fill")
    assert set(filled["masked"]) == {"aes", "bulk", "P256", "P384", "P521", "hmac", "rsa", "rsa-crt"}
    assert filled["vault"]["bytes_max"] - filled["vault"]["bytes"] < 64
    assert filled["vault"]["bulk_keys"] == BULK_KEYS_MAX
    needles = {name: pieces(name, vault.opened(masked)) for name, masked in filled["masked"].items()}
    assert vault.process.missing(needles) == []
    after = vault.process("clear")
    assert after["vault"] == before["vault"]
    assert after["store"] == before["store"]
    assert vault.process.present(needles) == []


@pytest.mark.parametrize("count", [20, pytest.param(1000, marks=[pytest.mark.long, pytest.mark.timeout(3600)])])
def test_cycles(vault: Vault, count: int) -> None:
    warm = vault.process("cycles", "5")
    done = vault.process("cycles", str(count))
    assert done["made"] > 50 * count
    assert done["vault"] == warm["vault"]
    assert done["store"] == warm["store"]
    assert done["resident_kib"] - warm["resident_kib"] < GROWTH_KIB
    assert done["objects"] - warm["objects"] < count
