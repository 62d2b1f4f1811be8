# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""`ihsm kmod run` as a command: how it starts, what it hands on, how it ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from ihsm.embedded import EmbeddedDevice
from support.kmod_run import KMOD_RUN, kmod_run, printed
from support.process import alive
from support.waiting import until

via = pytest.mark.parametrize("via", ["notify", "preload"])


def started(*words: str, **options: object) -> subprocess.Popen[str]:
    """A run whose program is to print a line when it is ready."""
    running: subprocess.Popen[str] = subprocess.Popen(
        [*KMOD_RUN, *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    return running


@via
@pytest.mark.parametrize(
    ("script", "status"), [("exit 0", 0), ("exit 7", 7), ("kill -TERM $$", 143), ("kill -9 $$", 137)]
)
def test_the_exit_status_is_the_programs(via: str, script: str, status: int) -> None:
    done = kmod_run("--via", via, "--", "sh", "-c", script)
    assert (done.returncode, done.stdout, done.stderr) == (status, "", "")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--", "/nonexistent/program"], "No such file or directory"),
        (["--", "/etc/passwd"], "Permission denied"),
        (["--socket", "/dev/null", "--", "true"], "/dev/null"),
    ],
)
def test_what_cannot_be_started_is_told_in_a_line(words: list[str], says: str) -> None:
    done = kmod_run(*words)
    assert done.returncode == 125
    assert done.stdout == ""
    assert done.stderr.startswith("Error: ")
    assert says in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    "words",
    [
        [], ["--quirk", "no_such_quirk=on", "true"], ["--quirk", "flush_deadlocks=perhaps", "true"],
        ["--param", "no_such_parameter=1", "true"], ["--param", "num_hsm_slots=many", "true"],
        ["--param", "num_hsm_slots", "true"], ["--functions", "0", "true"], ["--via", "magic", "true"],
    ],
)  # fmt: skip
def test_wrong_usage(words: list[str]) -> None:
    done = kmod_run(*words)
    assert done.returncode == 2
    assert "Error: " in done.stderr
    assert "Traceback" not in done.stderr


def test_functions_parameters_quirks_and_the_log(tmp_path: Path) -> None:
    log = tmp_path / "kernel.log"
    options = ["--functions", "2", "--param", "num_hsm_slots=8", "--quirk", "minor_leaks_at_level_2=off", "--log", log]
    script = "echo /dev/azihsm*; cat /sys/module/azihsm/parameters/num_hsm_slots"
    assert printed(*options, "--", "sh", "-c", script) == ["/dev/azihsm0 /dev/azihsm1", "8"]
    assert log.exists()


def test_a_device_that_is_served_is_used_and_stays() -> None:
    count = "cat /sys/bus/pci/devices/*/azihsm/admin/num_cpqs_created"
    with EmbeddedDevice() as device:
        for _ in range(2):
            assert printed("--socket", device.socket_path, "--", "sh", "-c", count) == ["1"]
        assert alive(device.pid)


@via
def test_arguments_environment_streams_and_folder_are_the_programs(via: str, tmp_path: Path) -> None:
    script = 'read line; echo "$line" "$1" "$2" "$VALUE"; pwd; echo complaint >&2'
    done = kmod_run(
        "--via", via, "--", "sh", "-c", script, "-", "--log", "a b",
        input="given\n", environment={"VALUE": "value"}, cwd=tmp_path,
    )  # fmt: skip
    assert done.stdout.splitlines() == ["given --log a b value", str(tmp_path)]
    assert done.stderr == "complaint\n"


@via
def test_signals_are_the_programs(via: str) -> None:
    script = 'trap "echo got; exit 5" TERM; echo ready; while :; do read line || :; done'
    with started("--via", via, "--", "sh", "-c", script) as running:
        assert running.stdout is not None
        assert running.stdout.readline() == "ready\n"
        running.send_signal(signal.SIGTERM)
        assert running.stdout.readline() == "got\n"
        running.communicate()
    assert running.returncode == 5


@via
def test_signals_are_handled_as_before(via: str) -> None:
    command = ("sh", "-c", "grep ^Sig[BI] /proc/self/status")
    without = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.splitlines()
    assert printed("--via", via, "--", *command) == without


@via
def test_the_device_is_there_until_the_last_process_ends(via: str) -> None:
    # A shell gives what it starts in the background no input.
    script = "exec 3<&0; (read line <&3; [ -c /dev/azihsm0 ] && echo still there) & echo started; exit 3"
    with started("--via", via, "--", "sh", "-c", script) as running:
        assert running.stdout is not None
        assert running.stdout.readline() == "started\n"
        out, _ = running.communicate("\n")
    assert out == "still there\n"
    assert running.returncode == 3


def test_a_signal_ends_what_the_program_has_left_running() -> None:
    with started("--", "sh", "-c", "sleep 600 & echo $!") as running:
        assert running.stdout is not None
        left = int(running.stdout.readline())
        until(
            lambda: Path(f"/proc/{left}/stat").read_text().rpartition(")")[2].split()[1] == str(running.pid), "orphan"
        )
        running.send_signal(signal.SIGTERM)
        running.communicate()
    assert running.returncode == 0
    assert not alive(left)


def test_the_program_does_not_outlive_a_machine_that_is_killed() -> None:
    with started("--", "sh", "-c", "echo $$; exec sleep 600") as running:
        assert running.stdout is not None
        program = int(running.stdout.readline())
        running.kill()
        running.communicate()
    until(lambda: not alive(program), "the program's end")


def test_a_run_within_a_run_takes_the_other_way() -> None:
    inner = [sys.executable, "-P", "-m", "ihsm", "kmod", "run"]
    assert printed("--via", "notify", "--", *inner, "--", "sh", "-c", "echo /dev/azihsm*") == ["/dev/azihsm0"]
    done = kmod_run("--via", "notify", "--", *inner, "--via", "notify", "--", "true")
    assert done.returncode == 125
    assert "busy" in done.stderr
    assert len(done.stderr.splitlines()) == 1


@via
def test_nothing_is_left(via: str, tmp_path: Path) -> None:
    assert printed("--via", via, "--", "sh", "-c", "ls /dev/azihsm0", environment={"TMPDIR": str(tmp_path)})
    assert os.listdir(tmp_path) == []


def test_a_log_that_cannot_be_written_ends_nothing() -> None:
    done = kmod_run("--log", "/dev/full", "--quirk", "null_queue=off", "--", "sh", "-c", "echo ran")
    assert (done.returncode, done.stdout) == (0, "ran\n")


def test_too_few_descriptors_are_told_in_a_line() -> None:
    limited = ("prlimit", "--nofile=16:16")
    done = kmod_run("--", "true", before=limited)
    assert done.returncode == 125
    assert done.stderr.startswith("Error: ")
    assert len(done.stderr.splitlines()) == 1
