# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Fixtures for pytest: a device, its faults, its trace, a guest (docs/driver-tests.md).

Pytest loads this package by itself wherever ihsm is installed (entry point group `pytest11`), so it imports nothing
that somebody who uses none of the fixtures would wait for. `-p no:ihsm` leaves it out.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

if TYPE_CHECKING:
    from ihsm.embedded import EmbeddedDevice
    from ihsm.pytest_plugin.device import SharedDevice
    from ihsm.pytest_plugin.faults import WatchedFaults
    from ihsm.pytest_plugin.guest import GuestUnderTest
    from ihsm.pytest_plugin.recording import Recording

__all__ = [
    "ihsm_device", "ihsm_device_arguments", "ihsm_faults", "ihsm_guest", "ihsm_shared_device", "ihsm_trace",
]  # fmt: skip

SECTION: Final = "ihsm"
_LONGEST_NAME: Final = 150


@dataclass(slots=True)
class _Use:
    """What one run of a test has of the device."""

    failed: bool = False
    """A phase of it has failed."""
    recording: Recording | None = None
    faults: WatchedFaults | None = None


_USE: Final = pytest.StashKey[_Use]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--ihsm-traces`."""
    parser.getgroup("ihsm").addoption(
        "--ihsm-traces",
        metavar="DIR",
        type=Path,
        help="Where traces of failed tests are kept (fixture ihsm_trace); default: below the run's temporary folder.",
    )


def pytest_configure(config: pytest.Config) -> None:
    """The marks of the fixtures."""
    config.addinivalue_line("markers", "ihsm_guest(**values): what the guest of ihsm_guest is, as in GuestConfig")


@pytest.fixture(scope="session")
def ihsm_device_arguments() -> Sequence[str]:
    """Further options of `ihsm serve` for the device of `ihsm_device`; override it in a conftest.py."""
    return ()


@pytest.fixture(scope="session")
def ihsm_shared_device(ihsm_device_arguments: Sequence[str]) -> Iterator[SharedDevice]:
    """The process behind `ihsm_device`, which is what tests use."""
    from ihsm.pytest_plugin.device import SharedDevice

    with SharedDevice(ihsm_device_arguments) as shared:
        yield shared


@pytest.fixture
def ihsm_device(request: pytest.FixtureRequest, ihsm_shared_device: SharedDevice) -> Iterator[EmbeddedDevice]:
    """A device that nobody has used since its last subsystem reset: `ihsm_device.socket_path` leads to it.

    There is one process for the session. After the test its faults are cleared, and it gets a subsystem reset. A
    test that leaves a client connected, or the device without its process, gets an error; the next test gets a new one.
    """
    use = request.node.stash[_USE] = _Use()
    device = ihsm_shared_device.lend()
    if "ihsm_trace" in request.fixturenames:  # so that nothing is done to the device before the recording begins
        use.recording = _recording(request, device)
    yield device
    try:
        if use.recording is not None:
            use.recording.close()
    finally:  # the next test gets a device that is as new, whatever becomes of this one's file
        _complain(request, ihsm_shared_device.take_back())


@pytest.fixture
def ihsm_faults(request: pytest.FixtureRequest, ihsm_device: EmbeddedDevice) -> Iterator[WatchedFaults]:
    """Faults of `ihsm_device`, as `ihsm.testing.DeviceFaults`: `ihsm_faults.add("drop-completion", queue=1)`.

    They are cleared when the test has ended, before any other fixture ends. One that was never hit is an error of the
    test, for what it was about has not happened; so is a command that must never be seen, and was.
    """
    from ihsm.pytest_plugin.faults import WatchedFaults

    with WatchedFaults(ihsm_device) as faults:
        use: _Use = request.node.stash[_USE]
        use.faults = faults
        yield faults
        use.faults = None
        _complain(request, faults.end())


@pytest.fixture
def ihsm_trace(request: pytest.FixtureRequest, ihsm_device: EmbeddedDevice) -> Recording:
    """The trace of `ihsm_device` from before its first client on; the file is kept if the test fails."""
    use: _Use = request.node.stash[_USE]
    if use.recording is None:  # asked for by name in the middle of a test
        use.recording = _recording(request, ihsm_device)
    return use.recording


@pytest.fixture
def ihsm_guest(request: pytest.FixtureRequest, ihsm_device: EmbeddedDevice) -> Iterator[GuestUnderTest]:
    """A QEMU guest that has `ihsm_device`: `ihsm_guest.run("lspci")`. It boots with the first run of a test.

    `@pytest.mark.ihsm_guest(iommu="on")` says what guest, with the names of `ihsm.guest.GuestConfig`.
    """
    from ihsm.pytest_plugin.guest import GuestUnderTest

    mark = request.node.get_closest_marker("ihsm_guest")
    with GuestUnderTest(ihsm_device.socket_path, **(mark.kwargs if mark else {})) as guest:
        yield guest


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_teardown(item: pytest.Item) -> None:
    """Clear faults before fixtures end, so that no driver is taken down under them."""
    use = item.stash.get(_USE, None)
    if use is not None and use.faults is not None:
        use.faults.end()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Tell where the trace of a failed test is; remove that of one that did not fail."""
    report = yield
    use = item.stash.get(_USE, None)
    if use is None:
        return report
    use.failed = use.failed or report.failed
    if use.recording is not None:
        if report.failed:
            report.sections.append((f"{SECTION} trace", use.recording.told()))
        if report.when == "teardown" and not use.failed:
            use.recording.discard()
    return report


def _recording(request: pytest.FixtureRequest, device: EmbeddedDevice) -> Recording:
    from ihsm.pytest_plugin.recording import Recording

    name = request.node.nodeid
    # The number keeps names apart that differ in characters which no file name should have.
    file = f"{re.sub(r'[^A-Za-z0-9_.-]+', '-', name)[-_LONGEST_NAME:]}-{zlib.crc32(name.encode()):08x}.pcapng"
    folder: Path | None = request.config.getoption("--ihsm-traces")
    if folder is None:
        folder = request.getfixturevalue("tmp_path_factory").getbasetemp() / "ihsm-traces"
    folder.mkdir(parents=True, exist_ok=True)
    return Recording(device.socket_path, folder.resolve() / file, name)


def _complain(request: pytest.FixtureRequest, complaints: Sequence[str]) -> None:
    """An error of a test that passed so far; of one that did not, more words."""
    if not complaints:
        return
    if request.node.stash[_USE].failed:
        request.node.add_report_section("teardown", SECTION, "\n".join(complaints))
    else:
        pytest.fail("\n".join(complaints), pytrace=False)
