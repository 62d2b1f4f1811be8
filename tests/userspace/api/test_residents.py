# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Which keys are in the device: who leaves, who waits for whom, and what is left after interruptions.

Most tests have a device of a few lines, which counts and can stand still; those at the end a private one.
"""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding

from ihsm import Hsm
from ihsm.api import residents as residents_module
from ihsm.api.losses import is_lost
from ihsm.api.residents import Residents, UntrackedKeysError
from ihsm.api.rsa_key import RsaPrivateKey
from ihsm.api.steps import Ask, Procedure
from ihsm.ddi import Session, calls
from ihsm.ddi.call import Call
from ihsm.ddi.errors import StatusError
from ihsm.ddi.keys import Key
from ihsm.errors import KeyNotFoundError
from ihsm.procedures import perform, perform_async
from ihsm_abi.ddi import DdiStatus, DeleteKeyReq, HashAlgorithm, KeyType, UnmaskKeyReq
from support.waiting import HANG_S, stays, together, until, until_async

FULL = DdiStatus.NotEnoughSpace


class FakeDevice:
    """Session and device with `slots` places for keys; what a key is for is told by its masked form."""

    def __init__(self, slots: int) -> None:
        self.slots = slots
        self.keys: dict[int, bytes] = {}
        self.asked: list[str] = []
        self.gates: dict[str, threading.Event] = {}
        """Operations on a key that stand still until the gate opens: "unmask a", "sign a", "delete a"."""
        self.standing: set[str] = set()
        self.status: DdiStatus | None = None
        self._lock = threading.Lock()
        self._next = 0

    # -- as the session of a link --

    @property
    def session(self) -> FakeDevice:
        return self

    def perform(self, call: Call[Any]) -> Any:
        name = self._name(call)
        gate = self.gates.get(name)
        if gate is not None:
            self.standing.add(name)
            assert gate.wait(4 * HANG_S), f"{name}: nobody opened the gate"
        return self._do(call, name)

    async def perform_async(self, call: Call[Any]) -> Any:
        name = self._name(call)
        gate = self.gates.get(name)
        if gate is not None:
            self.standing.add(name)
        await until_async(lambda: gate is None or gate.is_set(), name)
        return self._do(call, name)

    # -- what it does --

    def _name(self, call: Call[Any]) -> str:
        request: Any = call.request
        if isinstance(request, UnmaskKeyReq):
            return f"unmask {request.masked_key.decode()}"
        what = "delete" if isinstance(request, DeleteKeyReq) else "sign"
        return f"{what} {self.keys.get(request.key_id, b'?').decode()}"

    def _do(self, call: Call[Any], name: str) -> Any:
        request: Any = call.request
        with self._lock:
            self.asked.append(name)
            if isinstance(request, UnmaskKeyReq):
                if self.status is not None:
                    raise StatusError(0, self.status)  # type: ignore[arg-type]
                if len(self.keys) >= self.slots:
                    raise StatusError(1107, FULL)  # type: ignore[arg-type]
                self._next += 1
                self.keys[self._next] = request.masked_key
                return Key(self._next, KeyType.Ecc256Private, masked_key=request.masked_key)
            if request.key_id not in self.keys:
                raise StatusError(1014, DdiStatus.KeyNotFound)  # type: ignore[arg-type]
            if isinstance(request, DeleteKeyReq):
                del self.keys[request.key_id]
                return None
            return self.keys[request.key_id]

    def shut(self, *names: str) -> None:
        for name in names:
            self.gates[name] = threading.Event()

    def open(self, name: str) -> None:
        self.gates[name].set()

    def inside(self) -> list[bytes]:
        return sorted(self.keys.values())


@pytest.fixture(autouse=True)
def _operations(monkeypatch: pytest.MonkeyPatch) -> None:
    def init(self: StatusError, op: Any, status: DdiStatus) -> None:
        Exception.__init__(self, status.name)
        self.op, self.status = op, status

    monkeypatch.setattr(StatusError, "__init__", init)


def signed(*keys: Key) -> Procedure[bytes]:
    """Use keys: what each signs, joined."""
    parts = []
    for key in keys:
        parts.append((yield Ask(calls.ecc_sign(key, b"\1", HashAlgorithm.Sha256))))
    return b"+".join(parts)


class Scene:
    """A device with residents and threads that use keys."""

    def __init__(self, slots: int) -> None:
        self.device = FakeDevice(slots)
        self.residents = Residents()
        self.pool = ThreadPoolExecutor(64)

    def use(self, *names: bytes) -> bytes:
        return perform(self.residents.held(names, signed), self.device)  # type: ignore[arg-type]

    async def use_async(self, *names: bytes) -> bytes:
        return await perform_async(self.residents.held(names, signed), self.device)  # type: ignore[arg-type]

    def start(self, *names: bytes) -> Any:
        return self.pool.submit(self.use, *names)

    def drop(self, *names: bytes) -> None:
        perform(self.residents.drop(names), self.device)  # type: ignore[arg-type]

    def stands(self, name: str) -> None:
        until(lambda: name in self.device.standing, name)

    def waits_for_room(self) -> bool:
        """Whether somebody has its turn and sleeps."""
        freed = self.residents._freed
        return freed is not None and not freed._event.is_set()

    def is_consistent(self) -> bool:
        """Nothing is used, nobody waits, and device and residents agree on what is there."""
        residents = self.residents
        everything = [*residents._entries.values(), *residents._leaving]
        return (
            not any(each.users for each in everything)
            and not residents._turns
            and residents._freed is None
            and sorted(each.key.key_id for each in everything if each.key) == sorted(self.device.keys)
        )


@pytest.fixture
def scene() -> Iterator[Scene]:
    scene = Scene(3)
    yield scene
    for gate in scene.device.gates.values():
        gate.set()
    scene.pool.shutdown()


# -- who is there ------------------------------------------------------------------------------------------------------


def test_a_key_is_brought_once(scene: Scene) -> None:
    assert [scene.use(b"a") for _ in range(3)] == [b"a"] * 3
    assert scene.device.asked == ["unmask a", "sign a", "sign a", "sign a"]
    assert len(scene.residents) == 1


def test_the_key_used_longest_ago_leaves(scene: Scene) -> None:
    for name in (b"a", b"b", b"c", b"a", b"d", b"b"):
        scene.use(name)
    assert scene.device.inside() == [b"a", b"b", b"d"], "d made c leave no more than b, b made c leave"
    assert [name for name in scene.device.asked if name.startswith("delete")] == ["delete b", "delete c"]
    assert list(scene.residents._entries) == [b"a", b"d", b"b"]
    assert scene.is_consistent()


def test_keys_in_use_stay(scene: Scene) -> None:
    scene.device.shut("sign a")
    using = scene.start(b"a")
    scene.stands("sign a")
    for number in range(20):
        name = b"x%d" % number
        assert scene.use(name) == name
    scene.device.open("sign a")
    assert using.result(HANG_S) == b"a"
    assert scene.device.asked.count("unmask a") == 1
    assert scene.is_consistent()


def test_several_keys_are_held_together_in_their_order(scene: Scene) -> None:
    assert scene.use(b"b", b"a") == b"b+a"
    assert scene.use(b"a", b"c") == b"a+c"
    assert scene.use(b"d", b"e", b"f") == b"d+e+f"
    assert scene.is_consistent()


def test_who_wants_the_same_key_waits_for_the_one_who_brings_it(scene: Scene) -> None:
    scene.device.shut("unmask a")
    futures = [scene.start(b"a") for _ in range(8)]
    scene.stands("unmask a")
    assert stays(lambda: not any(future.done() for future in futures))
    scene.device.open("unmask a")
    assert [future.result(HANG_S) for future in futures] == [b"a"] * 8
    assert scene.device.asked.count("unmask a") == 1
    assert scene.is_consistent()


def test_who_waited_tries_itself_when_the_other_fails(scene: Scene) -> None:
    scene.device.shut("unmask a")
    scene.device.status = DdiStatus.InternalError
    futures = [scene.start(b"a") for _ in range(4)]
    scene.stands("unmask a")
    scene.device.open("unmask a")
    for future in futures:
        with pytest.raises(StatusError, match="InternalError"):
            future.result(HANG_S)
    assert scene.device.asked.count("unmask a") == 4
    assert scene.is_consistent()
    scene.device.status = None
    assert scene.use(b"a") == b"a"


# -- no room -----------------------------------------------------------------------------------------------------------


def occupied(scene: Scene, *names: bytes) -> list[Any]:
    """Keys in use until their gates open."""
    scene.device.shut(*(f"sign {name.decode()}" for name in names))
    futures = [scene.start(name) for name in names]
    for name in names:
        scene.stands(f"sign {name.decode()}")
    return futures


def test_who_finds_no_room_waits_without_asking_again(scene: Scene) -> None:
    using = occupied(scene, b"a", b"b", b"c")
    waiting = [scene.start(b"w%d" % number) for number in range(5)]
    until(lambda: len(scene.residents._turns) == 5, "five waiting ones")
    until(scene.waits_for_room, "one whose turn it is")
    asked = len(scene.device.asked)
    assert stays(lambda: len(scene.device.asked) == asked), "it asks again and again"
    for name in ("sign a", "sign b", "sign c"):
        scene.device.open(name)
    assert [future.result(HANG_S) for future in using] == [b"a", b"b", b"c"]
    assert [future.result(HANG_S) for future in waiting] == [b"w%d" % number for number in range(5)]
    assert scene.is_consistent()


def test_who_waits_is_not_overtaken(scene: Scene) -> None:
    """A place is free, for the one who waited; another that comes just then waits as well."""
    occupied(scene, b"a", b"b", b"c")
    older = scene.start(b"older")
    until(scene.waits_for_room, "one whose turn it is")
    scene.device.shut("unmask older")
    scene.device.open("sign a")
    scene.stands("unmask older")
    assert scene.device.inside() == [b"b", b"c"]
    newer = scene.start(b"newer")
    until(lambda: len(scene.residents._turns) == 2 or newer.done(), "another waiting one")
    assert not newer.done()
    scene.device.open("unmask older")
    assert older.result(HANG_S) == b"older"
    assert newer.result(HANG_S) == b"newer"
    assert scene.device.asked.index("sign older") < scene.device.asked.index("unmask newer")


def test_a_key_that_comes_late_makes_room_for_who_waits(scene: Scene) -> None:
    """Its maker was cancelled, so that it is nobody's."""
    occupied(scene, b"a", b"b")
    late = scene.device._do(calls.unmask(b"late"), "unmask late")
    waiting = scene.start(b"c")
    until(scene.waits_for_room, "one whose turn it is")
    scene.residents._adopt(late)
    assert waiting.result(HANG_S) == b"c"


