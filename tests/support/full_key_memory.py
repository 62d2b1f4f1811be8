# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""A program that prints, as JSON, what a device does while its key memory is full, and when there is room again."""

from __future__ import annotations

import json
import resource
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

sys.path.insert(0, str(Path(__file__).parents[1]))

from ihsm.ddi.errors import StatusError
from ihsm.ddi.keys import KeyRequest
from ihsm_abi.ddi import EccCurve, HashAlgorithm, KeyUsage
from ihsm_device.hsm.device import HsmDevice
from ihsm_device.hsm.keystore import (
    Curve,
    Handle,
    KeyStore,
    KeyStoreError,
    KeyStoreMemoryError,
    Owner,
    PairwiseTest,
    Scope,
)
from support.hsm import Scene
from support.waiting import until

OWNER: Final = Owner(scope=Scope.DEVICE)
SIZES: Final = (4096, 2048, 1024, 512, 256, 128, 64, 32, 16)
SIGNING: Final = KeyRequest(KeyUsage.SignVerify)
_, HARD = resource.getrlimit(resource.RLIMIT_AS)


def fill(store: KeyStore) -> list[Handle]:
    """Map no more memory, and take what there is until nothing more is given to this thread."""
    resource.setrlimit(resource.RLIMIT_AS, (1, HARD))
    taken: list[Handle] = []
    for size in SIZES:
        try:
            while True:
                taken.append(store.generate_secret(size, OWNER))
        except KeyStoreMemoryError:
            pass
    return taken


def empty(store: KeyStore, taken: list[Handle]) -> None:
    """Undo `fill`."""
    resource.setrlimit(resource.RLIMIT_AS, (HARD, HARD))
    for secret in taken:
        store.destroy(secret)


def outcome(work: Callable[[], object]) -> str:
    """What came of it: "ok", or the name of a status or an error."""
    try:
        work()
    except StatusError as error:
        return error.status.name
    except KeyStoreError as error:
        return type(error).__name__
    return "ok"


def main() -> list[dict[str, Any]]:
    """Without memory, with memory again, and tests that fail in a thread that was refused memory before."""
    with HsmDevice(store=KeyStore(fault_injection=True)) as device:
        stock, store, scene = device.unwrapping_keys, device.store, Scene(device.function())
        scene.provision()
        session = scene.open_session()
        key = session.generate_ecc_key(EccCurve.P256, SIGNING)
        rsa, ec = store.rsa_generate(2048, OWNER), store.ec_generate(Curve.P384, OWNER)
        until(lambda: stock.full, "a key in stock")
        vault = scene.module.status()["vault"]

        def new_key() -> object:
            return session.generate_ecc_key(EccCurve.P256, SIGNING)

        def rsa_test() -> object:
            return store.rsa_pairwise_test(rsa, PairwiseTest.ENCRYPT)

        def ec_test() -> object:
            return store.ec_pairwise_test(ec, PairwiseTest.AGREE)

        def take() -> object:
            return stock.take(OWNER)

        taken = fill(store)
        without = {
            "command": outcome(new_key),
            "rsa key": outcome(lambda: store.rsa_generate(2048, OWNER)),
            "rsa test": outcome(rsa_test),
            "ec test": outcome(ec_test),
            "keys of the stock": [outcome(take) for _ in range(3)],
            "vault as before": scene.module.status()["vault"] == vault,
            "error": device.error,
        }
        empty(store, taken)
        with_some = {
            "command": outcome(new_key),
            "sign": outcome(lambda: session.ecc_sign(key, bytes(32), HashAlgorithm.Sha256)),
            "key of the stock": outcome(take),
            "error": device.error,
        }
        failed = {}
        for fault, test in (("pct-rsa", rsa_test), ("pct-ec", ec_test)):
            empty(store, fill(store))
            store.set_fault(fault, 1)
            failed[fault] = outcome(test)
    return [without, with_some, failed]


if __name__ == "__main__":
    print(json.dumps(main()))
