# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""A guest with two processors that are both against the device, and another function of the same server that works.

One process of the attacker rewrites rings, lists, requests and data as fast as it can; the other rings, maps, unmaps,
cuts files, deletes queues and resets. The victim, a process of its own, signs and encrypts, and checks each answer.
Run as a script: `scripts/second-cpu LIVES [--doorbell page] [--sanitizer thread]`; it prints the victim's latencies,
which mean something on a machine that has nothing else to do.
"""

from __future__ import annotations

import argparse
import json
import mmap
import multiprocessing
import os
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any, Final

import numpy as np
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed, encode_dss_signature
from numpy.typing import NDArray

from ihsm.bench.device import provision
from ihsm.bus import VfioUserFunction
from ihsm.ddi import KeyRequest, Session
from ihsm.driver import Controller, DriverOptions
from ihsm.errors import IhsmError
from ihsm.fast_path import FastPathSession
from ihsm_abi.admin import AdminOpcode, CreateCqDw11, CreateSqDw11, QueueDw10
from ihsm_abi.aes_queue import CMD_TYPE_FAST_PATH, FRAME_TYPE_AES, GCM_SQE, SGL_DESCRIPTOR, AesAttr, Cipher, SglType
from ihsm_abi.ddi import AesKeySize, EccCurve, HashAlgorithm, KeyUsage
from ihsm_abi.doorbells import cq_head_offset, sq_tail_offset
from ihsm_abi.hsm_queue import HSM_SQE, HsmCommandWord
from ihsm_abi.pci import PAGE_BYTES, Bar
from ihsm_abi.registers import NSSR_MAGIC, Aqa, Register
from ihsm_abi.resources import ADMIN_QUEUE_ID, FIRST_AES_QUEUE_ID
from support.native_builds import ROOT, SANITIZERS, WITH_NATIVE, sanitized_build
from support.polled import admin_sqe
from support.process import SERVE, ServeProcess, serve
from support.waiting import HANG_S

STEPS: Final = 4000
"""What the first processor does in one life, unless that ends before."""
ENTRIES: Final = 16
LISTS: Final = 0x7100_0000_0000
LISTS_BYTES: Final = 16 * PAGE_BYTES
SPARE: Final = 0x7200_0000_0000
SPARE_BYTES: Final = 1 << 20
SPARSE: Final = 0x7300_0000_0000
SPARSE_BYTES: Final = 8 << 20
POOL: Final = 256
"""Entries and lists that are made before: copying one is quick."""
DIGEST: Final = bytes(range(32))
TEXT: Final = bytes(range(256)) * 4
IV: Final = bytes(12)
DELETING: Final = (AdminOpcode.DELETE_SQ, AdminOpcode.DELETE_CQ)
MAKING: Final = (AdminOpcode.CREATE_CQ, AdminOpcode.CREATE_SQ)


class HostileFunction(VfioUserFunction):
    """Gives memory that can be cut, and that another process can write to."""

    def __init__(self, path: Path) -> None:
        self.shared: list[tuple[int, mmap.mmap, int]] = []
        """Address, memory and descriptor of each arena."""
        super().__init__(path, timeout_s=HANG_S)

    def _map_memory(self, size_bytes: int) -> tuple[mmap.mmap, int, Callable[[], None]]:
        with self._lock:
            iova = self._next_iova
            self._next_iova += size_bytes
        fd = memory_file(size_bytes)
        self.map_dma(fd, 0, iova, size_bytes)
        self.shared.append((iova, mmap.mmap(fd, size_bytes), fd))
        return mmap.mmap(fd, size_bytes), iova, lambda: None


def memory_file(size_bytes: int) -> int:
    """A file of zeros that can be cut."""
    fd = os.memfd_create("second-cpu", os.MFD_CLOEXEC)
    os.ftruncate(fd, size_bytes)
    return fd


@dataclass
class Target:
    """A ring of submissions as both processors of the attacker know it."""

    queue_id: int
    entry_bytes: int
    sq: NDArray[np.uint8]
    sq_iova: int
    cq_iova: int


class Guest:
    """A function that works, before both processors turn against the device."""

    def __init__(self, path: Path, seed: int) -> None:
        self.random = random.Random(seed)
        self.function = HostileFunction(path)
        options = DriverOptions(
            timeout_s=HANG_S,
            hsm_entries=ENTRIES,
            aes_entries=ENTRIES,
            buffer_bytes=1 << 18,
            spin_us=0,
            interrupts=False,
        )
        self.controller = Controller(self.function, options)
        self.session = provision(self.controller)
        self.keys = Keys(self.session)
        self.keys.sign()
        self.lists_fd, self.spare_fd, self.sparse_fd = map(memory_file, (LISTS_BYTES, SPARE_BYTES, SPARSE_BYTES))
        self.lists = np.frombuffer(mmap.mmap(self.lists_fd, LISTS_BYTES), np.uint8)
        self.function.map_dma(self.lists_fd, 0, LISTS, LISTS_BYTES)
        self.function.map_dma(self.sparse_fd, 0, SPARSE, SPARSE_BYTES)
        self.memories = [(iova, np.frombuffer(memory, np.uint8)) for iova, memory, _ in self.function.shared]
        controller = self.controller
        self.admin = self.target(ADMIN_QUEUE_ID, controller.admin.sq_iova, controller.admin.cq_iova, 64, 16)
        self.targets = [
            self.target(q.queue_id, q.sq_iova, q.cq_iova, 64 if q.queue_id < FIRST_AES_QUEUE_ID else 128, ENTRIES)
            for q in (*controller.hsm_queues, *controller.aes_queues)
        ]

    def target(self, queue_id: int, sq_iova: int, cq_iova: int, entry_bytes: int, entries: int) -> Target:
        """The ring at an address in one of the arenas."""
        for iova, memory in self.memories:
            if iova <= sq_iova < iova + len(memory):
                start = sq_iova - iova
                sq = memory[start : start + entries * entry_bytes].reshape(entries, entry_bytes)
                return Target(queue_id, entry_bytes, sq, sq_iova, cq_iova)
        raise AssertionError("a ring outside all memory")

    def address(self) -> int:
        """Somewhere in memory, before, behind or across its ends, or nowhere."""
        iova, memory = self.random.choice(self.memories)
        return self.random.choice(
            [
                iova, iova + 8, iova + self.random.randrange(len(memory)), iova + len(memory) - 3, LISTS,
                LISTS + PAGE_BYTES * self.random.randrange(16), LISTS + self.random.randrange(LISTS_BYTES),
                SPARSE + self.random.randrange(SPARSE_BYTES), SPARE, 0, 0xFEE0_0000, (1 << 64) - 8,
            ]
        )  # fmt: skip

    def aes_entry(self) -> NDArray[np.uint8]:
        """A command on anything; some are right."""
        choose = self.random.choice
        entry = np.zeros(1, GCM_SQE)
        entry["attr"] = AesAttr.of(
            decrypt=choose([0, 1]), psdt=choose([0, 1, 1]), cmd_type=CMD_TYPE_FAST_PATH,
            cipher=choose([Cipher.GCM, Cipher.GCM, Cipher.XTS]), dul=choose([0, 0, 1, 2, 3]),
        )  # fmt: skip
        entry["cmd_id"], entry["session_id"] = self.random.getrandbits(16), self.session.session_id
        entry["short_app_id"] = self.session.short_app_id
        entry["frame_type"], entry["key_id"] = FRAME_TYPE_AES, self.keys.bulk
        length = choose([16, 64, 1024, 1040, 4096, 8192, 65536, 1 << 20, 0, (1 << 32) - 16])
        entry["src_len"], entry["dst_len"] = length, choose([length, length, length, 16])
        for side in ("src", "dst"):
            address = self.address()
            entry[side]["addr"] = choose([address, address & ~(PAGE_BYTES - 1)])
            entry[side]["len"] = choose([length, length, PAGE_BYTES, 16])
            entry[side]["type"] = choose([SglType.DATA_BLOCK, SglType.SEGMENT, SglType.LAST_SEGMENT]) << 4
        entry["aligned_aad_len"] = choose([0, 0, 32, 1024, 2048])
        entry["tail_src_len"] = entry["tail_dst_len"] = choose([0, 0, 5, 15, 16])
        entry["tail_src_addr"], entry["tail_dst_addr"] = self.address(), self.address()
        return entry.view(np.uint8)

    def hsm_entry(self) -> NDArray[np.uint8]:
        """A request of whatever lies there."""
        entry = np.zeros(1, HSM_SQE)
        choose = self.random.choice
        entry["command"], entry["cid"] = HsmCommandWord.of(opc=choose([0, 0, 0, 1])), self.random.getrandbits(4)
        entry["src_len"] = choose([1, 64, 300, 3584, 4096])
        entry["dst_len"] = choose([1, 64, 4096, 8192])
        for field in ("src_prp1", "src_prp2", "dst_prp1", "dst_prp2"):
            entry[field] = self.address() & ~(PAGE_BYTES - 1)
        entry["control"], entry["session_id"] = self.random.getrandbits(8), self.session.session_id
        return entry.view(np.uint8)

    def list(self) -> NDArray[np.uint8]:
        """Descriptors, or page pointers, or both to who reads them so."""
        count = self.random.randrange(1, 64)
        made = np.zeros(count, SGL_DESCRIPTOR)
        made["addr"] = [self.address() for _ in range(count)]
        made["len"] = self.random.choice([16, PAGE_BYTES, 64, 0])
        made["type"][-1] = self.random.choice([SglType.DATA_BLOCK, SglType.SEGMENT, SglType.LAST_SEGMENT]) << 4
        return made.view(np.uint8)


class Keys:
    """A signing key and an AES key, and what they give."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.signing = session.generate_ecc_key(EccCurve.P256, KeyRequest(KeyUsage.SignVerify, session=True))
        request = KeyRequest(KeyUsage.EncryptDecrypt, session=True)
        bulk = session.generate_aes_key(AesKeySize.AesGcmBulk256Unapproved, request).bulk_key_id
        assert bulk is not None
        self.bulk: int = bulk

    def sign(self) -> bytes:
        """A signature of DIGEST."""
        return bytes(self.session.ecc_sign(self.signing, DIGEST, HashAlgorithm.Sha256))


