# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Power-on self-tests: a known answer per algorithm, before the first command (FIPS 140-3, spec 06 §3.1).

The tests themselves run in the key store, where secrets are; this module runs them in order, times them and keeps the
verdict. After a failure the module is in its error state until it starts anew.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass

from ihsm_device.hsm.keystore.store import KeyStore
from ihsm_device.hsm.keystore.types import KeyStoreError

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class SelfTestResult:
    """Outcome of one known-answer test."""

    name: str
    passed: bool
    duration_us: int


@dataclass(frozen=True, slots=True)
class SelfTestReport:
    """Outcome of a run, in the order in which the tests ran."""

    results: tuple[SelfTestResult, ...]

    @property
    def passed(self) -> bool:
        """Whether every test gave the known answer."""
        return all(result.passed for result in self.results)

    @property
    def failed(self) -> tuple[str, ...]:
        """Names of the tests that did not."""
        return tuple(result.name for result in self.results if not result.passed)


def run_self_tests(store: KeyStore) -> SelfTestReport:
    """Run every known-answer test of the store, also those after a failed one.

    A test that cannot be run, for want of memory say, has failed. Failures are logged by name.
    """
    report = SelfTestReport(tuple(_run(store, name) for name in store.self_test_names()))
    for name in report.failed:
        _log.error("self-test failed", extra={"self_test": name})
    return report


def _run(store: KeyStore, name: str) -> SelfTestResult:
    start = time.perf_counter_ns()
    try:
        passed = store.self_test(name)
    except KeyStoreError:
        passed = False
    return SelfTestResult(name, passed, (time.perf_counter_ns() - start) // 1000)