def test_two_who_need_two_keys_of_three_places(scene: Scene) -> None:
    """Each may have one and want the other's place."""
    for _ in range(50):
        futures = [scene.start(b"%d-1" % number, b"%d-2" % number) for number in range(8)]
        assert [future.result(HANG_S) for future in futures] == [b"%d-1+%d-2" % (number, number) for number in range(8)]
    assert scene.is_consistent()


def test_keys_that_do_not_fit_even_alone_are_refused(scene: Scene) -> None:
    scene.use(b"a")
    with pytest.raises(StatusError, match="NotEnoughSpace"):
        scene.use(b"p", b"q", b"r", b"s")
    assert scene.is_consistent()
    assert scene.use(b"p", b"q", b"r") == b"p+q+r"


def test_nobody_waits_for_ever_for_a_key_that_is_never_let_go_of(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """A coroutine of an event loop that was stopped, say."""
    monkeypatch.setattr(residents_module, "ROOM_WAIT_S", 0.01)
    occupied(scene, b"a", b"b", b"c")
    with pytest.raises(StatusError, match="NotEnoughSpace"):
        scene.use(b"d")
    assert not scene.residents._turns


def test_a_derived_key_waits_with_nothing_in_hand(scene: Scene) -> None:
    """As many derivations as places, at once: each has its source, and there is no room for any result."""

    def derive(name: bytes) -> Key:
        return perform(
            scene.residents.derived([name], lambda source: calls.unmask(b"of-" + name)),
            scene.device,  # type: ignore[arg-type]
        )

    scene.device.shut("unmask of-a", "unmask of-b", "unmask of-c")
    futures = [scene.pool.submit(derive, name) for name in (b"a", b"b", b"c")]
    for name in ("unmask of-a", "unmask of-b", "unmask of-c"):
        scene.stands(name)
    assert scene.device.inside() == [b"a", b"b", b"c"]
    for name in ("unmask of-a", "unmask of-b", "unmask of-c"):
        scene.device.open(name)
    assert [future.result(HANG_S).masked_key for future in futures] == [b"of-a", b"of-b", b"of-c"]
    assert scene.is_consistent()


def test_a_key_made_is_there_and_leaves_like_others(scene: Scene) -> None:
    made = perform(scene.residents.made(calls.unmask(b"new")), scene.device)  # type: ignore[arg-type]
    assert made.masked_key == b"new"
    assert scene.use(b"new") == b"new"
    assert scene.device.asked == ["unmask new", "sign new"]
    for name in (b"a", b"b", b"c"):
        scene.use(name)
    assert scene.device.inside() == [b"a", b"b", b"c"]


# -- deletion ----------------------------------------------------------------------------------------------------------


def test_a_deleted_key_is_used_no_more(scene: Scene) -> None:
    scene.use(b"a")
    scene.use(b"b")
    scene.drop(b"a", b"never-there")
    assert scene.device.inside() == [b"b"]
    for name in (b"a", b"never-there"):
        with pytest.raises(KeyNotFoundError):
            scene.use(name)
    assert scene.is_consistent()


def test_deletion_waits_for_those_who_use_the_key(scene: Scene) -> None:
    (using,) = occupied(scene, b"a")
    deleting = scene.pool.submit(scene.drop, b"a")
    until(lambda: scene.residents._leaving, "the key to be taken out")
    assert stays(lambda: not deleting.done())
    with pytest.raises(KeyNotFoundError):
        scene.use(b"a")
    scene.device.open("sign a")
    assert using.result(HANG_S) == b"a"
    deleting.result(HANG_S)
    assert scene.device.inside() == []
    assert scene.is_consistent()


def test_deletion_of_a_key_on_its_way(scene: Scene) -> None:
    scene.device.shut("unmask a")
    using = scene.start(b"a")
    scene.stands("unmask a")
    deleting = scene.pool.submit(scene.drop, b"a")
    until(lambda: scene.residents._leaving, "the key to be taken out")
    scene.device.open("unmask a")
    assert using.result(HANG_S) == b"a"
    deleting.result(HANG_S)
    assert scene.device.inside() == []
    assert scene.is_consistent()


def test_keys_that_rest_come_back_and_those_in_use_stay(scene: Scene) -> None:
    scene.use(b"a")
    (using,) = occupied(scene, b"b")
    perform(scene.residents.rest([b"a", b"b", b"never-there"]), scene.device)  # type: ignore[arg-type]
    assert scene.device.inside() == [b"b"]
    scene.use(b"a")
    assert scene.device.inside() == [b"a", b"b"]
    scene.device.open("sign b")
    assert using.result(HANG_S) == b"b"
    assert scene.is_consistent()


# -- interruption ------------------------------------------------------------------------------------------------------


def test_a_procedure_that_is_closed_early_gives_its_keys_back(scene: Scene) -> None:
    scene.use(b"a")
    procedure = scene.residents.held([b"a"], signed)
    next(procedure)
    assert scene.residents._entries[b"a"].users == 1
    procedure.close()
    assert scene.is_consistent()


def test_a_waiting_procedure_that_is_closed_gives_up_its_turn(scene: Scene) -> None:
    occupied(scene, b"a", b"b", b"c")
    given_up: Any = scene.residents.held([b"d"], signed)
    step = next(given_up)
    with pytest.raises(StatusError) as full:
        step.perform(scene.device)
    given_up.throw(full.value)  # waits for its turn, which it has
    given_up.send(True)
    assert len(scene.residents._turns) == 1
    waiting = scene.start(b"e")
    until(lambda: len(scene.residents._turns) == 2, "another waiting one")
    given_up.close()
    scene.device.open("sign a")
    assert waiting.result(HANG_S) == b"e"


async def cancelled(task: asyncio.Task[Any]) -> None:
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


@pytest.mark.parametrize("standing", ["unmask a", "sign a"])
def test_a_cancelled_task_leaves_the_key_known(scene: Scene, standing: str) -> None:
    """The command that was sent is carried out: its key is in the device, and has to be known to leave it."""

    async def run() -> None:
        scene.device.shut(standing)
        task = asyncio.ensure_future(scene.use_async(b"a"))
        await until_async(lambda: standing in scene.device.standing, standing)
        await cancelled(task)
        scene.device.open(standing)
        await until_async(lambda: scene.device.inside() == [b"a"] and scene.is_consistent(), "the key to be known")

    asyncio.run(asyncio.wait_for(run(), HANG_S))
    for name in (b"b", b"c", b"d", b"a"):
        assert scene.use(name) == name
    assert scene.is_consistent()


def test_a_cancelled_turn_goes_to_the_next(scene: Scene) -> None:
    async def run() -> None:
        occupied(scene, b"a", b"b", b"c")
        tasks = [asyncio.ensure_future(scene.use_async(b"t%d" % number)) for number in range(3)]
        await until_async(lambda: len(scene.residents._turns) == 3 and scene.waits_for_room(), "three waiting ones")
        await cancelled(tasks[0])
        await cancelled(tasks[1])
        scene.device.open("sign a")
        assert await tasks[2] == b"t2"

    asyncio.run(asyncio.wait_for(run(), HANG_S))


def test_what_an_interrupted_thread_leaves_is_told_from_a_table_that_is_too_small(scene: Scene) -> None:
    """Ctrl-C while the answer is awaited: the device has a key that nobody knows. A reset is what helps."""

    def interrupted(call: Call[Any]) -> Any:
        scene.device._do(call, scene.device._name(call))
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scene.device, "perform", interrupted)
        for name in (b"a", b"b", b"c"):
            with pytest.raises(KeyboardInterrupt):
                scene.use(name)
    with pytest.raises(UntrackedKeysError) as raised:
        scene.use(b"d")
    assert is_lost(raised.value)


