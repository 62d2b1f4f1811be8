# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Mixed load at full rate for a long time: no completion is lost, duplicated, or says anything but success."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ihsm.bench.device import bulk_keys
from ihsm.bench.results import Result, throughput
from ihsm.bench.rings import RingLoad
from ihsm.bench.sample import Sample
from ihsm.bench.setups import Place
from ihsm.ddi import KeyRequest, Session
from ihsm.driver import AesQueue, Controller, DriverOptions, FastPathSession
from ihsm.driver.aes_batch import gcm_entries, xts_entries
from ihsm.driver.aes_commands import padded_aad_bytes
from ihsm_abi.ddi import AesKeySize, EccCurve, HashAlgorithm, KeyUsage
from ihsm_abi.pci import PAGE_BYTES

ARGUMENTS: Final = ("--doorbell", "page", "--resources", "8")
OPTIONS: Final = DriverOptions(interrupts=False, hsm_queues=2, aes_queues=16, aes_entries=128, buffer_bytes=24 << 20)
SIZES: Final = (1, 15, 16, 64, 100, 1000, 1024, 1040, 4096, 5000, 65536)
AAD_SIZES: Final = (0, 11, 32, 45)
SLICE_SECONDS: Final = 2.0
ARENA_BYTES: Final = 1 << 20


def soak(place: Place, advance: Callable[[str], None], seconds: float) -> list[Result]:
    """AES of all kinds and sizes on 16 queues, HSM commands and mappings that come and go beside it.

    Raises:
        BenchLoopError: a completion was lost, came twice, or told of a failure.
        IhsmError: an HSM command failed.
    """
    samples: list[Sample] = []
    with (
        place.function(ARGUMENTS, OPTIONS) as (controller, session, load),
        bulk_keys(session, AesKeySize.AesGcmBulk256Unapproved) as gcm_keys,
        bulk_keys(session, AesKeySize.AesXtsBulk256, 2) as xts_keys,
    ):
        ids = session.fast_path
        pool = Pool(controller)
        tables = [
            mixed_table(queue, number, pool, ids, gcm_keys[0], xts_keys)
            for number, queue in enumerate(controller.aes_queues)
        ]
        ring = RingLoad(controller, controller.aes_queues, tables, load)
        beside = Beside(controller, session)
        end = time.monotonic() + seconds
        # However short the time: a soak without a mapping that comes and goes beside the rings would show nothing.
        while (time.monotonic() < end or not beside.mappings) and beside.error is None:
            part = min(SLICE_SECONDS, max(0.1, end - time.monotonic()))
            samples.append(ring.closed_loop(part, depth=96, batch=8))
            advance("soak")
        beside.stop()
    operations = sum(sample.operations for sample in samples)
    facts: dict[str, Any] = {"aes_commands": operations, "hsm_commands": beside.commands, "mappings": beside.mappings}
    return [throughput("soak", {"device": samples}, {}, **facts)]


class Pool:
    """Sources and destinations, shared by all queues: what lies in them does not matter, only that nobody trips."""

    def __init__(self, controller: Controller) -> None:
        """From the controller's arena."""
        self.bytes = padded_aad_bytes(max(AAD_SIZES)) + max(SIZES)
        self._buffers = [controller.allocate(self.bytes, PAGE_BYTES) for _ in range(32)]

    def address(self, number: int) -> int:
        """One of the buffers."""
        return self._buffers[number % len(self._buffers)].iova


def mixed_table(
    queue: AesQueue, seed: int, pool: Pool, ids: FastPathSession, gcm_key: int, xts_keys: list[int]
) -> NDArray[np.void]:
    """One entry per slot, kinds and sizes drawn with a seed; encryptions only, so that every command succeeds."""
    rng = np.random.default_rng(seed)
    entries = []
    for _ in range(queue.entries):
        size = int(rng.choice(SIZES))
        source, target = (pool.address(int(number)) for number in rng.integers(0, 32, 2))
        if rng.random() < 0.7:
            aad = int(rng.choice(AAD_SIZES))
            iv = rng.integers(0, 256, 12, np.uint8)
            entries.append(gcm_entries(ids, gcm_key, [source], [target], size, decrypt=False, aad_bytes=aad, ivs=iv))
        else:
            unit = int(rng.choice([0, 512, 4096]))
            length = max(16, size // 16 * 16)
            pair = (xts_keys[0], xts_keys[1])
            tweak = rng.integers(0, 256, 16, np.uint8)
            both = bool(rng.random() < 0.5)
            entries.append(
                xts_entries(ids, pair, [source], [target], length, tweak, decrypt=both, data_unit_bytes=unit)
            )
    return np.concatenate([entry.view(np.uint8).reshape(1, -1) for entry in entries]).view(queue.ring.sqe).reshape(-1)


class Beside:
    """What goes on beside the AES queues, in a thread: signatures, keys and mappings that come and go."""

    def __init__(self, controller: Controller, session: Session) -> None:
        """Start."""
        self.commands = self.mappings = 0
        self.error: Exception | None = None
        self._controller, self._session = controller, session
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="beside", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            digest = hashlib.sha256(b"soak").digest()
            while not self._stop.is_set():
                key = self._session.generate_ecc_key(EccCurve.P256, KeyRequest(KeyUsage.SignVerify))
                self._session.ecc_sign(key, digest, HashAlgorithm.Sha256)
                self._session.delete_key(key)
                self.commands += 3
                self._controller.function.allocate_arena(ARENA_BYTES).close()
                self.mappings += 1
        except Exception as error:
            self.error = error

    def stop(self) -> None:
        """End the thread; raises what has gone wrong in it."""
        self._stop.set()
        self._thread.join()
        if self.error is not None:
            raise self.error
