# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""What the device is meant to reach, on a CPU with AVX-512 and VAES against Debian 12's OpenSSL 3.0."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final


@dataclass(frozen=True, slots=True)
class Target:
    """A bound on one number of a result."""

    id: str
    what: str
    number: str
    """A peer's name for its ratio, else a field of the result."""
    bound: float
    at_most: bool = False

    def found(self, record: dict[str, Any]) -> float | None:
        """The number in a result's JSON form; None if it was not measured."""
        value = record["ratio"].get(self.number, record.get(self.number))
        return None if value is None else float(value)

    def met(self, record: dict[str, Any]) -> bool | None:
        """Whether a result's JSON form reaches it; None if it was not measured."""
        value = self.found(record)
        return None if value is None else value <= self.bound if self.at_most else value >= self.bound

    def judged(self, record: dict[str, Any], document_noise: Sequence[str]) -> dict[str, Any]:
        """The target's line in a document: what was found, and `met`, which is None where there is no verdict.

        There is none on what was not measured, nor on a noisy figure, nor where the machine was too noisy for all.
        """
        noisy = [*document_noise, *record.get("noisy", [])]
        found = self.found(record)
        return {
            "id": self.id,
            "what": self.what,
            "target": str(self),
            "found": found,
            "met": None if noisy else self.met(record),
            "noisy": found is not None and bool(noisy),
        }

    def __str__(self) -> str:
        """Like `openssl >= 2`."""
        return f"{self.number} {'<=' if self.at_most else '>='} {self.bound:g}"


TARGETS: Final = (
    Target("gcm-65536", "AES-256-GCM 64 KiB, one queue", "openssl", 2.0),
    Target("gcm-65536", "AES-256-GCM 64 KiB, one queue", "aws_lc", 0.9),
    Target("gcm-4096", "AES-256-GCM 4 KiB, batches of 64", "openssl", 1.5),
    Target("gcm-4096", "AES-256-GCM 4 KiB, batches of 64", "aws_lc", 0.75),
    Target("gcm-64", "AES-256-GCM 64 B, batches of 256", "openssl", 0.8),
    Target("gcm-64", "AES-256-GCM 64 B, batches of 256", "softhsm2", 60.0),
    Target("gcm-64-numpy", "the same from Python as numpy batches, wall time", "softhsm2", 20.0),
    Target("xts-4096", "AES-XTS 4 KiB", "openssl", 1.3),
    Target("xts-4096", "AES-XTS 4 KiB", "aws_lc", 0.85),
    Target(
        "ring-poll-c", "round trip, polled, from C, over a shared-memory ping-pong", "primitives", 3.0, at_most=True
    ),
    Target("ring-poll-python", "round trip from one synchronous Python call, µs", "p50_us", 4.0, at_most=True),
    Target("exchange-python", "GetApiRev through Controller.exchange, polled, µs", "p50_us", 25.0, at_most=True),
    Target("sign-many-python", "ECDSA P-256 over arrays of 64 from Python, wall time", "softhsm2", 1.5),
    Target(
        "ring-trap", "round trip, trapped doorbell and interrupt, over socket and eventfd", "primitives", 1.25, True
    ),
    Target("ecdsa-p256", "ECDSA P-256 signatures through DDI, 16 outstanding", "openssl", 0.6),
    Target("ecdsa-p256", "ECDSA P-256 signatures through DDI, 16 outstanding", "softhsm2", 1.0),
    Target("ecdsa-p384", "ECDSA P-384 signatures through DDI", "openssl", 5.0),
    Target("rsa-2048", "RSA-2048 private operations through DDI", "openssl", 0.9),
    Target("rsa-3072", "RSA-3072 private operations through DDI", "openssl", 2.0),
    Target("idle-64", "64 idle functions in one process, CPU in percent", "value", 1.0, at_most=True),
    Target("idle-64", "64 idle functions in one process, MB each", "megabytes_per_function", 8.0, at_most=True),
    Target("scale-queues", "126 AES queues against 1", "single_queue", 0.95),
    Target("api-sign-p256", "key.sign P-256 over session.ecc_sign, wall time", "session", 0.85),
    Target("api-sign-rsa2048", "key.sign RSA-2048 over session.rsa_mod_exp, wall time", "session", 0.95),
    Target("api-threads-8", "eight threads that sign over one", "one_thread", 0.9),
    Target("api-awaited-64", "64 awaited signatures outstanding over one at a time", "one_at_a_time", 1.0),
    Target("api-sign-at-rest", "more for a P-256 key that must be unmasked, ms", "extra_ms", 1.0, at_most=True),
    Target("kmod-notify", "an ioctl of the driver model over an exchange, by notify", "exchange", 0.25),
    Target("kmod-preload", "an ioctl of the driver model over an exchange, by preload", "exchange", 0.25),
    Target("kmod-notify-way", "an ioctl of a driver that does nothing, CPU of both sides, µs", "value", 60.0, True),
    Target("kmod-preload-way", "an ioctl of a driver that does nothing, CPU of both sides, µs", "value", 25.0, True),
    Target("trace-gcm-64", "hooks without a reader over a build without hooks", "off", 1.03, at_most=True),
    Target("trace-gcm-64", "more per command with a trace's reader, ns", "on_extra_ns", 150.0, at_most=True),
    Target("guest-info", "second ihsm info in a guest under TCG, s", "value", 4.0, at_most=True),
    Target("guest-first-signature", "ihsm guest --exec 'python sign.py' under TCG, in all, s", "value", 20.0, True),
    Target("api-open", "Hsm.open on a running device, ms", "value", 150.0, at_most=True),
)


def verdict(line: dict[str, Any]) -> str:
    """A line of `Target.judged` in one word or two."""
    if line["found"] is None:
        return "not measured"
    if line["met"] is None:
        return "noisy"
    return "met" if line["met"] else "missed"