def test_threads_and_coroutines_together(scene: Scene) -> None:
    """Whatever happens, everyone gets what its own keys sign."""
    names = [b"k%d" % number for number in range(9)]

    def by_thread(seed: int) -> None:
        chance = random.Random(seed)
        for _ in range(60):
            wanted = chance.sample(names, chance.randint(1, 3))
            assert scene.use(*wanted) == b"+".join(wanted)

    async def by_task(seed: int) -> None:
        chance = random.Random(seed)
        for _ in range(60):
            wanted = chance.sample(names, chance.randint(1, 3))
            use = asyncio.ensure_future(scene.use_async(*wanted))
            if chance.random() < 0.2:
                await until_async(lambda: True, "a turn of others")
                use.cancel()
            try:
                assert await use == b"+".join(wanted)
            except asyncio.CancelledError:
                continue

    async def by_tasks() -> None:
        await asyncio.gather(*(by_task(seed) for seed in range(6)))
        await until_async(lambda: not asyncio.all_tasks() - {asyncio.current_task()}, "what was cancelled to complete")

    loops = [scene.pool.submit(asyncio.run, by_tasks()) for _ in range(1)]
    for future in [scene.pool.submit(by_thread, seed) for seed in range(10, 18)] + loops:
        future.result(HANG_S)
    assert scene.is_consistent()
    assert len(scene.device.keys) <= 3


