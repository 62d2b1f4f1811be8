# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""A child of fork() gets `ForkedError` from all that it has of its parent's device, and the parent notices nothing."""

from __future__ import annotations

import contextlib
import gc
import hashlib
import mmap
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, utils

from ihsm import forks
from ihsm.bench.device import BenchDevice, bulk_keys, provision
from ihsm.bus import VfioUserFunction
from ihsm.bus.arena import DmaArena
from ihsm.bus.unsharing import unshare
from ihsm.control import ControlClient
from ihsm.ddi import Channel, Key, KeyRequest, Session
from ihsm.driver import Controller, DriverOptions, Submission
from ihsm.driver.doorbells import Doorbells
from ihsm.errors import ForkedError
from ihsm_abi.admin import ADMIN_SQE, Feature
from ihsm_abi.ddi import AesKeySize, GetApiRevReq, GetApiRevResp
from ihsm_abi.ddi.enums import EccCurve, HashAlgorithm, KeyUsage
from ihsm_abi.hsm_queue import ControlKind
from ihsm_abi.pci import PAGE_BYTES, Bar
from support.children import FORKS, Child, in_child, refusal
from support.waiting import HANG_S, ended, until

pytestmark = FORKS

DIGEST: Final = hashlib.sha256(b"whose signature is this").digest()
OPTIONS: Final = DriverOptions(aes_queues=2, timeout_s=HANG_S)

COUNTERS: Final = ("enables", "disables", "nssrs", "resets", "admin_commands", "hsm_commands", "dma_regions")


@dataclass
class World:
    """What a parent may have: a controller with a session and a key, and a second function, just opened."""

    device: BenchDevice
    controller: Controller
    session: Session
    key: Key
    bulk_key: int
    function: VfioUserFunction
    arena: DmaArena
    doorbells: Doorbells
    control: ControlClient

    def sign(self, digest: bytes = DIGEST) -> bytes:
        return self.session.ecc_sign(self.key, digest, HashAlgorithm.Sha256)

    def verify(self, signature: bytes, digest: bytes = DIGEST) -> None:
        r, s = (int.from_bytes(half, "big") for half in (signature[:32], signature[32:]))
        public: Any = self.key.public_key
        public.verify(utils.encode_dss_signature(r, s), digest, ec.ECDSA(utils.Prehashed(hashes.SHA256())))

    def works(self) -> None:
        """Everything still does what it should."""
        self.verify(self.sign())
        assert (
            self.controller.aes_queues[0]
            .gcm_encrypt(self.session.fast_path, self.bulk_key, b"text", timeout_s=HANG_S)
            .ciphertext
        )
        assert self.controller.admin.queue_count(Feature.HSM_QUEUE_COUNT)
        assert len(self.function.read_config(0, 4)) == 4
        self.arena.allocate(64).release()
        self.doorbells.ring(0, 0)

    def counters(self) -> list[Any]:
        """What both functions have been asked for so far, as far as that is counted before it is answered."""
        found = []
        for path in self.device.process.socket_paths:
            with ControlClient(path, timeout_s=HANG_S) as control:
                counters = control.status()["counters"]
                found.append({name: counters[name] for name in COUNTERS})
        return found


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    device = BenchDevice(count=2)
    try:
        with (
            device.controller(OPTIONS) as controller,
            provision(controller) as session,
            bulk_keys(session, AesKeySize.AesGcmBulk256Unapproved) as (bulk_key,),
            VfioUserFunction(device.process.socket_paths[1], timeout_s=HANG_S) as function,
            ControlClient(device.process.socket_path, timeout_s=HANG_S) as control,
        ):
            key = session.generate_ecc_key(EccCurve.P256, KeyRequest(KeyUsage.SignVerify))
            arena = function.allocate_arena(PAGE_BYTES)
            doorbells = Doorbells(function)
            yield World(device, controller, session, key, bulk_key, function, arena, doorbells, control)
            doorbells.close()
    finally:
        device.close()


Operation = Callable[[World], Any]


