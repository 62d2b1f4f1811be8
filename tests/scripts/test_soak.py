# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""`scripts/soak`: it finds what it looks for, ends with a report, and tells by its exit status."""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
from pathlib import Path

import pytest

from ihsm.embedded import EmbeddedDevice
from ihsm_abi.fault_actions import FaultAction
from ihsm_abi.faults import When
from support import waiting
from support.process import interruptible
from support.soak import faulty, growth
from support.soak.victim import Victim
from support.soak.workers import ATTACKS

ROOT = Path(__file__).parents[2]
QUIET_SEED = 10
"""The first attacks of this one take no time."""


def test_a_slope_is_that_of_most_samples() -> None:
    assert growth.slope([3, 5, 7, 9]) == 2
    assert growth.slope([10, 10, 900, 10, 10, 10, -50, 10]) == 0
    assert growth.slope([1]) == 0


def test_growth_begins_after_the_warm_up() -> None:
    climb = [float(1000 * number) for number in range(growth.LEAST_WARM_UP)]
    flat = [climb[-1]] * 100
    assert growth.growth(climb + flat) == 0
    assert growth.growth(climb + flat[: growth.FEWEST - 1]) is None
    assert growth.growth(flat + [flat[0] + number for number in range(40)]) == pytest.approx(39, rel=0.5)


def test_many_samples_are_judged_as_few() -> None:
    noise = random.Random(1)
    values = [1000 + number + noise.randrange(100) for number in range(20_000)]
    assert len(growth.thinned(values)) <= growth.MOST_PAIRED
    assert growth.growth([float(value) for value in values]) == pytest.approx(15_000, rel=0.02)


@pytest.mark.parametrize("name", growth.ALLOWED)
def test_each_figure_that_grows_is_named(name: str) -> None:
    samples = {each: [100.0] * 200 for each in growth.ALLOWED}
    assert growth.judged(samples) == []
    samples[name] = [100.0 + 100 * number for number in range(200)]
    (line,) = growth.judged(samples)
    assert line.startswith(f"{name} grow by ")


def test_a_command_that_is_counted_not_once_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    with EmbeddedDevice() as device, Victim(device.socket_path) as victim:
        victim.work()
        account = victim.settle()
        assert (account.errors, account.hsm_commands, account.aes_commands) == ([], 9, 2)
        victim._sent["hsm_commands"] -= 1
        victim.work()
        (doubled,) = victim.settle().errors
        assert doubled.startswith("doubled: ")
        victim._sent["aes_commands"] += 1
        monkeypatch.setattr(waiting, "HANG_S", 0)
        (lost,) = victim.settle().errors
        assert lost.startswith("lost: ")


def test_a_fault_that_does_more_than_it_says_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    with EmbeddedDevice() as device:
        path = str(device.socket_path)
        faulty.faults_added_and_cleared(path, random.Random(1))
        twice = When(nth=1, count=2)
        monkeypatch.setattr(faulty, "PARAMETERS", {FaultAction.DUPLICATE_COMPLETION: {}})
        monkeypatch.setattr(faulty, "When", lambda **given: twice)
        with pytest.raises(faulty.MiscountError, match="duplicate-completion"):
            faulty.faults_added_and_cleared(path, random.Random(1))


def begun(soak: subprocess.Popen[str]) -> int:
    """The device's process id, when the first round is over."""
    assert soak.stdout is not None
    line = soak.stdout.readline()
    match = re.fullmatch(rf"soak: device (\d+), seed {QUIET_SEED}: the first round is over\n", line)
    assert match, line
    return int(match[1])


def soaking() -> subprocess.Popen[str]:
    command = [ROOT / "scripts/soak", "10", "--seed", str(QUIET_SEED)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, preexec_fn=interruptible)


def test_an_interrupt_ends_it_with_the_report_so_far() -> None:
    with soaking() as soak:
        begun(soak)
        soak.send_signal(signal.SIGINT)
        assert soak.stdout is not None
        report = soak.stdout.read()
        assert soak.wait(waiting.HANG_S) == 0, report
    assert report.startswith("soak: ")
    assert "\nfigures: " in report
    assert report.endswith("\nnothing lost, nothing doubled, nothing grows\n")


@pytest.mark.long
def test_a_device_that_dies_ends_it() -> None:
    with soaking() as soak:
        os.kill(begun(soak), signal.SIGKILL)
        assert soak.stdout is not None
        report = soak.stdout.read()
        assert soak.wait(waiting.HANG_S) == 1
    assert "\nWRONG: " in report


@pytest.mark.parametrize("hours", ["-1", "nan", "an hour"])
def test_a_time_that_is_none_is_refused(hours: str) -> None:
    done = subprocess.run([ROOT / "scripts/soak", "--", hours], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "HOURS" in done.stderr


@pytest.mark.long
@pytest.mark.parametrize("doorbell", ["trap", "page"])
def test_a_few_minutes(doorbell: str) -> None:
    command = [ROOT / "scripts/soak", "0.05", "--doorbell", doorbell]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    for name in ATTACKS:
        assert f" {name.replace('_', ' ')}\n" in done.stdout
