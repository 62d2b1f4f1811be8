# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""How much slow commands delay fast ones: ECDSA signatures alone, and while RSA-4096 operations are outstanding.

Usage: slow_commands.py [--outstanding 16] [--signatures 1000] [--device URI]. Prints latencies in microseconds and the
limit that 5 times the unloaded 99th percentile plus one RSA-4096 operation makes.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import threading
import time
from collections.abc import Iterator

import numpy as np
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from ihsm.bus import VfioUserFunction
from ihsm.ddi import Credential, Key, KeyRequest, Partition, Session, SoftwareTrustAnchor
from ihsm.driver import Controller
from ihsm.embedded import EmbeddedDevice
from ihsm.uri import open_controller
from ihsm_abi.ddi import EccCurve, HashAlgorithm, KeyClass, KeyUsage, RsaModExpReq, RsaOpType, encode_request
from ihsm_abi.hsm_queue import ControlKind

SIGN = KeyRequest(KeyUsage.SignVerify)


def open_session(controller: Controller) -> Session:
    """A session of a partition provisioned for this run."""
    partition = Partition(controller)
    credential = Credential(os.urandom(16), os.urandom(16))
    anchor = SoftwareTrustAnchor(ec.generate_private_key(ec.SECP384R1()))
    partition.establish_credential(credential, partition.init_bk3(os.urandom(48)).masked_bk3, anchor)
    return partition.open_session(credential)


def latencies_us(session: Session, key: Key, count: int) -> np.ndarray:
    """Of ECDSA P-256 signatures, one after the other."""
    measured = np.empty(count)
    digest = bytes(32)
    for number in range(count):
        start = time.perf_counter_ns()
        session.ecc_sign(key, digest, HashAlgorithm.Sha256)
        measured[number] = (time.perf_counter_ns() - start) / 1000
    return measured


class SlowLoad:
    """Keeps so many RSA operations outstanding; each completion submits the next one."""

    def __init__(self, controller: Controller, session: Session, key: Key, outstanding: int) -> None:
        request = RsaModExpReq(key_id=key.key_id, y=b"\0" + b"\x55" * 511, op_type=RsaOpType.Sign)
        self._message = encode_request(
            session.partition.channel.dialect.to_wire(request), session_id=session.session_id
        )
        self._controller, self._session_id, self._outstanding = controller, session.session_id, outstanding
        self.completed = 0

    def one_s(self) -> float:
        """Duration of one operation without any other."""
        start = time.perf_counter()
        self._controller.exchange(self._message, ControlKind.IN_SESSION, self._session_id)
        return time.perf_counter() - start

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Under load."""
        stop = threading.Event()
        threads = [threading.Thread(target=self._repeat, args=(stop,)) for _ in range(self._outstanding)]
        for thread in threads:
            thread.start()
        time.sleep(0.5)
        yield
        stop.set()
        for thread in threads:
            thread.join()

    def _repeat(self, stop: threading.Event) -> None:
        while not stop.is_set():
            self._controller.exchange(self._message, ControlKind.IN_SESSION, self._session_id)
            self.completed += 1


def report(name: str, measured: np.ndarray) -> float:
    """Print percentiles; the 99th."""
    p50, p90, p99, top = np.percentile(measured, [50, 90, 99, 100])
    print(f"{name}: p50 {p50:.0f}  p90 {p90:.0f}  p99 {p99:.0f}  max {top:.0f} us  ({len(measured)} signatures)")
    return float(p99)


@contextlib.contextmanager
def device(uri: str | None) -> Iterator[Controller]:
    """The given device, or a private one with one HSM queue, which slow and fast commands share."""
    if uri is not None:
        with open_controller(uri) as controller:
            yield controller
        return
    with EmbeddedDevice() as private, Controller(VfioUserFunction(private.socket_path)) as controller:
        yield controller


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--outstanding", type=int, default=16)
    parser.add_argument("--signatures", type=int, default=1000)
    parser.add_argument("--device")
    options = parser.parse_args()
    with device(options.device) as controller:
        session = open_session(controller)
        own = rsa.generate_private_key(65537, 4096)
        payload = own.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
        slow = SlowLoad(controller, session, session.import_key(payload, KeyClass.Rsa, SIGN), options.outstanding)
        key = session.generate_ecc_key(EccCurve.P256, SIGN)
        latencies_us(session, key, 100)
        slice_us = min(slow.one_s() for _ in range(5)) * 1e6
        unloaded = report("unloaded", latencies_us(session, key, options.signatures))
        start = time.perf_counter()
        with slow.running():
            loaded = report(
                f"{options.outstanding} RSA-4096 outstanding", latencies_us(session, key, options.signatures)
            )
        rate = slow.completed / (time.perf_counter() - start)
        limit = 5 * unloaded + slice_us
        print(f"one RSA-4096 operation {slice_us:.0f} us, {rate:.0f} of them per second under load")
        print(f"limit {limit:.0f} us: {'kept' if loaded < limit else 'EXCEEDED'}")


if __name__ == "__main__":
    main()
