# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""A process whose express lane works with keys of every kind and size, on command, and is searched for their secrets.

Keys come in wrapped, or are derived from an agreement: the process never sees one in clear.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

from ihsm.ddi.keys import Key, KeyRequest
from ihsm_abi.ddi import AesOp, EccCurve, HashAlgorithm, KeyClass, KeyType, KeyUsage, RsaOpType
from support.commanded import Commanded
from support.express_rig import ExpressRig

DIGEST: Final = bytes(range(32))
NUMBER: Final = b"\x01"
"""What an RSA number begins with; the rest is 7s."""
TEXT: Final = bytes(range(64))
CALLERS: Final = 8
"""Commands outstanding, so that every thread of the lane gets some."""
HMAC_TYPES: Final = {"sha256": KeyType.HmacSha256, "sha384": KeyType.HmacSha384, "sha512": KeyType.HmacSha512}


class ExpressLife(Commanded):
    """The commands."""

    def __init__(self) -> None:
        """A provisioned device with a session."""
        self.rig = ExpressRig()
        self.session = self.rig.scene.open_session()
        self.unwrapping = self.session.unwrapping_key()
        self.answers: list[bytes] = []
        """What came of the last work, for a search that is to find something outside."""
        self.keys: dict[str, Key] = {}

    def start(self) -> dict[str, str]:
        """What keys are wrapped for, and the point that others agree with."""
        self.pair = self.session.generate_ecc_key(EccCurve.P256, KeyRequest(KeyUsage.Derive))
        assert self.unwrapping.public_key_der is not None
        assert self.pair.public_key_der is not None
        return {"unwrapping": self.unwrapping.public_key_der.hex(), "point": self.pair.public_key_der.hex()}

    def take(self, name: str, key_class: str, usage: str, blob: str) -> dict[str, str]:
        """Import a wrapped key."""
        request = KeyRequest(KeyUsage[usage])
        self.keys[name] = self.session.rsa_unwrap(self.unwrapping, bytes.fromhex(blob), KeyClass[key_class], request)
        return {}

    def agree(self, peer: str) -> dict[str, str]:
        """Keys for HMAC, derived by HKDF from what was agreed with a peer; their names are the info."""
        derive = KeyRequest(KeyUsage.Derive)
        secret = self.session.ecdh(self.pair, bytes.fromhex(peer), KeyType.Secret256, derive)
        for name, key_type in HMAC_TYPES.items():
            self.keys[name] = self.session.hkdf(
                secret, HashAlgorithm.Sha256, key_type, KeyRequest(KeyUsage.SignVerify), info=name.encode()
            )
        self.session.delete_key(secret)
        return {}

    def work(self, rounds: str) -> dict[str, Any]:
        """Use every key so often, from many threads; the last results, and how many commands the lane took of them."""
        before = self.rig.taken
        names = list(self.keys) * int(rounds)
        with ThreadPoolExecutor(CALLERS) as callers:
            results = dict(zip(names, callers.map(self._use, names), strict=True))
        self.answers = [bytes.fromhex(result) for result in results.values()]
        return {"results": results, "commands": len(names), "taken": self.rig.taken - before}

    def _use(self, name: str) -> str:
        session, key = self.session, self.keys[name]
        match name.partition("-")[0]:
            case "ec":
                return session.ecc_sign(key, DIGEST, HashAlgorithm.Sha256).hex()
            case "rsa":
                y = NUMBER.ljust(int(name.rpartition("-")[2]) // 8, b"\x07")
                return session.rsa_mod_exp(key, y, RsaOpType.Sign).hex()
            case "aes":
                encrypted, _ = session.aes_cbc(key, AesOp.Encrypt, TEXT, bytes(16))
                return encrypted.hex()
        return session.hmac(key, TEXT).hex()

    def delete(self) -> dict[str, int]:
        """Delete every key."""
        for key in (*self.keys.values(), self.pair):
            self.session.delete_key(key)
        self.keys.clear()
        return {}


if __name__ == "__main__":
    ExpressLife().obey()
