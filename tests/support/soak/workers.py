# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Processes of a soak: one for the victim, others that attack, each told over a pipe what to do next."""

from __future__ import annotations

import inspect
import multiprocessing
import random
import signal
import time
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from types import ModuleType
from typing import Any, Final

from ihsm.trace.live import TraceReader
from support.soak import commands, messages
from support.soak.faulty import faults_added_and_cleared
from support.soak.victim import Victim

Attack = Callable[[str, random.Random], None]
CHECK: Final = "check"
GO_ON: Final = "go on"


def trace_read(path: str, rng: random.Random) -> None:
    """A reader of everything for a while."""
    with TraceReader(path) as reader:
        for _ in range(200):
            reader.read(1.0)


def traces_begun_and_left(path: str, rng: random.Random) -> None:
    """Readers that read nothing, and go."""
    readers = [TraceReader(path) for _ in range(rng.randrange(1, 4))]
    time.sleep(0.2)  # their rings fill
    for reader in readers:
        reader.close()


def _attacks_of(module: ModuleType) -> dict[str, Attack]:
    return {
        name: function
        for name, function in vars(module).items()
        if inspect.isfunction(function)
        and function.__module__ == module.__name__
        and list(inspect.signature(function).parameters) == ["path", "rng"]
    }


ATTACKS: Final[dict[str, Attack]] = {
    **_attacks_of(messages),
    **_attacks_of(commands),
    faults_added_and_cleared.__name__: faults_added_and_cleared,
}
TRACES: Final[dict[str, Attack]] = {each.__name__: each for each in (trace_read, traces_begun_and_left)}
"""Of the victim's function, while it works."""


def attack(connection: Connection) -> None:
    """Do what is asked for, an attack by name, path and seed, and answer with what went wrong, or nothing."""
    while True:
        try:
            name, path, seed = connection.recv()
        except EOFError:
            return
        try:
            (ATTACKS | TRACES)[name](path, random.Random(seed))
            connection.send("")
        except Exception as error:
            where = traceback.extract_tb(error.__traceback__)[-1]
            connection.send(f"{name}, seed {seed}: {type(error).__name__} in {where.name}: {error}")


def suffer(connection: Connection, path: str) -> None:
    """Work on the victim's function; asked to, stand still and tell of it until told to go on."""
    try:
        with Victim(path) as victim:
            connection.send(None)
            while True:
                if not connection.poll():
                    victim.work()
                    continue
                connection.recv()
                connection.send(victim.settle())
                connection.recv()
    except EOFError:
        return
    except Exception as error:
        connection.send(f"the victim: {type(error).__name__}: {error}")


class Worker:
    """A process and the pipe to it."""

    def __init__(self, target: Callable[..., None], *arguments: Any) -> None:
        """Start it; a process of its own, lest it inherits what others have open."""
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([__name__])
        self.pipe, theirs = context.Pipe()
        self._process = context.Process(target=target, args=(theirs, *arguments))
        # An interrupt of the terminal is for who started the soak, also before the process can ignore it.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            self._process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        theirs.close()

    def close(self) -> None:
        """End it, whatever it does."""
        self.pipe.close()
        self._process.kill()
        self._process.join()
        self._process.close()
