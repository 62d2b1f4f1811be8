# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""A process that uses keys of every kind and looks for them in its own memory, on command.

Keys are made in the store and handed out masked, or come in encrypted.
"""

from __future__ import annotations

import ctypes
import threading
from pathlib import Path

from ihsm_device.hsm.keystore import BulkType, Curve, Handle, Hash, KeyStore, Owner, PairwiseTest, Scope, run_self_tests
from support.commanded import Commanded

OWNER = Owner(0, Scope.PARTITION)
SESSION = Owner(0, Scope.SESSION, 3)
MASKING_KEY = bytes(range(80))  # known to the other side, which opens the masked keys
IV = bytes(16)
KNOWN_SCALAR = b"\x11" * 48
PR_GET_DUMPABLE = 3  # linux/prctl.h
PLANT = bytes.fromhex("c0ffee00deadbeef") * 4


class KeyLife(Commanded):
    """The commands."""

    def __init__(self) -> None:
        """An open store and nothing in it."""
        self.store = KeyStore()
        self.keys: dict[str, Handle] = {}
        self.planted: bytearray | None = None
        self.table = self.store.bulk_table(0)
        self.masking = self.store.import_secret(MASKING_KEY, Owner())

    def masked(self, key: Handle) -> str:
        """A key under the known masking key, without fill beyond the block."""
        size = self.store.masked_plaintext_size(key)
        return self.store.mask(key, self.masking, b"", IV, -(-size // 16) * 16).hex()

    def make(self) -> dict[str, str]:
        """Keys of every kind, each used by every operation of its kind; their masked forms."""
        store, keys = self.store, self.keys
        keys["aes"] = store.generate_secret(32, OWNER)
        store.aes_cbc(keys["aes"], encrypt=True, iv=IV, data=bytes(64))
        keys["hmac"] = store.generate_secret(64, SESSION)
        store.hmac(keys["hmac"], Hash.SHA512, b"message")
        for curve in Curve:
            key = keys[curve.name] = store.ec_generate(curve, OWNER)
            store.ec_sign(key, bytes(32))
            store.ec_pairwise_test(key, PairwiseTest.SIGN)
            store.ec_pairwise_test(key, PairwiseTest.AGREE)
            keys[f"shared-{curve.name}"] = store.ec_agree(key, store.ec_public(key), SESSION)
        keys["hkdf"] = store.hkdf(keys["shared-P256"], Hash.SHA256, None, b"info", 64, OWNER)
        keys["kbkdf"] = store.kbkdf(keys["shared-P521"], Hash.SHA384, b"label", [keys["aes"]], 48, OWNER)
        keys["rsa"] = store.rsa_generate(2048, OWNER)
        keys["rsa-crt"] = store.rsa_generate(2048, OWNER, crt=True)
        for name in ("rsa", "rsa-crt"):
            store.rsa_private(keys[name], b"\x01" * 256)
            store.rsa_pairwise_test(keys[name], PairwiseTest.SIGN)
        for number, kind in enumerate(BulkType):
            key = keys[f"bulk-{kind.name}"] = store.generate_secret(32, OWNER)
            self.table.publish(number, key, kind, session_id=0, app_id=0, session_only=False)
        out = {name: self.masked(key) for name, key in keys.items()}
        for name in list(keys):  # every unmasked copy is a key like the original
            self.unmask(f"copy-{name}", name, bytes.fromhex(out[name]))
        return out

    def unmask(self, copy: str, name: str, blob: bytes) -> None:
        """A second key of a masked blob."""
        store, encrypted = self.store, len(blob) - 48
        if name in Curve.__members__:
            self.keys[copy] = store.unmask_ec(self.masking, blob, IV, 0, encrypted, Curve[name], OWNER)
        elif name.startswith("rsa"):
            crt = name == "rsa-crt"
            self.keys[copy] = store.unmask_rsa(self.masking, blob, IV, 0, encrypted, 2048, crt, OWNER)
        else:
            size = store.size(self.keys[name])
            self.keys[copy] = store.unmask_secret(self.masking, blob, IV, 0, encrypted, size, OWNER)

    def wrap_target(self) -> dict[str, str]:
        """An RSA key to wrap for."""
        self.keys["unwrapping"] = self.store.rsa_generate(2048, OWNER, crt=True)
        return {"n": self.store.rsa_public(self.keys["unwrapping"]).n.hex()}

    def unwrap(self, wrapped_hex: str, kind: str) -> dict[str, str]:
        """Import a key by RSA-OAEP and AES key wrap."""
        store, blob = self.store, bytes.fromhex(wrapped_hex)
        kek = store.rsa_oaep_decrypt(self.keys["unwrapping"], Hash.SHA256, blob[:256], OWNER)
        payload = store.aes_kwp_unwrap(kek, blob[256:], OWNER)
        if kind == "ec":
            self.keys["imported-ec"] = store.ec_import_der(payload, OWNER)
        elif kind == "rsa":
            self.keys["imported-rsa"] = store.rsa_import_der(payload, True, OWNER)
        else:
            self.keys["imported-aes"] = payload
        if kind != "aes":
            store.destroy(payload)
        store.destroy(kek)
        return {}

    def login(self, peer_hex: str, nonce_hex: str, iv_hex: str, cipher_hex: str) -> dict[str, str]:
        """Decrypt and judge a credential sent to a known device key."""
        store = self.store
        scalar = store.import_secret(KNOWN_SCALAR, OWNER)
        key = store.ec_import_scalar(Curve.P384, scalar, OWNER)
        channel = store.credential_channel(key, bytes.fromhex(peer_hex), bytes.fromhex(nonce_hex), OWNER)
        credential = store.credential_decrypt(channel, bytes.fromhex(iv_hex), bytes.fromhex(cipher_hex), OWNER)
        verdict = store.credential_check(credential, credential)
        store.destroy(scalar)
        store.destroy(channel)
        self.keys["pin"] = credential.pin
        return {"verdict": verdict.name}

    def destroy(self) -> dict[str, int]:
        """Destroy every key but the masking key."""
        destroyed = self.store.destroy_group(function=0)
        self.keys.clear()
        return {"destroyed": destroyed, "left": self.store.statistics().keys}

    def plant(self) -> dict[str, int]:
        """Put known bytes on the ordinary heap."""
        self.planted = bytearray(PLANT)
        return {}

    def close(self) -> dict[str, int]:
        """Close the store."""
        self.table.close()
        self.store.close()
        return {"left": self.store.statistics().keys}

    def self_test(self) -> dict[str, bool]:
        """The power-on self-tests."""
        return {"passed": run_self_tests(self.store).passed}

    def protection(self) -> dict[str, int]:
        """Whether the process can be dumped or traced, and KiB of memory that is locked, undumped and not inherited."""
        protected = size = 0
        for line in Path("/proc/self/smaps").read_text().splitlines():
            if line.startswith("Size:"):
                size = int(line.split()[1])
            elif line.startswith("VmFlags:") and {"lo", "dd", "dc"} <= set(line.split()):
                protected += size
        return {"dumpable": ctypes.CDLL(None).prctl(PR_GET_DUMPABLE, 0, 0, 0, 0), "protected_kib": protected,
                "reserved_kib": self.store.statistics().bytes_reserved // 1024}  # fmt: skip

    def in_thread(self, name: str, *arguments: str) -> object:
        """A command on a thread of its own, whose stack stays."""
        result: list[object] = []
        done, leave = threading.Event(), threading.Event()

        def run() -> None:
            result.append(self.command(name)(*arguments))
            done.set()
            leave.wait()

        threading.Thread(target=run, daemon=True).start()
        done.wait()
        return result[0]


if __name__ == "__main__":
    KeyLife().obey()