def scribble(guest: Guest, stop: Event, seed: int) -> None:
    """The second processor."""
    rng = guest.random = random.Random(seed)
    aes = [guest.aes_entry() for _ in range(POOL)]
    hsm = [guest.hsm_entry() for _ in range(POOL)]
    lists = [guest.list() for _ in range(POOL)]
    before = [memory.copy() for _, memory in guest.memories]
    while not stop.is_set():
        for _ in range(200):
            what = rng.random()
            if what < 0.5:
                target = rng.choice(guest.targets)
                entries = hsm if target.entry_bytes == HSM_SQE.itemsize else aes
                target.sq[rng.randrange(len(target.sq))] = rng.choice(entries)
            elif what < 0.75:
                made, at = rng.choice(lists), PAGE_BYTES * rng.randrange(16)
                guest.lists[at : at + len(made)] = made
            elif what < 0.8:  # what was there when all was well: requests among it
                number = rng.randrange(len(before))
                memory = guest.memories[number][1]
                at = rng.randrange(len(memory) // PAGE_BYTES) * PAGE_BYTES
                memory[at : at + PAGE_BYTES] = before[number][at : at + PAGE_BYTES]
            else:
                memory = rng.choice([guest.lists, *(memory for _, memory in guest.memories)])
                at = rng.randrange(len(memory) - 16)
                memory[at : at + rng.randrange(1, 16)] ^= np.uint8(rng.getrandbits(8))


class FirstProcessor:
    """Does what a driver may do, at any time."""

    def __init__(self, guest: Guest) -> None:
        self.guest, self.random = guest, guest.random
        self.function = guest.function
        self.cc = guest.controller.registers.cc
        self.tails: Counter[int] = Counter()
        self.done: Counter[str] = Counter()

    def bell(self, offset: int, value: int) -> None:
        """By message, or in the page: as the function has it."""
        self.guest.controller._bells.ring(offset, value & 0xFFFF_FFFF)

    def ring(self) -> None:
        target = self.random.choice(self.guest.targets)
        queue = target.queue_id
        self.tails[queue] = (self.tails[queue] + 1) % ENTRIES
        wild = self.random.random() < 0.1
        self.bell(sq_tail_offset(queue, 0), self.random.getrandbits(32) if wild else self.tails[queue])
        if self.random.random() < 0.5:
            self.bell(cq_head_offset(queue, 0), self.random.randrange(ENTRIES))

    def map(self) -> None:
        self.function.map_dma(self.guest.spare_fd, 0, SPARE, SPARE_BYTES)
        self.function.unmap_dma(SPARE, SPARE_BYTES)

    def map_lists(self) -> None:
        self.function.unmap_dma(LISTS, LISTS_BYTES)
        self.function.map_dma(self.guest.lists_fd, 0, LISTS, LISTS_BYTES)

    def cut(self) -> None:
        """Data become holes, or the file ends, for a moment."""
        os.ftruncate(self.guest.sparse_fd, self.random.choice([0, PAGE_BYTES, SPARSE_BYTES // 2]))
        os.ftruncate(self.guest.sparse_fd, SPARSE_BYTES)

    def cut_rings(self) -> None:
        """Which both processors write to themselves: that may be the end of this life."""
        _, memory, fd = self.random.choice(self.function.shared)
        os.ftruncate(fd, self.random.choice([0, len(memory) // 2]))
        os.ftruncate(fd, len(memory))

    def put_admin(self, opcode: AdminOpcode, target: Target) -> None:
        """One command in the ring, of which nobody waits for the end."""
        makes_cq = opcode == AdminOpcode.CREATE_CQ
        entry = admin_sqe(
            opcode,
            self.random.getrandbits(16),
            dw10=QueueDw10.of(id=target.queue_id, size=ENTRIES - 1),
            dw11=CreateCqDw11.of(pc=1) if makes_cq else CreateSqDw11.of(pc=1, cqid=target.queue_id),
            prp1=target.cq_iova if makes_cq else target.sq_iova,
        )
        admin = self.guest.admin
        admin.sq[self.tails[ADMIN_QUEUE_ID]] = np.frombuffer(entry, np.uint8)
        self.tails[ADMIN_QUEUE_ID] = (self.tails[ADMIN_QUEUE_ID] + 1) % len(admin.sq)

    def ring_admin(self) -> None:
        tail = self.tails[ADMIN_QUEUE_ID]
        self.bell(sq_tail_offset(ADMIN_QUEUE_ID, 0), tail)
        self.bell(cq_head_offset(ADMIN_QUEUE_ID, 0), tail)  # as if all that is answered had been read

    def make_queues(self, targets: Sequence[Target]) -> None:
        for target in targets:
            for opcode in MAKING:
                self.put_admin(opcode, target)
            self.tails[target.queue_id] = 0
        self.ring_admin()

    def admin(self) -> None:
        """A queue is deleted, or made anew, or none of these in their order."""
        target = self.random.choice(self.guest.targets)
        if self.random.random() < 0.3:
            self.put_admin(self.random.choice(DELETING + MAKING), target)
            self.ring_admin()
            return
        for opcode in DELETING:
            self.put_admin(opcode, target)
        self.make_queues([target])

    def write(self, register: Register, value: int) -> None:
        self.function.write_bar(Bar.REGISTERS, register, register.width, value)

    def enable(self) -> None:
        entries = len(self.guest.admin.sq)
        self.write(Register.AQA, Aqa.of(asqs=entries - 1, acqs=entries - 1))
        self.write(Register.ASQ, self.guest.admin.sq_iova)
        self.write(Register.ACQ, self.guest.admin.cq_iova)
        self.write(Register.CC, self.cc)
        self.tails.clear()
        self.make_queues(self.guest.targets)

    def disable(self) -> None:
        """And begin anew."""
        self.write(Register.CC, self.cc.replace(en=0))
        self.enable()

    def reset(self) -> None:
        self.function.reset()
        self.enable()

    def subsystem_reset(self) -> None:
        """After which the keys are gone."""
        self.write(Register.NSSR, NSSR_MAGIC)
        self.enable()

    def run(self, steps: int) -> None:
        acts: list[tuple[Callable[[], None], float]] = [
            (self.ring, 0.9), (self.map, 0.02), (self.map_lists, 0.01), (self.cut, 0.01), (self.cut_rings, 0.0003),
            (self.admin, 0.05), (self.disable, 0.002), (self.reset, 0.0005), (self.subsystem_reset, 0.0002),
        ]  # fmt: skip
        for act in self.random.choices([act for act, _ in acts], [weight for _, weight in acts], k=steps):
            self.done[act.__name__] += 1
            with suppress(IhsmError):  # refused, or too late
                act()


def live(path: Path, seed: int, steps: int, report: Connection) -> None:
    """One life of the attacker, from connecting to whatever its end is."""
    guest = Guest(path, seed)
    context = multiprocessing.get_context("fork")
    stop = context.Event()
    second = context.Process(target=scribble, args=(guest, stop, seed), daemon=True)
    second.start()
    first = FirstProcessor(guest)
    try:
        first.run(steps)
    finally:
        stop.set()
        second.kill()
        second.join()
        report.send(dict(first.done))
        os._exit(0)  # no farewell to the device


def work(path: Path, stop: Event, report: Connection) -> None:
    """The victim: right answers, and how long each took, in seconds."""
    latencies: dict[str, list[float]] = {"sign": [], "encrypt": []}
    with Controller(VfioUserFunction(path, timeout_s=HANG_S), DriverOptions(timeout_s=HANG_S)) as controller:
        keys = Keys(provision(controller))
        session = FastPathSession(keys.session.session_id, keys.session.short_app_id)
        public = keys.signing.public_key
        assert isinstance(public, ec.EllipticCurvePublicKey)
        expected = None
        report.send("ready")
        while not stop.is_set():
            begin = time.perf_counter()
            signature = keys.sign()
            latencies["sign"].append(time.perf_counter() - begin)
            half = len(signature) // 2
            numbers = (int.from_bytes(part, "big") for part in (signature[:half], signature[half:]))
            public.verify(encode_dss_signature(*numbers), DIGEST, ec.ECDSA(Prehashed(hashes.SHA256())))
            begin = time.perf_counter()
            found = controller.aes_queues[0].gcm_encrypt(session, keys.bulk, TEXT, iv=IV, timeout_s=HANG_S)
            latencies["encrypt"].append(time.perf_counter() - begin)
            expected = expected or found
            assert found == expected, "another ciphertext of the same"
            assert controller.registers.csts.rdy
    report.send(latencies)


def of_build(native: Path | None) -> Sequence[str]:
    """The command that serves, with another build of the native module if one is named."""
    if native is None:
        return SERVE
    return (sys.executable, str(WITH_NATIVE), str(native), "-m", "ihsm", "serve", "--sandbox", "off")


@contextmanager
def victim(path: Path) -> Iterator[dict[str, list[float]]]:
    """One that works until the end of the block; then its latencies are there.

    Raises:
        AssertionError: it had a wrong answer, or none.
    """
    context = multiprocessing.get_context("spawn")
    stop = context.Event()
    here, there = context.Pipe()
    process = context.Process(target=work, args=(path, stop, there), daemon=True)
    process.start()
    there.close()
    latencies: dict[str, list[float]] = {}
    try:
        assert here.recv() == "ready"
        yield latencies
        stop.set()
        latencies.update(here.recv())
    except EOFError:
        raise AssertionError("the victim has failed: its traceback is above") from None
    finally:
        process.kill()
        process.join()


def attack(server: ServeProcess, lives: int, steps: int, seed: int) -> Counter[str]:
    """So many clients of function 0, one after the other; what they have done."""
    context = multiprocessing.get_context("spawn")
    done: Counter[str] = Counter()
    for number in range(lives):
        here, there = context.Pipe()
        process = context.Process(target=live, args=(server.paths[0], seed + number, steps, there))
        process.start()
        there.close()
        with suppress(EOFError):  # it fell into a hole that it had made
            done.update(here.recv())
        process.join()
        done["lives"] += 1
        assert server.process.poll() is None, "".join(server.errors)[-20_000:]
    return done


def run(
    folder: Path,
    lives: int,
    doorbell: str,
    *,
    steps: int = STEPS,
    seed: int = 1,
    native: Path | None = None,
    environment: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Attack a server in `folder`; what was done, and the victim's latencies in milliseconds.

    Raises:
        AssertionError: the victim had a wrong answer, or the server complained, or did not end as it should.
    """
    options = ("--socket", str(folder / "s"), "--count", "2", "--resources", "2", "--doorbell", doorbell)
    variables = None if environment is None else {**os.environ, "PYTHONPATH": str(ROOT / "tests"), **environment}
    with serve(*options, program=of_build(native), environment=variables) as server:
        with victim(server.paths[1]) as latencies:
            done = attack(server, lives, steps, seed)
        counters = server.status()["counters"]
        assert server.stop() == 0, "".join(server.errors)[-20_000:]
    errors = "".join(server.errors)
    for complaint in ("Sanitizer", "runtime error", "Traceback"):
        assert complaint not in errors, errors[-20_000:]
    return {"doorbell": doorbell, "attacker": dict(done), "counters": counters, "victim_ms": summary(latencies)}


def summary(latencies: Mapping[str, Sequence[float]]) -> dict[str, dict[str, float]]:
    """Count, percentiles and the longest, in milliseconds."""
    return {
        name: {"count": len(times)}
        | {f"p{p:g}": round(float(np.percentile(times, p)) * 1e3, 3) for p in (50, 99, 99.9)}
        | {"max": round(max(times) * 1e3, 3)}
        for name, times in latencies.items()
    }


def main() -> None:
    """What the command line says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("lives", type=int, help="clients of the attacker, one after the other")
    parser.add_argument("--doorbell", choices=["trap", "page"], default="trap")
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--sanitizer", choices=SANITIZERS, help="build the server with it")
    arguments = parser.parse_args()
    native, environment = sanitized_build(arguments.sanitizer) if arguments.sanitizer else (None, None)
    with tempfile.TemporaryDirectory() as folder:
        done = run(
            Path(folder), arguments.lives, arguments.doorbell, steps=arguments.steps, seed=arguments.seed,
            native=native, environment=environment,
        )  # fmt: skip
    print(json.dumps(done, indent=2))


if __name__ == "__main__":
    main()
