# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""A process whose security module has its vault filled and emptied, on command, and is searched for what was in it."""

from __future__ import annotations

import gc
import random
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from ihsm.ddi import Credential, Key, KeyRequest, Partition, SoftwareTrustAnchor, StatusError
from ihsm_abi.ddi import (
    AesKeySize,
    DdiStatus,
    EccCurve,
    HashAlgorithm,
    KeyClass,
    KeyType,
    KeyUsage,
)
from ihsm_device.hsm.device import DeviceOptions, HsmDevice
from support import golden_path
from support.commanded import Commanded
from support.hsm import ModuleTransport

FULL: Final = (DdiStatus.NotEnoughSpace, DdiStatus.DefragmentationNeeded)


class VaultLife(Commanded):
    """The commands."""

    def start(self, state: str) -> dict[str, str]:
        """A provisioned partition with a session; its backups and the key to wrap imports for."""
        self.device = HsmDevice(DeviceOptions(state=Path(state)))
        self.module = self.device.function()
        partition = Partition(ModuleTransport(self.module))
        credential = Credential(golden_path.ID, golden_path.PIN)
        masked_bk3 = partition.init_bk3(golden_path.BK3).masked_bk3
        bmk = partition.establish_credential(credential, masked_bk3, SoftwareTrustAnchor(golden_path.POTA_KEY))
        self.session = partition.open_session(credential, seed=golden_path.SEED)
        self.unwrapping = self.session.unwrapping_key()
        stock = self.device.unwrapping_keys
        with stock._condition:  # so that accounts are not taken while it makes a key
            stock._condition.wait_for(lambda: stock._key is not None)
        self.blobs: dict[str, bytes] = {}
        self.keys: list[Key] = []
        self.random = random.Random(1)
        assert self.unwrapping.public_key_der is not None
        return {
            "bmk": bmk.hex(),
            "bmk_session": self.session.ticket.bmk_session.hex(),
            "unwrapping_spki": self.unwrapping.public_key_der.hex(),
        }

    def offer(self, name: str, blob: str) -> dict[str, str]:
        """A wrapped RSA key that `fill` may import, as "rsa" or "rsa-crt"."""
        self.blobs[name] = bytes.fromhex(blob)
        return {}

    def fill(self) -> dict[str, Any]:
        """Make keys of every kind, in random order, until none fits; masked forms of one of each kind."""
        masked: dict[str, str] = {}
        makers = self._makers()
        while makers:
            name = self.random.choice(list(makers))
            try:
                key = makers[name]()
            except StatusError as error:
                if error.status not in (*FULL, DdiStatus.ReachedMaxAesBulkKeys):
                    raise
                del makers[name]  # smaller kinds may still fit
                continue
            self.keys.append(key)
            masked[name] = key.masked_key.hex()
        return {"keys": len(self.keys), "masked": masked, "vault": self._vault()}

    def _makers(self) -> dict[str, Callable[[], Key]]:
        session = self.session
        pair = session.generate_ecc_key(EccCurve.P256, KeyRequest(KeyUsage.Derive))
        self.keys.append(pair)
        peer = pair.public_key_der
        assert peer is not None
        secret = session.ecdh(pair, peer, KeyType.Secret256, KeyRequest(KeyUsage.Derive))
        self.keys.append(secret)
        sign, own_sign = KeyRequest(KeyUsage.SignVerify), KeyRequest(KeyUsage.SignVerify, session=True)
        encrypt = KeyRequest(KeyUsage.EncryptDecrypt)
        makers: dict[str, Callable[[], Key]] = {
            "aes": lambda: session.generate_aes_key(AesKeySize.Aes256, encrypt),
            "bulk": lambda: session.generate_aes_key(AesKeySize.AesGcmBulk256, encrypt),
            "P256": lambda: session.generate_ecc_key(EccCurve.P256, sign),
            "P384": lambda: session.generate_ecc_key(EccCurve.P384, sign),
            "P521": lambda: session.generate_ecc_key(EccCurve.P521, own_sign),
            "hmac": lambda: session.hkdf(secret, HashAlgorithm.Sha512, KeyType.HmacSha512, own_sign),
        }
        for name, key_class in (("rsa", KeyClass.Rsa), ("rsa-crt", KeyClass.RsaCrt)):
            if name in self.blobs:
                makers[name] = lambda name=name, key_class=key_class: session.rsa_unwrap(
                    self.unwrapping, self.blobs[name], key_class, sign
                )
        return makers

    def clear(self) -> dict[str, Any]:
        """Delete all keys, in random order."""
        self.random.shuffle(self.keys)
        for key in self.keys:
            self.session.delete_key(key)
        self.keys.clear()
        return self.account()

    def account(self) -> dict[str, Any]:
        """Vault, key store and memory of the process."""
        gc.collect()
        statistics = self.device.store.statistics()
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return {
            "vault": self._vault(),
            "store": [statistics.keys, statistics.keys_dying, statistics.published, statistics.bytes_in_use],
            "resident_kib": pages * resource.getpagesize() // 1024,
            "objects": len(gc.get_objects()),
        }

    def cycles(self, count: str) -> dict[str, Any]:
        """Fill and empty the vault so often; how many keys that made, and the account afterwards."""
        made = 0
        for _ in range(int(count)):
            made += self.fill()["keys"]
            self.clear()
        return {"made": made, **self.account()}

    def _vault(self) -> dict[str, int]:
        vault: dict[str, int] = self.module.status()["vault"]
        return vault


if __name__ == "__main__":
    VaultLife().obey()
