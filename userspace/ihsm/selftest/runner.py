# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Runs the steps one after the other, each timed, none ending the run."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

from ihsm.ddi import CertificateChain, Credential, Partition
from ihsm.driver import OpenDevice
from ihsm.errors import IhsmError
from ihsm.selftest import agreement, lifecycle, management, private_keys, symmetric
from ihsm.selftest.bench import Bench, CheckError
from ihsm_abi.ddi.limits import CREDENTIAL_ID_BYTES, PIN_BYTES

Step = tuple[str, Callable[[Bench], str]]


@dataclass(frozen=True, slots=True)
class StepResult:
    """One step: what was seen, or what was wrong."""

    name: str
    ok: bool
    detail: str
    us: int
    """How long it took, in microseconds, computations on this side included."""


@dataclass
class SelfTestReport:
    """All steps, and the evidence that the attestation step collected."""

    steps: list[StepResult] = field(default_factory=list)
    attestation: bytes = b""
    """A verified attestation report (COSE_Sign1); empty if the step failed."""
    chain: CertificateChain | None = None
    """The certificate chain it was verified against."""

    @property
    def passed(self) -> int:
        """Number of steps that passed."""
        return sum(step.ok for step in self.steps)

    @property
    def failed(self) -> int:
        """Number of steps that failed."""
        return len(self.steps) - self.passed

    def record(self) -> dict[str, Any]:
        """For JSON: `passed`, `failed`, `steps`."""
        return {"passed": self.passed, "failed": self.failed, "steps": [asdict(step) for step in self.steps]}


def run_selftest(
    device: OpenDevice,
    credential: Credential | None = None,
    *,
    progress: Callable[[StepResult], None] = lambda step: None,
) -> SelfTestReport:
    """Check a device.

    Args:
        device: It; nobody else may use it meanwhile.
        credential: That of a partition which is provisioned already. It stays as it is then, and the steps that need a
            partition of their own (provisioning, change of PIN, restoring after a reset) are left out.
        progress: Called after every step.

    Raises:
        CheckError: the partition is provisioned and no credential was given, or the other way round.
        IhsmError: the device does not answer at all.
    """
    provisioned = Partition(device).is_provisioned()
    if provisioned and credential is None:
        raise CheckError("the partition has a credential already: give it, or reset the device")
    if credential is not None and not provisioned:
        raise CheckError("a credential was given, but the partition has none: leave it out")
    own = Credential(os.urandom(CREDENTIAL_ID_BYTES), os.urandom(PIN_BYTES))
    bench = Bench(device, credential or own, provision=credential is None)
    report = SelfTestReport()
    for name, step in _steps(bench):
        result = _run(bench, name, step)
        report.steps.append(result)
        progress(result)
    report.attestation, report.chain = bench.report, bench.chain
    return report


def _steps(bench: Bench) -> Iterable[Step]:
    yield from lifecycle.OPENING
    if bench.provision:
        yield from lifecycle.PROVISIONING
    yield from lifecycle.SESSION
    for family in (symmetric, agreement, private_keys, management):
        yield from family.STEPS
    if bench.provision:
        yield from lifecycle.OWN_PARTITION
    yield from lifecycle.CLOSING
    if bench.provision:
        yield from lifecycle.REMOVAL


def _run(bench: Bench, name: str, step: Callable[[Bench], str]) -> StepResult:
    start = time.monotonic_ns()
    ok = False
    try:
        try:
            detail = step(bench)
        finally:
            bench.delete_keys()
        ok = True
    except IhsmError as error:
        detail = str(error)
    except Exception as error:  # whatever a wrong answer makes of a computation here is a failed step too
        detail = f"{type(error).__name__}: {error}"
    return StepResult(name, ok, detail, (time.monotonic_ns() - start) // 1000)
