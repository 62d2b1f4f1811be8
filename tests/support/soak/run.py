# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""A soak from beginning to end: rounds of attacks beside the load, an account and a sample after each."""

from __future__ import annotations

import contextlib
import random
import time
from collections import Counter
from pathlib import Path
from typing import Any, Final

from ihsm.control import ControlClient
from ihsm.embedded import LOG, EmbeddedDevice
from ihsm.errors import IhsmError
from support.raw_client import RawClient
from support.soak import growth
from support.soak.victim import Account
from support.soak.workers import ATTACKS, CHECK, GO_ON, TRACES, Worker, attack, suffer
from support.waiting import HANG_S

ATTACKERS: Final = 2
PATIENCE_S: Final = 5 * HANG_S
"""For an attack, which waits in several places, each no longer than `HANG_S`."""
MOST_ERRORS: Final = 20


class Broken(Exception):
    """The soak cannot go on; the message says why."""


class Soak:
    """A device of one victim's function and some that are attacked."""

    def __init__(self, seed: int, doorbell: str) -> None:
        """Start device, load and attackers."""
        self.seed, self.doorbell = seed, doorbell
        self._random = random.Random(seed)
        self.samples: dict[str, list[float]] = {name: [] for name in growth.ALLOWED}
        self.attacks: Counter[str] = Counter()
        self.total = Account()
        self.errors: list[str] = []
        self._begin = time.monotonic()
        self._waiting: list[str] = []
        self._closing = contextlib.ExitStack()
        with contextlib.ExitStack() as stack:
            arguments = ("--resources", "2", "--doorbell", doorbell)
            self._device = stack.enter_context(EmbeddedDevice(arguments, count=1 + ATTACKERS))
            self._paths = [str(path) for path in self._device.socket_paths]
            self._log = Path(self._paths[0]).with_name(LOG)
            self._controls = [stack.enter_context(ControlClient(path, HANG_S)) for path in self._paths]
            self._victim = stack.enter_context(contextlib.closing(Worker(suffer, self._paths[0])))
            self._attackers = [stack.enter_context(contextlib.closing(Worker(attack))) for _ in range(ATTACKERS)]
            self._tracer = stack.enter_context(contextlib.closing(Worker(attack)))
            if (begun := self._answer(self._victim, "the victim")) is not None:
                raise Broken(str(begun))
            self._closing = stack.pop_all()

    @property
    def elapsed_s(self) -> float:
        """Since the beginning."""
        return time.monotonic() - self._begin

    @property
    def log_bytes(self) -> int:
        """Size of the device's log."""
        return self._log.stat().st_size

    def run(self, seconds: float) -> None:
        """Rounds for so long, at least one, until something is broken or a signal comes."""
        try:
            self.round()
            print(f"soak: device {self._device.pid}, seed {self.seed}: the first round is over", flush=True)
            while self.elapsed_s < seconds and len(self.errors) < MOST_ERRORS:
                self.round()
        except Broken as broken:
            self.errors.append(str(broken))

    def round(self) -> None:
        """One attack on each attacked function, a look at the victim's trace now and then, an account, a sample."""
        busy = [
            self._ask(worker, self._next_attack(), path)
            for worker, path in zip(self._attackers, self._paths[1:], strict=True)
        ]
        if self._random.random() < 0.5:
            busy.append(self._ask(self._tracer, self._random.choice(list(TRACES)), self._paths[0]))
        for worker, name in busy:
            if wrong := self._answer(worker, name):
                self.errors.append(str(wrong))
        self._settle()

    def _next_attack(self) -> str:
        if not self._waiting:
            self._waiting = self._random.sample(list(ATTACKS), len(ATTACKS))
        return self._waiting.pop()

    def _ask(self, worker: Worker, name: str, path: str) -> tuple[Worker, str]:
        self.attacks[name] += 1
        worker.pipe.send((name, path, self._random.getrandbits(32)))
        return worker, name

    def _answer(self, worker: Worker, what: str) -> Any:
        try:
            if not worker.pipe.poll(PATIENCE_S):
                raise Broken(f"{what}: no answer")
            return worker.pipe.recv()
        except (EOFError, ConnectionError):
            raise Broken(f"{what}: ended without an answer") from None

    def _settle(self) -> None:
        """Have the victim stand still and account for its commands; take a sample meanwhile."""
        self._victim.pipe.send(CHECK)
        account = self._answer(self._victim, "the victim")
        if not isinstance(account, Account):
            raise Broken(str(account))
        self.errors += account.errors
        self.total.hsm_commands += account.hsm_commands
        self.total.aes_commands += account.aes_commands
        self.total.worst_s = max(self.total.worst_s, account.worst_s)
        try:
            for name, value in self._sample().items():
                self.samples[name].append(value)
        except (IhsmError, OSError) as error:
            raise Broken(f"the device: {error}") from None
        self._victim.pipe.send(GO_ON)

    def _sample(self) -> dict[str, float]:
        """Figures of the process while each attacked function has a client that has done nothing.

        When such a client is answered, everything of the one before it is gone.
        """
        with contextlib.ExitStack() as stack:
            for path in self._paths[1:]:
                stack.enter_context(RawClient(path)).in_step()
            statuses = [control.status() for control in self._controls]
            system = Path(f"/proc/{self._device.pid}/status").read_text()
        for status in statuses[1:]:
            if status["counters"]["dma_regions"] or status["module"]["sessions"]:
                self.errors.append(f"{status['socket']}: regions or sessions of a client that has gone are still there")
        fields = dict(line.split(":\t", 1) for line in system.splitlines() if ":\t" in line)
        return {
            "resident KiB": float(fields["VmRSS"].split()[0]),
            "arena bytes": statuses[0]["module"]["key_memory"]["reserved_bytes"],
            "vault bytes": sum(status["module"]["vault"]["bytes"] for status in statuses),
            "threads": float(fields["Threads"]),
            "open files": statuses[0]["open_files"],
        }

    def verdict(self) -> list[str]:
        """A line for everything that is wrong."""
        lines = [*self.errors, *growth.judged(self.samples)]
        allowed = growth.LOG_BYTES + growth.LOG_BYTES_A_SECOND * self.elapsed_s
        if self.log_bytes > allowed:
            lines.append(f"the log has {self.log_bytes} bytes, {allowed:.0f} allowed")
        with self._log.open(errors="replace") as log:
            lines += [f"the log has: {line.strip()}" for line in log if line.startswith("Traceback")][:1]
        return lines

    def report(self) -> str:
        """One page."""
        minutes = self.elapsed_s / 60
        text = [
            f"soak: {minutes:.1f} minutes, doorbells by {self.doorbell}, seed {self.seed}",
            f"load: {self.total.hsm_commands} HSM and {self.total.aes_commands} AES commands of the victim, each "
            f"verified and counted by the device; longest signature {self.total.worst_s * 1e3:.0f} ms",
            f"attacks and traces: {self.attacks.total()} of {len(self.attacks)} kinds out of {len(ATTACKS | TRACES)}",
            *(f"  {count:6} {name.replace('_', ' ')}" for name, count in sorted(self.attacks.items())),
            f"figures: {len(self.samples['threads'])} samples, of which {growth.WARM_UP:.0%}, and at least "
            f"{growth.LEAST_WARM_UP}, are warm-up",
        ]
        for name, values in self.samples.items():
            if values:
                grown = growth.growth(values)
                told = "too few to judge" if grown is None else f"growth {grown:+.1f}"
                text.append(f"  {name:14} first {values[0]:.0f}, last {values[-1]:.0f}, most {max(values):.0f}; {told}")
        text.append(f"log: {self.log_bytes} bytes, {self.log_bytes / self.elapsed_s:.0f} a second")
        wrong = self.verdict()
        text += [f"WRONG: {line}" for line in wrong] or ["nothing lost, nothing doubled, nothing grows"]
        return "\n".join(text)

    def close(self) -> None:
        """End load, attackers and device."""
        self._closing.close()