def _lent(world: World) -> None:
    with world.controller.hsm_queues[0].lent():
        pass


def _admin_entry(world: World) -> Submission:
    return world.controller.admin.submit(np.zeros(1, ADMIN_SQE), HANG_S)


OPERATIONS: Final[dict[str, Operation]] = {
    "function-read-config": lambda w: w.function.read_config(0, 4),
    "function-write-config": lambda w: w.function.write_config(4, b"\0\0"),
    "function-read-bar": lambda w: w.function.read_bar(0, 0, 4),
    "function-write-bar": lambda w: w.function.write_bar(0, 0x14, 4, 0),
    "function-posted-write": lambda w: w.function.write_bar(2, 0, 4, 0, posted=True),
    "function-posted-message": lambda w: w.function.posted_write(2),
    "function-map-bar": lambda w: w.function.map_bar(Bar.DOORBELLS),
    "function-write-event": lambda w: w.function.write_event(Bar.DOORBELLS),
    "function-map-dma": lambda w: w.function.map_dma(None, 0, 1 << 40, PAGE_BYTES),
    "function-unmap-dma": lambda w: w.function.unmap_dma(w.arena.iova, PAGE_BYTES),
    "function-arena": lambda w: w.function.allocate_arena(PAGE_BYTES),
    "function-interrupts": lambda w: w.function.enable_interrupts([None]),
    "function-no-interrupts": lambda w: w.function.disable_interrupts(),
    "function-reset": lambda w: w.function.reset(),
    "arena-allocate": lambda w: w.arena.allocate(64),
    "arena-pages": lambda w: w.arena.allocate_pages(64),
    "doorbells-ring": lambda w: w.doorbells.ring(0, 1),
    "controller-exchange": lambda w: w.controller.exchange(b"message", ControlKind.NONE, None),
    "controller-submit": lambda w: w.controller.submit(b"message", ControlKind.NONE, None),
    "controller-flush": lambda w: w.controller.flush_session(w.session.session_id),
    "controller-reset": lambda w: w.controller.reset(),
    "controller-subsystem-reset": lambda w: w.controller.reset(subsystem=True),
    "controller-recover-queue": lambda w: w.controller.recover_queue(w.controller.hsm_queues[0]),
    "controller-allocate": lambda w: w.controller.allocate(64),
    "controller-registers": lambda w: w.controller.registers.csts,
    "hsm-submit": lambda w: w.controller.hsm_queues[0].submit_message(b"m", ControlKind.NONE, None, timeout_s=HANG_S),
    "hsm-flush": lambda w: w.controller.hsm_queues[0].submit_flush(1, timeout_s=HANG_S),
    "hsm-lent": _lent,
    "hsm-reap": lambda w: w.controller.hsm_queues[0].reap(),
    "hsm-poll": lambda w: w.controller.hsm_queues[0].line.poll(),
    "admin-execute": lambda w: w.controller.admin.queue_count(Feature.HSM_QUEUE_COUNT),
    "admin-batch": _admin_entry,
    "aes-gcm": lambda w: w.controller.aes_queues[0].gcm_encrypt(
        w.session.fast_path, w.bulk_key, b"text", timeout_s=HANG_S
    ),
    "aes-gcm-long": lambda w: w.controller.aes_queues[0].gcm_encrypt(
        w.session.fast_path, w.bulk_key, bytes(4096), timeout_s=HANG_S
    ),
    "aes-xts": lambda w: w.controller.aes_queues[0].xts(
        w.session.fast_path, (1, 2), bytes(16), bytes(64), decrypt=False, timeout_s=HANG_S
    ),
    "session-sign": lambda w: w.sign(),
    "session-change-pin": lambda w: w.session.change_pin(bytes(16)),
    "channel-call": lambda w: Channel(w.controller).call(GetApiRevReq(), GetApiRevResp),
    "control-status": lambda w: w.control.status(),
}


