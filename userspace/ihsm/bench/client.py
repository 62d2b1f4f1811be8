# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""What a Python program has of the device: calls that wait, and arrays: `ihsm bench client`."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import time
from collections.abc import Callable
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ihsm.bench.device import bulk_keys
from ihsm.bench.peers import SoftHsm, soft_hsm
from ihsm.bench.results import WALL, Result, latency, throughput
from ihsm.bench.sample import Load, Runner, Sample, Series, Watch, interleave, ratios, timed
from ihsm.bench.setups import LATENCY_DEVICE, Place
from ihsm.ddi import Key, KeyRequest, Session
from ihsm.driver import Controller, DriverOptions
from ihsm_abi.ddi import AesKeySize, EccCurve, GetApiRevReq, HashAlgorithm, KeyUsage, encode_request
from ihsm_abi.hsm_queue import ControlKind

SECONDS: Final = 0.3
PAIRS: Final = 15
ARRAY: Final = 64
"""Signatures asked for with one call."""
WAITING_S: Final = 5.0
CLIENT: Final = DriverOptions(
    interrupts=False, spin_us=200, hsm_queues=1, aes_queues=1, hsm_entries=257, buffer_bytes=8 << 20
)
"""Polled, and room for what an array has outstanding."""

Advance = Callable[[str], None]


def client(place: Place, advance: Advance) -> list[Result]:
    """ring-poll-python, exchange-python; sign-many-python beside SoftHSM2 and beside one signature at a time."""
    results = []
    with contextlib.ExitStack() as stack:
        peer = soft_hsm()
        if peer is not None:
            stack.callback(peer.close)
        controller, session, load = stack.enter_context(place.function(LATENCY_DEVICE, CLIENT))
        for measure in (ring_poll_python, exchange_python, functools.partial(sign_many_python, peer=peer)):
            results.append(measure(controller, session, load))
            advance(results[-1].id)
    return results


def ring_poll_python(controller: Controller, session: Session, load: Load | None) -> Result:
    """One synchronous AES command of 16 bytes."""
    queue, ids, text = controller.aes_queues[0], session.fast_path, bytes(16)
    with bulk_keys(session, AesKeySize.AesGcmBulk256Unapproved) as keys:
        sample = timed(lambda: queue.gcm_encrypt(ids, keys[0], text, timeout_s=WAITING_S), SECONDS, device=load)
    return latency("ring-poll-python", {"device": [sample]}, {}, bytes=len(text))


def exchange_python(controller: Controller, session: Session, load: Load | None) -> Result:
    """One synchronous message whose operation does next to nothing."""
    message = encode_request(GetApiRevReq())
    sample = timed(lambda: controller.exchange(message, ControlKind.NONE, None), SECONDS, device=load)
    return latency("exchange-python", {"device": [sample]}, {}, bytes=len(message))


def sign_many_python(
    controller: Controller,
    session: Session,
    load: Load | None,
    *,
    peer: SoftHsm | None,
    rounds: Callable[[dict[str, Runner]], Series] | None = None,
) -> Result:
    """P-256 signatures over arrays of digests, wall time, against a library in this process and its C.

    `rounds` runs the variants in turn; by default `PAIRS` times.
    """
    run_rounds = rounds or functools.partial(interleave, pairs=PAIRS)
    key = session.generate_ecc_key(EccCurve.P256, KeyRequest(KeyUsage.SignVerify))
    digests = np.frombuffer(os.urandom(ARRAY * 32), np.uint8).reshape(ARRAY, 32)
    digest = hashlib.sha256(b"benchmark").digest()
    variants: dict[str, Runner] = {
        "device": _arrays(session, key, digests, load),
        "one_at_a_time": lambda seconds: timed(
            lambda: session.ecc_sign(key, digest, HashAlgorithm.Sha256), seconds, device=load
        ),
    }
    if peer is not None:
        variants["softhsm2"] = functools.partial(peer.ecdsa_p256, digest)
    series = run_rounds(variants)
    session.delete_key(key)
    found = ratios(series, "device", lambda sample: sample.wall_per_op_s)
    return throughput("sign-many-python", series, found, ratio_clock=WALL, array=ARRAY)


def _arrays(session: Session, key: Key, digests: NDArray[np.uint8], load: Load | None) -> Runner:
    """One array after the other."""

    def run(seconds: float) -> Sample:
        watch, cpu, start, done = Watch(load), time.thread_time(), time.perf_counter(), 0
        while time.perf_counter() < start + seconds or not done:
            done += len(session.ecc_sign_many(key, digests))
        wall = time.perf_counter() - start
        own_cpu_s = time.thread_time() - cpu
        return Sample(done, wall, own_cpu_s, *watch.end(wall))

    return run