# -- in earnest --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def hsm() -> Iterator[Hsm]:
    with Hsm.private() as hsm:
        yield hsm


ECDSA = ec.ECDSA(hashes.SHA256())


@pytest.mark.parametrize("count", [pytest.param(300, id="300"), pytest.param(5000, id="5000", marks=pytest.mark.long)])
def test_more_keys_than_a_table_holds(count: int) -> None:
    with Hsm.private() as hsm:
        keys = [hsm.generate(f"key {number}", "p256") for number in range(count)]
        order = list(range(count))
        random.Random(1).shuffle(order)
        for number in order:
            message = b"%d" % number
            keys[number].public_key().verify(hsm[f"key {number}"].sign(message, ECDSA), message, ECDSA)  # type: ignore[union-attr, call-arg]
        assert len(hsm) == count
        assert 50 < len(hsm.connection.link.residents) < 200, "as many as there is room for"


def rsa_keys(hsm: Hsm, count: int) -> Sequence[RsaPrivateKey]:
    """RSA-2048 keys, of which a table holds ten."""
    made = []
    for number in range(count):
        label = f"rsa {number}"
        key = hsm[label] if label in hsm else hsm.generate(label, "rsa2048")
        assert isinstance(key, RsaPrivateKey)
        made.append(key)
    return made