def test_every_operation_is_refused_in_a_child(world: World) -> None:
    """One child tries them all, so that none is refused only because of the one before; the device sees nothing."""
    before = world.counters()

    def attempts() -> dict[str, str]:
        return {name: refusal(lambda work=work: work(world)) for name, work in OPERATIONS.items()}

    refusals = in_child(attempts)
    assert refusals.keys() == OPERATIONS.keys()
    for name, message in refusals.items():
        operation, _, rest = message.rpartition(": refused in a child of fork()")
        assert operation, f"{name}: {message}"
        assert "open the device anew" in rest, name
    assert world.counters() == before
    world.works()


@pytest.mark.parametrize("name", OPERATIONS)
def test_an_operation_by_itself(world: World, name: str) -> None:
    assert in_child(lambda: refusal(lambda: OPERATIONS[name](world)))
    world.works()


def test_a_child_of_forkpty_and_a_grandchild_are_refused_too(world: World) -> None:
    masters: list[int] = []

    def forkpty() -> int:
        pid, master = os.forkpty()
        masters.append(master)  # its end is a signal to the child
        return pid

    assert in_child(lambda: refusal(world.sign), fork=forkpty)
    assert in_child(lambda: in_child(lambda: refusal(world.sign)))
    for master in masters:
        os.close(master)
    world.works()


def test_parent_and_children_sign_at_the_same_time(world: World) -> None:
    """Without the refusal each gets some of the other's signatures, and nobody is told."""

    def attempts() -> int:
        return sum(bool(refusal(world.sign)) for _ in range(200))

    children = [Child(attempts) for _ in range(2)]
    for number in range(200):
        digest = hashlib.sha256(b"%d" % number).digest()
        world.verify(world.sign(digest), digest)
    assert [child.result() for child in children] == [200, 200]


