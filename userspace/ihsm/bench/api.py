# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""What the key API costs over the session below it: `ihsm bench api`."""

from __future__ import annotations

import asyncio
import hashlib
import os
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, cast

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding

from ihsm.api.ec_key import EcPrivateKey
from ihsm.api.hsm import Hsm
from ihsm.api.rsa_key import RsaPrivateKey
from ihsm.api.steps import Procedure
from ihsm.bench.results import WALL, Result, throughput
from ihsm.bench.sample import Sample, Series, interleave, ratios, timed
from ihsm.bench.setups import Place
from ihsm.ddi import Key
from ihsm.embedded import EmbeddedDevice
from ihsm_abi.ddi import HashAlgorithm, RsaOpType

PAIRS: Final = 15
THREADS: Final = 8
OUTSTANDING: Final = 64
OPENINGS: Final = 10
MESSAGE: Final = b"benchmark"
ECDSA: Final = ec.ECDSA(hashes.SHA256())

Advance = Callable[[str], None]


def api(place: Place, advance: Advance) -> list[Result]:
    """Signatures by key objects beside the session's, by threads and awaited, of keys at rest; and opening."""
    del place  # it takes devices of its own
    results: list[Result] = []
    with Hsm.private() as hsm:
        key = cast(EcPrivateKey, hsm.generate("p256", "p256"))
        for measure in (_p256, _rsa2048, _threads, _awaited, _at_rest):
            results.append(measure(hsm, key))
            advance(results[-1].id)
    results.append(_opening())
    advance(results[-1].id)
    return results


def _wall(sample: Sample) -> float:
    return sample.wall_per_op_s


def _beside(id: str, series: Series) -> Result:
    """A rate with its ratios of wall time: what is compared runs in the same process."""
    subject = next(iter(series))
    return throughput(id, series, ratios(series, subject, _wall), ratio_clock=WALL)


def _resident(hsm: Hsm, key: EcPrivateKey | RsaPrivateKey) -> Key:
    """The key in the device, for the session's own operations."""
    masked = hsm.store.key(str(key.label)).newest.usages["sign"]

    def itself(key: Key) -> Procedure[Key]:
        yield from ()
        return key

    return hsm.connection.run(lambda link: link.residents.held([masked], itself))


def _p256(hsm: Hsm, key: EcPrivateKey) -> Result:
    session, inside = hsm.connection.link.session, _resident(hsm, key)
    digest = hashlib.sha256(MESSAGE).digest()
    series = interleave(
        {
            "api": lambda seconds: timed(lambda: key.sign(MESSAGE, ECDSA), seconds),
            "session": lambda seconds: timed(lambda: session.ecc_sign(inside, digest, HashAlgorithm.Sha256), seconds),
        },
        pairs=PAIRS,
    )
    return _beside("api-sign-p256", series)


def _rsa2048(hsm: Hsm, _: EcPrivateKey) -> Result:
    key = cast(RsaPrivateKey, hsm.generate("rsa2048", "rsa2048"))
    session, inside = hsm.connection.link.session, _resident(hsm, key)
    number = b"\0" + os.urandom(255)
    series = interleave(
        {
            "api": lambda seconds: timed(lambda: key.sign(MESSAGE, padding.PKCS1v15(), hashes.SHA256()), seconds),
            "session": lambda seconds: timed(lambda: session.rsa_mod_exp(inside, number, RsaOpType.Sign), seconds),
        },
        pairs=PAIRS,
    )
    return _beside("api-sign-rsa2048", series)


def _threads(_: Hsm, key: EcPrivateKey) -> Result:
    series = interleave(
        {
            f"threads-{THREADS}": lambda seconds: _by_threads(key, seconds),
            "one_thread": lambda seconds: timed(lambda: key.sign(MESSAGE, ECDSA), seconds),
        },
        pairs=PAIRS,
    )
    return _beside(f"api-threads-{THREADS}", series)


def _by_threads(key: EcPrivateKey, seconds: float) -> Sample:
    counts = [0] * THREADS
    end = time.perf_counter() + seconds

    def work(number: int) -> None:
        while time.perf_counter() < end:
            key.sign(MESSAGE, ECDSA)
            counts[number] += 1

    threads = [threading.Thread(target=work, args=(number,)) for number in range(THREADS)]
    cpu, start = time.process_time(), time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return Sample(sum(counts), time.perf_counter() - start, time.process_time() - cpu)


def _awaited(_: Hsm, key: EcPrivateKey) -> Result:
    series = interleave(
        {
            f"awaited-{OUTSTANDING}": lambda seconds: asyncio.run(_by_tasks(key, seconds)),
            "one_at_a_time": lambda seconds: timed(lambda: key.sign(MESSAGE, ECDSA), seconds),
        },
        pairs=PAIRS,
    )
    return _beside(f"api-awaited-{OUTSTANDING}", series)


async def _by_tasks(key: EcPrivateKey, seconds: float) -> Sample:
    done = 0
    end = time.perf_counter() + seconds

    async def work() -> None:
        nonlocal done
        while time.perf_counter() < end:
            await key.sign_async(MESSAGE, ECDSA)
            done += 1

    cpu, start = time.process_time(), time.perf_counter()
    await asyncio.gather(*(work() for _ in range(OUTSTANDING)))
    return Sample(done, time.perf_counter() - start, time.process_time() - cpu)


def _at_rest(hsm: Hsm, key: EcPrivateKey) -> Result:
    """A signature by a key that has to be brought in first, beside one that is there."""
    masked = tuple(hsm.store.key(str(key.label)).newest.usages.values())

    def from_rest(seconds: float) -> Sample:
        """Without the time that the key takes to leave."""
        count, wall, cpu = 0, 0.0, 0.0
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            hsm.connection.run(lambda link: link.residents.rest(masked))
            cpu_start, start = time.process_time(), time.perf_counter()
            key.sign(MESSAGE, ECDSA)
            wall += time.perf_counter() - start
            cpu += time.process_time() - cpu_start
            count += 1
        return Sample(count, wall, cpu)

    series = interleave(
        {"at_rest": from_rest, "resident": lambda seconds: timed(lambda: key.sign(MESSAGE, ECDSA), seconds)},
        pairs=PAIRS,
    )
    result = _beside("api-sign-at-rest", series)
    result.more["extra_ms"] = 1e3 * statistics.median(
        rest.wall_per_op_s - there.wall_per_op_s
        for rest, there in zip(series["at_rest"], series["resident"], strict=True)
    )
    return result


def _opening() -> Result:
    """`Hsm.open` of a store without PIN on a device that runs."""
    with tempfile.TemporaryDirectory(prefix="ihsm-bench-") as folder, EmbeddedDevice() as device:
        uri, root = f"vfio-user:{device.socket_path}", Path(folder)
        Hsm.create("bench", device=uri, root=root).close()
        times = []
        for _ in range(OPENINGS):
            start = time.perf_counter()
            hsm = Hsm.open("bench", root=root)
            times.append(time.perf_counter() - start)
            hsm.close()
    samples = [Sample(1, wall, wall) for wall in times]
    value = sorted(times)[len(times) // 2] * 1e3
    return Result("api-open", value, "ms", {}, ratio_clock=WALL, runs={"open": samples})
