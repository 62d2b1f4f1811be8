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
import time
from collections.abc import Callable, Iterator

import numpy as np
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from ihsm.bus import VfioUserFunction
from ihsm.ddi import Credential, Key, KeyRequest, Partition, Session, SoftwareTrustAnchor
from ihsm.driver import Controller, Submission
from ihsm.embedded import EmbeddedDevice
from ihsm.uri import open_controller
from ihsm_abi.ddi import EccCurve, HashAlgorithm, KeyClass, KeyUsage, RsaModExpReq, RsaOpType, encode_request
from ihsm_abi.hsm_queue import ControlKind

TIMEOUT_S = 60.0
SIGN = KeyRequest(KeyUsage.SignVerify)


def open_session(controller: Controller) -> Session:
    """A session of a partition provisioned for this run."""
    partition = Partition(controller)
    credential = Credential(os.urandom(16), os.urandom(16))
    anchor = SoftwareTrustAnchor(ec.generate_private_key(ec.SECP384R1()))
    partition.establish_credential(credential, partition.init_bk3(os.urandom(48)).masked_bk3, anchor)
    return partition.open_session(credential)


class SlowLoad:
    """Keeps so many RSA operations outstanding, without a thread: `top_up` replaces those that have completed."""

    def __init__(self, controller: Controller, session: Session, key: Key, outstanding: int) -> None:
        request = RsaModExpReq(key_id=key.key_id, y=b"\0" + b"\x55" * 511, op_type=RsaOpType.Sign)
        self._message = encode_request(
            session.partition.channel.dialect.to_wire(request), session_id=session.session_id
        )
        self._queue, self._session_id, self._outstanding = controller.hsm_queues[0], session.session_id, outstanding
        self._submissions: list[Submission] = []
        self.completed = 0

    def _submit(self) -> Submission:
        return self._queue.submit_message(self._message, ControlKind.IN_SESSION, self._session_id, timeout_s=TIMEOUT_S)

    def one_us(self) -> float:
        """Duration of one operation without any other."""
        start = time.perf_counter_ns()
        self._submit().result()
        return (time.perf_counter_ns() - start) / 1000

    def top_up(self) -> None:
        """Submit as many as are missing."""
        before = len(self._submissions)
        self._submissions = [submission for submission in self._submissions if not submission.done()]
        self.completed += before - len(self._submissions)
        while len(self._submissions) < self._outstanding:
            self._submissions.append(self._submit())

    def drain(self) -> None:
        """Wait for all."""
        for submission in self._submissions:
            submission.result()


def latencies_us(session: Session, key: Key, count: int, between: Callable[[], None] = lambda: None) -> np.ndarray:
    """Of ECDSA P-256 signatures, one after the other."""
    measured = np.empty(count)
    digest = bytes(32)
    for number in range(count):
        between()
        start = time.perf_counter_ns()
        session.ecc_sign(key, digest, HashAlgorithm.Sha256)
        measured[number] = (time.perf_counter_ns() - start) / 1000
    return measured


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
        slice_us = min(slow.one_us() for _ in range(5))
        unloaded = report("unloaded", latencies_us(session, key, options.signatures))
        start = time.perf_counter()
        measured = latencies_us(session, key, options.signatures, slow.top_up)
        rate = slow.completed / (time.perf_counter() - start)
        loaded = report(f"{options.outstanding} RSA-4096 outstanding", measured)
        slow.drain()
        limit = 5 * unloaded + slice_us
        print(f"one RSA-4096 operation {slice_us:.0f} us, {rate:.0f} of them per second under load")
        print(f"limit {limit:.0f} us: {'kept' if loaded < limit else 'EXCEEDED'}")


if __name__ == "__main__":
    main()