def test_forks_while_threads_submit_and_wait(world: World) -> None:
    """Locks that other threads held are no trap for the child, however often it is tried."""
    stop = threading.Event()
    wrong: list[BaseException] = []

    def work(number: int) -> None:
        queue = world.controller.aes_queues[number % 2]
        try:
            while not stop.is_set():
                digest = os.urandom(32)
                world.verify(world.sign(digest), digest)
                futures = [
                    queue.submit_gcm(
                        world.session.fast_path,
                        world.bulk_key,
                        b"t",
                        decrypt=False,
                        iv=os.urandom(12),
                        timeout_s=HANG_S,
                    ).future()
                    for _ in range(8)
                ]
                for future in futures:
                    future.result(HANG_S)
        except (Exception, InvalidSignature) as error:
            wrong.append(error)

    threads = [threading.Thread(target=work, args=(number,), daemon=True) for number in range(4)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(40):
            assert in_child(lambda: [refusal(lambda work=work: work(world)) for work in OPERATIONS.values()])
    finally:
        stop.set()
        ended(*threads)
    assert not wrong
    world.works()


def test_what_is_outstanding_fails_in_the_child_alone(world: World) -> None:
    queue = world.controller.hsm_queues[0]
    waited, promised, polled = (
        queue.submit_message(b"no message", ControlKind.NONE, None, timeout_s=HANG_S) for _ in range(3)
    )

    def attempts() -> tuple[str, str, bool]:
        future = promised.future()
        return refusal(waited.result), refusal(lambda: future.result(HANG_S)), polled.done()

    with queue.lock:  # no completion is taken meanwhile
        assert not waited.done()
        first, second, done = in_child(attempts)
    assert "wait for a completion" in first
    assert "wait for a completion" in second
    assert done
    assert waited.result(HANG_S).message
    assert promised.future().result(HANG_S).message
    assert polled.result(HANG_S).message


def test_rings_that_were_lent_do_not_come_back_in_a_child(world: World) -> None:
    queue = world.controller.hsm_queues[0]

    def leave(stack: contextlib.ExitStack) -> None:
        stack.close()

    with contextlib.ExitStack() as stack:
        stack.enter_context(queue.lent())
        assert "lent rings" in in_child(lambda: refusal(lambda: leave(stack)))
    world.works()


def test_a_polled_controller_is_refused_too() -> None:
    device = BenchDevice()
    try:
        options = DriverOptions(interrupts=False, timeout_s=HANG_S)
        with device.controller(options) as controller, provision(controller) as session:
            [queue] = controller.hsm_queues
            submission = queue.submit_message(b"no message", ControlKind.NONE, None, timeout_s=HANG_S)
            assert all(in_child(lambda: [refusal(submission.result), refusal(lambda: session.change_pin(bytes(16)))]))
            assert submission.result(HANG_S).message
    finally:
        device.close()


def test_a_future_s_callbacks_are_the_parent_s(world: World) -> None:
    """And a lock of it that another thread held at the fork does not hold the child up."""
    queue = world.controller.hsm_queues[0]
    with queue.lock:  # no completion is taken meanwhile
        submission = queue.submit_message(b"no message", ControlKind.NONE, None, timeout_s=HANG_S)
        future = submission.future()
        called: list[int] = []
        future.add_done_callback(lambda _: called.append(os.getpid()))
        held, let_go = threading.Event(), threading.Event()

        def hold() -> None:
            with future._condition:
                held.set()
                let_go.wait(HANG_S)

        holder = threading.Thread(target=hold, daemon=True)
        holder.start()
        held.wait(HANG_S)
        child = Child(lambda: (refusal(lambda: future.result(HANG_S)), list(called)))
        let_go.set()
        ended(holder)
        message, callbacks = child.result()
    assert message
    assert callbacks == []
    assert future.result(HANG_S).message
    until(lambda: called == [os.getpid()], "the callback")


def test_a_thread_that_was_waiting_does_not_hold_the_child_up(world: World) -> None:
    """Each lock of the user side is held by another thread at the fork."""
    controller, function = world.controller, world.function
    queue = controller.hsm_queues[0]
    line = queue.line
    locks: list[Any] = [
        queue.lock, line.leader, line._followers, line._thread_guard, controller._life, function._lock,
        function._connection._lock, world.arena._lock, controller.arena._lock,
    ]  # fmt: skip
    held, let_go = threading.Event(), threading.Event()

    def hold() -> None:
        for lock in locks:
            lock.acquire()
        held.set()
        let_go.wait(HANG_S)
        for lock in locks:
            lock.release()

    holder = threading.Thread(target=hold, daemon=True)
    holder.start()
    held.wait(HANG_S)
    child = Child(lambda: [refusal(lambda work=work: work(world)) for work in OPERATIONS.values()])
    let_go.set()
    ended(holder)
    assert len(child.result()) == len(OPERATIONS)
    world.works()


def test_memory_of_the_device_is_not_the_child_s(world: World) -> None:
    """A child finds zeros in the parent's buffers, and what it writes does not come back."""
    with world.arena.allocate(64) as buffer:
        buffer.view[:] = 7

        def scribble() -> bytes:
            found = buffer.view.tobytes()
            buffer.view[:] = 9
            buffer.release()
            return found

        assert in_child(scribble) == bytes(64)
        assert buffer.view.tobytes() == b"\7" * 64


def test_closing_in_a_child_says_nothing_to_the_device(world: World) -> None:
    before = world.counters()

    def close() -> bool:
        world.session.close()
        world.controller.close()
        world.doorbells.close()
        world.arena.close()
        world.function.close()
        world.control.close()
        world.device.close()
        gc.collect()
        return world.session.closed

    assert in_child(close)
    assert not world.session.closed
    assert world.counters() == before
    world.works()


def test_a_child_holds_none_of_the_parent_s_descriptors(world: World) -> None:
    function = world.function
    assert isinstance(world.controller.function, VfioUserFunction)
    mine = [*world.controller._events]
    for each in (function, world.controller.function):
        mine += [each._connection.fileno(), *each._region_fds.values(), *filter(None, each._events.values())]
    mine += [world.control._socket.fileno(), world.device.process._kept._channel.fileno()]
    assert len(mine) > 8

    def still_open() -> list[int]:
        found = []
        for descriptor in mine:
            with contextlib.suppress(OSError):
                os.fstat(descriptor)
                found.append(descriptor)
        return found

    # The pipe to the parent may have taken one of the numbers.
    assert len(in_child(still_open)) <= 1
    assert still_open() == mine


def test_a_device_is_free_when_the_parent_is_killed_though_its_child_lives() -> None:
    device = BenchDevice()
    try:
        command = [sys.executable, "-c", _KILLED, str(device.process.socket_path)]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as parent:
            assert parent.stdout is not None
            child = int(parent.stdout.readline())
            try:
                parent.kill()
                with VfioUserFunction(device.process.socket_path, timeout_s=HANG_S, wait_s=HANG_S) as function:
                    assert function.read_bar(0, 0, 8)
                os.kill(child, 0)
            finally:
                os.kill(child, signal.SIGKILL)
    finally:
        device.close()


_KILLED: Final = """
import os, signal, sys
from ihsm.uri import open_controller
with open_controller("vfio-user:" + sys.argv[1]) as controller:
    child = os.fork()
    if child:
        print(child, flush=True)
    signal.pause()
"""


def test_once_the_parent_lets_go_a_child_may_have_the_device() -> None:
    device = BenchDevice()
    try:
        path = device.process.socket_path
        go_read, go_write = os.pipe()
        controller = device.controller(OPTIONS)
        provision(controller)

        def child() -> str:
            assert refusal(lambda: controller.exchange(b"m", ControlKind.NONE, None))
            assert os.read(go_read, 1)
            with Controller(VfioUserFunction(path, timeout_s=HANG_S), OPTIONS) as own, provision(own) as session:
                session.generate_aes_key(AesKeySize.Aes256, KeyRequest(KeyUsage.EncryptDecrypt))
            return refusal(lambda: controller.exchange(b"m", ControlKind.NONE, None))

        waiting = Child(child)
        controller.close()
        os.write(go_write, b"x")
        assert waiting.result()
        with Controller(VfioUserFunction(path, timeout_s=HANG_S), OPTIONS) as again:
            assert again.identity
        os.close(go_read)
        os.close(go_write)
    finally:
        device.close()


def _sign_with_a_private_device(number: int) -> bool:
    device = BenchDevice()
    try:
        with device.controller(OPTIONS) as controller, provision(controller) as session:
            key = session.generate_ecc_key(EccCurve.P256, KeyRequest(KeyUsage.SignVerify))
            signature = session.ecc_sign(key, DIGEST, HashAlgorithm.Sha256)
            r, s = (int.from_bytes(half, "big") for half in (signature[:32], signature[32:]))
            public: Any = key.public_key
            public.verify(utils.encode_dss_signature(r, s), DIGEST, ec.ECDSA(utils.Prehashed(hashes.SHA256())))
            return True
    finally:
        device.close()


def test_a_child_opens_its_own_device_and_a_grandchild_is_refused_that(world: World) -> None:
    def child() -> tuple[str, str]:
        device = BenchDevice()
        try:
            with device.controller(OPTIONS) as controller, provision(controller) as session:
                key = session.generate_ecc_key(EccCurve.P256, KeyRequest(KeyUsage.SignVerify))

                def sign() -> bytes:
                    return session.ecc_sign(key, DIGEST, HashAlgorithm.Sha256)

                sign()
                refused = in_child(lambda: (refusal(world.sign), refusal(sign)))
                sign()
                return refused
        finally:
            device.close()

    assert all(in_child(child))
    world.works()


_inherited: World


def _task(_: int) -> None:
    _inherited.sign()


def test_multiprocessing_carries_the_refusal_to_the_parent(world: World) -> None:
    """Its workers are forks, which pickle the error; with their own devices they work."""
    global _inherited
    _inherited = world
    context = multiprocessing.get_context("fork")
    with context.Pool(2) as pool:
        with pytest.raises(ForkedError, match=r"HSM queue \d: submit: refused in a child of fork\(\)"):
            pool.map(_task, range(4))
        assert pool.map(_sign_with_a_private_device, range(2)) == [True, True]
    world.works()


@pytest.mark.parametrize("ending", ["exit", "exception", "end"])
def test_a_child_that_leaves_the_blocks_of_its_parent(world: World, ending: str) -> None:
    """`with` blocks end in the child as well, by sys.exit or an error, and the interpreter's own end comes after."""
    device = BenchDevice()
    try:
        pid = 0
        with device.controller(OPTIONS) as controller, provision(controller) as session:
            key = session.generate_ecc_key(EccCurve.P256, KeyRequest(KeyUsage.SignVerify))
            pid = os.fork()
            if pid == 0:
                try:
                    _leave_blocks(device, controller, session, ending)
                except SystemExit as end:
                    os._exit(int(str(end.code)))
                except BaseException:
                    os._exit(99)
                os._exit(0)
            _, status = os.waitpid(pid, 0)
            assert os.waitstatus_to_exitcode(status) == {"exit": 3, "exception": 4, "end": 0}[ending]
            assert session.ecc_sign(key, DIGEST, HashAlgorithm.Sha256)
    finally:
        device.close()


def _leave_blocks(device: BenchDevice, controller: Controller, session: Session, ending: str) -> None:
    try:
        with device.process, controller, session:
            if ending == "exit":
                sys.exit(3)
            if ending == "exception":
                raise LookupError
    except LookupError:
        sys.exit(4)


def test_the_interpreter_s_end_in_a_child_disturbs_nobody() -> None:
    """A whole program, whose child ends as programs do, with all the handlers of an interpreter's exit."""
    done = subprocess.run(
        [sys.executable, "-W", "error::ResourceWarning", "-c", _PROGRAM], capture_output=True, text=True, timeout=HANG_S
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "child refused\nparent works\n", "")


_PROGRAM: Final = """
import os, sys
from ihsm.errors import ForkedError
from ihsm.uri import open_controller
from ihsm.ddi import Partition
from ihsm.embedded import EmbeddedDevice
with EmbeddedDevice() as device, open_controller(f"vfio-user:{device.socket_path}") as controller:
    partition = Partition(controller)
    partition.info()
    child = os.fork()
    if child == 0:
        try:
            partition.api_revisions()
        except ForkedError:
            print("child refused", flush=True)
        sys.exit(5)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 5
    partition.api_revisions()
    print("parent works")
"""


def test_a_fork_in_a_callback_of_a_future(world: World) -> None:
    """The thread that reaps goes on in the child, as the only one there: it must neither hang nor reap."""
    queue = world.controller.hsm_queues[0]
    outcome: Future[str] = Future()

    def callback(_: Future[Any]) -> None:
        try:
            child = Child(lambda: refusal(world.sign))
            outcome.set_result(child.result())
        except BaseException as error:
            outcome.set_exception(error)

    queue.submit_message(b"no message", ControlKind.NONE, None, timeout_s=HANG_S).future().add_done_callback(callback)
    assert outcome.result(HANG_S)
    world.works()


def test_one_that_cannot_be_told_does_not_spare_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    class Stubborn:
        told = False

        def forked(self) -> None:
            self.told = True
            raise RuntimeError("no")

    class Docile(Stubborn):
        def forked(self) -> None:
            self.told = True

    several = [Stubborn(), Docile(), Stubborn(), Docile()]
    for each in several:
        forks.watch(each)
    said: list[str] = []
    monkeypatch.setattr("sys.unraisablehook", lambda caught: said.append(repr(caught.exc_value)))
    told, [message] = in_child(lambda: ([each.told for each in several], said))
    assert told == [True] * 4
    assert message.count("RuntimeError('no')") == 2
    assert not said
    assert [each.told for each in several] == [False] * 4


def test_unshared_memory_is_zeroed_private_and_still_mapped() -> None:
    shared = mmap.mmap(-1, 2 * PAGE_BYTES)
    shared[:] = b"x" * len(shared)
    view = np.frombuffer(shared, np.uint8)
    unshare(shared)
    assert not view.any()
    view[:] = 1
    del view
    shared.close()
    unshare(shared)