def test_more_threads_than_places(hsm: Hsm) -> None:
    keys = rsa_keys(hsm, 13)

    def work(number: int) -> None:
        for turn in range(6):
            key, message = keys[(number + turn) % len(keys)], b"%d/%d" % (number, turn)
            signature = key.sign(message, padding.PKCS1v15(), hashes.SHA256())
            key.public_key().verify(signature, message, padding.PKCS1v15(), hashes.SHA256())

    together(24, work)
    assert len(hsm.connection.link.residents) <= 15


def test_a_key_whose_answer_was_lost_costs_no_place_for_ever(hsm: Hsm) -> None:
    """As many interruptions as there are places: then the device is reset, and the call goes on."""
    keys = rsa_keys(hsm, 13)
    perform_in_session = Session.perform

    def interrupted(self: Session, call: Call[Any]) -> Any:
        answer = perform_in_session(self, call)
        if isinstance(call.request, UnmaskKeyReq):
            raise KeyboardInterrupt
        return answer

    before = hsm.connection.link
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Session, "perform", interrupted)
        for _ in range(30):
            gone = next(key for key in keys if key._handle.some[0] not in hsm.connection.link.residents._entries)
            with pytest.raises(KeyboardInterrupt):
                gone.sign(b"m", padding.PKCS1v15(), hashes.SHA256())
            if hsm.connection.link is not before:
                break
    for key in keys:
        signature = key.sign(b"m", padding.PKCS1v15(), hashes.SHA256())
        key.public_key().verify(signature, b"m", padding.PKCS1v15(), hashes.SHA256())
    assert hsm.connection.link is not before
