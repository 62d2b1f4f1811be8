# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""The longer measurements: rings by depth, AES by size and queues, DDI operations, scale. Each takes a minute or so."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

from ihsm.bench.api import api
from ihsm.bench.attest import attestation
from ihsm.bench.client import client
from ihsm.bench.device import BenchDevice, provision
from ihsm.bench.kmod import kmod
from ihsm.bench.operations import DERIVE, ENCRYPT, Operation, Operations, shared_secret
from ihsm.bench.peers import aws_lc, pyca_gcm, soft_hsm, system_openssl
from ihsm.bench.results import Result, latency, throughput
from ihsm.bench.rings import primitive
from ihsm.bench.sample import Load, Runner, Sample, interleave, ratios, timed
from ihsm.bench.setups import (
    LATENCY_DEVICE,
    THROUGHPUT_DEVICE,
    TRAP_DEVICE,
    WAITING,
    IdleReading,
    Place,
    proportional_bytes,
)
from ihsm.bench.trace import trace
from ihsm.bench.workloads import aes_work, ddi_work, library_runner, recorded
from ihsm.ddi import Key, Session
from ihsm.driver import Controller, DriverOptions
from ihsm_abi.ddi import EccCurve, HashAlgorithm, KeyType

SECONDS: Final = 0.3
"""Of a run that is not one of interleaved pairs."""
DEPTHS: Final = (1, 2, 4, 8, 16, 32, 64, 128, 255)
BATCHES: Final = (1, 4, 16, 64, 128)
LOADS: Final = (0.1, 0.3, 0.5, 0.7, 0.8, 0.9)
"""Offered load as a share of the highest rate found."""
SIZES: Final = (16, 64, 256, 1024, 4096, 16384, 65536, 262144, 1 << 20)
QUEUE_COUNTS: Final = (1, 2, 8, 32, 126)
OUTSTANDING: Final = (1, 4, 16)
FUNCTION_COUNTS: Final = (1, 4, 16, 64)
PEER_PAIRS: Final = 5
IDLE_WINDOW_S: Final = 0.5
SETTLED_PERCENT: Final = 3.0
"""CPU above which a device without work is taken to be making keys still; a sleeping poller takes about 2 %."""
SETTLING_S: Final = 10.0

Advance = Callable[[str], None]
"""Called with what has just been measured."""


