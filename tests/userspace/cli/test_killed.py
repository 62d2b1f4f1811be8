# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Keys of the shell are there again, whatever was killed: commands, their devices, and a device that serves them."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from support.commands import run_process
from support.process import ServeProcess, serve
from support.waiting import HANG_S, until

TIMES = [pytest.param(2, id="some"), pytest.param(50, id="fifty", marks=pytest.mark.long)]


@pytest.fixture
def message(tmp_path: Path) -> Path:
    path = tmp_path / "F"
    path.write_bytes(b"to sign\n")
    return path


def command(*arguments: str | Path) -> bytes:
    """What a command prints, a process of its own that succeeds."""
    done = run_process(*[os.fspath(each) for each in arguments])
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout


def processes_of(folder: Path) -> list[int]:
    """All processes but this one that have the folder in their environment, as what was started with it has."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal() and int(entry.name) != os.getpid():
            try:
                if os.fsencode(folder) in (entry / "environ").read_bytes():
                    found.append(int(entry.name))
            except OSError:  # gone, or not ours
                continue
    return found


def kill_everything(folder: Path) -> None:
    """Until nothing is left."""

    def gone() -> bool:
        left = processes_of(folder)
        for pid in left:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        return not left

    until(gone, "all processes to be gone")


def openssl_verifies(folder: Path, signature: Path, message: Path) -> None:
    pem = folder / "public.pem"
    pem.write_bytes(command("key", "show", "web"))
    verify = ["openssl", "dgst", "-sha256", "-verify", pem, "-signature", signature, message]
    assert subprocess.run(verify, capture_output=True, check=True).stdout == b"Verified OK\n"


def sign_again_after(kill: Callable[[], None], folder: Path, message: Path, times: int) -> None:
    """A signature of before still verifies after each kill, and so does a new one."""
    signature = folder / "S"
    command("key", "generate", "web")
    command("sign", "web", message, "-o", signature)
    for number in range(times):
        kill()
        openssl_verifies(folder, signature, message)
        again = folder / f"S{number}"
        command("sign", "web", message, "-o", again)
        openssl_verifies(folder, again, message)


@pytest.mark.parametrize("times", TIMES)
def test_a_private_device_that_is_killed_while_it_signs(tmp_path: Path, message: Path, times: int) -> None:
    command("init")

    def kill() -> None:
        arguments = [sys.executable, "-P", "-m", "ihsm", "sign", "web", os.fspath(message), "-o", "S-half"]
        signing = subprocess.Popen(arguments, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        # The command, the keeper of its device, and the device.
        until(lambda: len(processes_of(tmp_path)) >= 3 or signing.poll() is not None, "the device to be there")
        kill_everything(tmp_path)
        signing.wait(HANG_S)

    sign_again_after(kill, tmp_path, message, times)
    assert {"F", "S", "public.pem"} <= {path.name for path in tmp_path.iterdir()}
    assert not processes_of(tmp_path)


@pytest.mark.parametrize("times", TIMES)
def test_a_served_device_that_is_killed(tmp_path: Path, message: Path, times: int) -> None:
    socket = tmp_path / "s"
    with contextlib.ExitStack() as servers:

        def start() -> ServeProcess:
            return servers.enter_context(serve("--socket", f"{socket}", "--state", f"{tmp_path / 'state'}"))

        server = start()
        command("init", "--device", f"vfio-user:{socket}")

        def kill() -> None:
            nonlocal server
            server.stop(signal.SIGKILL)
            server = start()

        sign_again_after(kill, tmp_path, message, times)
