# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""A device that serves and gets no more memory: what needs some gets a status, and is done when there is some."""

from __future__ import annotations

import json
import logging
import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import pytest

from ihsm.bus import VfioUserFunction
from ihsm.errors import RequestRefusedError
from ihsm_abi.admin import AdminOpcode, AdminStatus
from ihsm_abi.hsm_queue import HsmStatus
from ihsm_device import scheduler
from support.devices import DeviceUnderTest
from support.hosts import client
from support.modules import FAIL_PREFIX
from support.polled import PolledDriver
from support.process import ServeProcess, serve
from support.waiting import HANG_S

PROGRAM: Final = Path(__file__).parents[2] / "support" / "full_key_memory.py"


def test_full_key_memory_is_a_status_and_never_the_end_of_the_device() -> None:
    """A key that cannot be made or tested is no key that has failed its test: the error state is for that alone."""
    program = [sys.executable, os.fspath(PROGRAM)]
    done = subprocess.run(program, capture_output=True, text=True, timeout=HANG_S, check=False)
    assert done.returncode == 0, done.stderr
    without, with_some, failed = json.loads(done.stdout)
    for name in ("rsa test", "ec test"):  # little is needed, which there may be in what others have given back
        assert without.pop(name) in ("ok", "KeyStoreMemoryError")
    assert without == {
        "command": "InternalError",
        "rsa key": "KeyStoreMemoryError",
        "keys of the stock": ["ok", "KeyStoreMemoryError", "KeyStoreMemoryError"],
        "vault as before": True,
        "error": None,
    }
    assert with_some == {"command": "ok", "sign": "ok", "key of the stock": "ok", "error": None}
    assert failed == {"pct-rsa": "PairwiseTestError", "pct-ec": "PairwiseTestError"}, (
        "memory was refused before, not now"
    )


@contextmanager
def no_addresses(server: ServeProcess) -> Iterator[None]:
    """The server can map nothing more, which is where memory comes from."""
    _, hard = resource.prlimit(server.pid, resource.RLIMIT_AS)
    resource.prlimit(server.pid, resource.RLIMIT_AS, (1, hard))
    try:
        yield
    finally:
        resource.prlimit(server.pid, resource.RLIMIT_AS, (hard, hard))


def test_a_client_that_is_there_is_served_and_a_new_one_is_told(socket_folder: Path) -> None:
    options = ("--socket", str(socket_folder / "a.sock"), "--count", "2")
    with serve(*options) as server:
        with client(server.paths[0]) as partition:
            chain = partition.certificate_chain().der
            with no_addresses(server), VfioUserFunction(server.paths[1], timeout_s=HANG_S) as function:
                with pytest.raises(RequestRefusedError, match="Cannot allocate memory"):
                    function.allocate_arena(1 << 20)
                assert partition.certificate_chain().der == chain
            with client(server.paths[1]) as other:
                assert other.certificate_chain().der != chain
            assert partition.certificate_chain().der == chain
        assert server.stop() == 0
    assert not any("Traceback" in line for line in server.errors)


def fail_once(monkeypatch: pytest.MonkeyPatch, owner: object, name: str) -> None:
    """The next call of the owner's function has no memory; those after it are as ever."""
    work = getattr(owner, name)
    failures = iter([MemoryError()])

    def attempt(*arguments: Any) -> Any:
        for error in failures:
            raise error
        return work(*arguments)

    monkeypatch.setattr(owner, name, attempt)


@pytest.mark.parametrize("queue", ["admin", "hsm"])
def test_a_command_that_cannot_be_handed_on_is_answered(
    ready: PolledDriver, monkeypatch: pytest.MonkeyPatch, queue: str
) -> None:
    """The engine has given it out: without an answer the driver would wait for ever."""
    fail_once(monkeypatch, scheduler, "_command")
    assert outcome(ready, queue) == {"admin": AdminStatus.INTERNAL_ERROR, "hsm": HsmStatus.INTERNAL_ERROR}[queue]
    for _ in range(20):  # the thread that had it, too
        assert outcome(ready, queue) == 0


def outcome(driver: PolledDriver, queue: str) -> int:
    """Status of a command that has nothing wrong with it."""
    if queue == "hsm":
        return driver.run_hsm(b"any message").sc
    return driver.run_admin(AdminOpcode.GET_RES_CNT).status


def test_a_command_that_fails_is_answered_though_there_is_no_memory_to_log_it(
    ready: PolledDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise MemoryError

    monkeypatch.setattr(logging.Logger, "exception", fail)
    for _ in range(20):  # more than there are threads
        assert ready.run_hsm(FAIL_PREFIX).sc == HsmStatus.INTERNAL_ERROR
    assert outcome(ready, "hsm") == 0


def test_a_command_whose_answer_cannot_be_made_gets_a_status(
    ready: PolledDriver, device: DeviceUnderTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    fail_once(monkeypatch, device.device, "_post")
    assert outcome(ready, "hsm") == HsmStatus.INTERNAL_ERROR
    assert outcome(ready, "hsm") == 0