def ring(place: Place, advance: Advance) -> list[Result]:
    """AES-GCM of 16 bytes: latency by depth, throughput by batch, latency under offered load."""
    results: list[Result] = []
    options = DriverOptions(interrupts=False, hsm_queues=1, aes_queues=1, aes_entries=256)
    with (
        place.function(LATENCY_DEVICE, options) as (controller, session, load),
        aes_work(controller, session, "gcm", 16, load=load) as work,
    ):
        for depth in DEPTHS:
            samples = [work.run(SECONDS, depth=depth, batch=1, latencies=True)]
            results.append(latency(f"ring-depth-{depth}", {"device": samples}, {}, depth=depth))
            advance(results[-1].id)
        best = 0.0
        for batch in BATCHES:
            samples = [work.run(SECONDS, depth=255 // batch * batch, batch=batch)]
            results.append(throughput(f"ring-batch-{batch}", {"device": samples}, {}, batch=batch))
            best = max(best, results[-1].value)
            advance(results[-1].id)
        for share in LOADS:
            samples = [work.ring.open_loop(SECONDS, rate=share * best)]
            results.append(
                latency(f"ring-load-{share:g}", {"device": samples}, {}, offered_per_s=share * best, load=share)
            )
            advance(results[-1].id)
    for name in ("shared_memory", "socket", "eventfd"):
        results.append(latency(f"primitive-{name}", {name: [primitive(name, SECONDS)]}, {}))
        advance(results[-1].id)
    return results


def aes(place: Place, advance: Advance) -> list[Result]:
    """GCM and XTS by size beside the libraries, in place, and by number of queues."""
    results: list[Result] = []
    options = DriverOptions(interrupts=False, hsm_queues=1, aes_queues=1, aes_entries=256, buffer_bytes=24 << 20)
    with place.function(THROUGHPUT_DEVICE, options) as (controller, session, load):
        for cipher in ("gcm", "xts"):
            for size in SIZES:
                results.append(_aes_beside_peers(controller, session, load, cipher, size))
                advance(results[-1].id)
            for size in (64, 4096, 65536):
                with aes_work(controller, session, cipher, size, load=load, in_place=True) as work:
                    samples = [work.run(SECONDS, depth=64, batch=16)]
                results.append(
                    throughput(f"{cipher}-{size}-in-place", {"device": samples}, {}, bytes=size, in_place=True)
                )
                advance(results[-1].id)
    results += _aes_by_queues(place, advance)
    return results


def _aes_beside_peers(
    controller: Controller, session: Session, load: Load | None, cipher: str, size: int
) -> Result:  # fmt: skip
    depth = max(8, min(192, (1 << 21) // size))
    with aes_work(controller, session, cipher, size, load=load) as work:
        variants: dict[str, Runner] = {
            "device": functools.partial(work.run, depth=depth, batch=max(1, depth // 4)),
            "aws_lc": library_runner(aws_lc(), work, cipher),
        }
        if openssl := system_openssl():
            variants["openssl"] = library_runner(openssl, work, cipher)
        if cipher == "gcm":
            variants["pyca"] = functools.partial(pyca_gcm, work.aad_bytes, size)
        series = interleave(variants, pairs=PEER_PAIRS)
    return throughput(f"{cipher}-{size}", series, ratios(series, "device"), bytes=size, depth=depth)


def _aes_by_queues(place: Place, advance: Advance) -> list[Result]:
    results = []
    options = DriverOptions(interrupts=False, hsm_queues=1, aes_entries=16, buffer_bytes=8 << 20)
    arguments = (*THROUGHPUT_DEVICE, "--resources", str(max(QUEUE_COUNTS) // 2))
    with place.function(arguments, options) as (controller, session, load):
        for count in QUEUE_COUNTS:
            queues = controller.aes_queues[:count]
            if len(queues) < count:
                break
            with aes_work(controller, session, "gcm", 4096, load=load, queues=queues) as work:
                samples = [work.run(SECONDS, depth=8, batch=4)]
            results.append(throughput(f"gcm-4096-queues-{count}", {"device": samples}, {}, queues=count, bytes=4096))
            advance(results[-1].id)
    return results


def ddi(place: Place, advance: Advance) -> list[Result]:
    """HSM operations by number of outstanding commands, beside raw OpenSSL and SoftHSM2 where they do the same."""
    results: list[Result] = []
    hsm = soft_hsm()
    try:
        with place.function(TRAP_DEVICE, WAITING) as (controller, session, load):
            recorder, through = recorded(controller, session)
            for operation in _operations(Operations(session, through, system_openssl(), hsm)):
                with ddi_work(operation, recorder, controller, load=load) as work:
                    for outstanding in OUTSTANDING:
                        variants: dict[str, Runner] = {"device": functools.partial(work.run, outstanding=outstanding)}
                        if outstanding == max(OUTSTANDING):
                            variants |= operation.peers
                        series = interleave(variants, pairs=PEER_PAIRS)
                        costs = ratios(series, "device")
                        name = f"{operation.id}-outstanding-{outstanding}"
                        results.append(throughput(name, series, costs, outstanding=outstanding))
                        advance(name)
            for result in _derivations(session, load):
                results.append(result)
                advance(result.id)
    finally:
        if hsm is not None:
            hsm.close()
    return results


def _operations(operations: Operations) -> Iterator[Operation]:
    for curve in (EccCurve.P256, EccCurve.P384, EccCurve.P521):
        yield operations.ecdsa(curve)
    for bits in (2048, 3072, 4096):
        yield operations.rsa(bits)
    yield operations.cbc(1024)
    for message_bytes in (64, 1024):
        yield operations.hmac(message_bytes)


def _derivations(session: Session, load: Load | None) -> Iterator[Result]:
    """Operations that make a key, from Python; the key is deleted again, so each is two commands."""
    pair, peer = (session.generate_ecc_key(EccCurve.P256, DERIVE) for _ in range(2))
    assert peer.public_key_der is not None
    point, shared = peer.public_key_der, shared_secret(session)
    makers: dict[str, Callable[[], Key]] = {
        "ecdh-p256": lambda: session.ecdh(pair, point, KeyType.Secret256, DERIVE),
        "hkdf-sha256": lambda: session.hkdf(shared, HashAlgorithm.Sha256, KeyType.Aes256, ENCRYPT),
        "kbkdf-sha256": lambda: session.kbkdf(shared, HashAlgorithm.Sha256, KeyType.Aes256, ENCRYPT),
        "generate-p256": lambda: session.generate_ecc_key(EccCurve.P256, DERIVE),
    }
    for name, make in makers.items():
        sample = timed(lambda make=make: session.delete_key(make()), SECONDS, device=load)  # type: ignore[misc]
        yield throughput(f"{name}-and-delete", {"device": [sample]}, {}, outstanding=1)


def scale(place: Place, advance: Advance) -> list[Result]:
    """Rate, memory and idle CPU by number of functions in one process."""
    del place  # it takes a device of its own
    results = []
    options = DriverOptions(interrupts=False, hsm_queues=1, aes_queues=1, aes_entries=64, buffer_bytes=1 << 20)
    for count in FUNCTION_COUNTS:
        device = BenchDevice(THROUGHPUT_DEVICE, count)
        try:
            controllers = [device.controller(options, number) for number in range(count)]
            sessions = [provision(controller) for controller in controllers]
            idle = _idle_percent(device)
            samples = [_one_after_the_other(device, controllers, sessions)]
            facts: dict[str, Any] = {
                "functions": count,
                "idle_cpu_percent": idle,
                "megabytes_per_function": proportional_bytes(device.process.pid) / count / 1e6,
            }
            results.append(throughput(f"functions-{count}", {"device": samples}, {}, **facts))
            advance(results[-1].id)
            for controller in controllers:
                controller.close()
        finally:
            device.close()
    return results


def _idle_percent(device: BenchDevice) -> float:
    """CPU of a device without work, once it has made the keys ahead that provisioning took from its stock."""
    least, end = float("inf"), time.monotonic() + SETTLING_S
    while least > SETTLED_PERCENT and time.monotonic() < end:
        reading = IdleReading(device)
        time.sleep(IDLE_WINDOW_S)
        least = min(least, reading.percent())
    return least


def _one_after_the_other(device: BenchDevice, controllers: Sequence[Controller], sessions: Sequence[Session]) -> Sample:
    """GCM of 4 KiB on every function in turn, added up."""
    parts = []
    for controller, session in zip(controllers, sessions, strict=True):
        with aes_work(controller, session, "gcm", 4096, load=device.load) as work:
            parts.append(work.run(SECONDS / len(controllers) + 0.005, depth=32, batch=16))
    return Sample(
        sum(part.operations for part in parts),
        sum(part.wall_s for part in parts),
        sum(part.client_cpu_s for part in parts),
        sum(part.device_cpu_s or 0.0 for part in parts),
        sum(part.involuntary for part in parts),
    )


SUITES: Final = {
    "ring": ring,
    "aes": aes,
    "ddi": ddi,
    "client": client,
    "api": api,
    "attest": attestation,
    "kmod": kmod,
    "scale": scale,
    "trace": trace,
}
