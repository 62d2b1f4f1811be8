# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""The device of a store: lost in every way that there is, and brought back with its keys."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, cast

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed, encode_dss_signature

from ihsm import Hsm, ddi
from ihsm.api import connection as connection_module
from ihsm.api import devices, making
from ihsm.api.connection import Link
from ihsm.api.devices import PrivateDevice
from ihsm.api.ec_key import EcPrivateKey
from ihsm.api.steps import Ask, Procedure
from ihsm.ddi import Key, calls
from ihsm.ddi.errors import StatusError
from ihsm.driver import Controller
from ihsm.errors import (
    BusError,
    DeviceNotFoundError,
    KeysLostError,
    QueueClosedError,
    StorePermissionError,
    UnknownDeviceError,
)
from ihsm.store import Store
from ihsm.trace.replay import function_level_reset
from ihsm_abi.ddi import DdiStatus, HashAlgorithm
from support.waiting import HANG_S, ended, stays, until
from userspace.api.conftest import Place

ECDSA = ec.ECDSA(hashes.SHA256())


def made(hsm: Hsm, label: str, kind: str = "p256") -> EcPrivateKey:
    key = hsm[label] if label in hsm else hsm.generate(label, kind)
    assert isinstance(key, EcPrivateKey)
    return key


def check(key: EcPrivateKey, message: bytes = b"message") -> None:
    key.public_key().verify(key.sign(message, ECDSA), message, ECDSA)


def brought_back(caplog: pytest.LogCaptureFixture) -> int:
    return sum("is brought back" in record.message for record in caplog.records)


def disable(controller: Controller) -> None:
    controller.registers.disable()


LOSSES: dict[str, Callable[[Controller], None]] = {
    "subsystem reset by us": lambda controller: controller.reset(subsystem=True),
    "subsystem reset by another hand": lambda controller: controller.registers.subsystem_reset(),
    "disabled by another hand": disable,
    "function level reset": lambda controller: function_level_reset(controller.function),
    "device reset": lambda controller: controller.function.reset(),
}


@pytest.mark.parametrize("name", LOSSES)
def test_the_call_recovers_from_a_reset(hsm: Hsm, name: str, caplog: pytest.LogCaptureFixture) -> None:
    keys = [made(hsm, f"reset {number}", kind) for number, kind in enumerate(("p256", "p384", "p521"))]
    for key in keys:
        check(key)
    before = hsm.connection.link
    LOSSES[name](before.device)
    for key in keys:
        check(key)
    assert brought_back(caplog) == 1
    assert hsm.connection.link is not before
    assert hsm.connection.link.session.session_id == before.session.session_id


def test_the_session_is_reopened(hsm: Hsm, monkeypatch: pytest.MonkeyPatch) -> None:
    key, asked = made(hsm, "reopened"), []
    reopen = ddi.Partition.reopen_session

    def recorded(self: ddi.Partition, *arguments: Any) -> ddi.Session:
        asked.append(arguments[1].session_id)
        return reopen(self, *arguments)

    monkeypatch.setattr(ddi.Partition, "reopen_session", recorded)
    monkeypatch.setattr(ddi.Partition, "open_session", lambda *_: pytest.fail("a new session"))
    hsm.connection.link.device.reset(subsystem=True)
    check(key)
    assert asked == [hsm.connection.link.session.session_id]


def test_a_hundred_resets_leave_one_session(place: Place) -> None:
    with place.serve() as server, place.create() as hsm:
        key = made(hsm, "web")
        for _ in range(100):
            hsm.connection.link.device.registers.subsystem_reset()
            hsm.connection._replace(hsm.connection.link, QueueClosedError("noticed at once"))
        check(key)
        assert server.status()["module"]["sessions"] == {"0": "live"}
        assert server.status()["module"]["vault"]["entries"] <= 6


def test_ids_that_killed_programs_left_are_freed(place: Place) -> None:
    """In the firmware's profile they stay until somebody closes them, and there are eight."""
    with place.serve("s", "--profile", "firmware") as server:
        place.create().close()
        for _ in range(9):
            hsm = place.open()
            hsm.connection.link.device.function.close()  # and no CloseSession
            hsm.close()
        with place.open() as hsm:
            check(made(hsm, "web"))
            live = list(server.status()["module"]["sessions"].values())
            assert live.count("live") == 1


def test_eight_threads_recover_once(hsm: Hsm, caplog: pytest.LogCaptureFixture) -> None:
    key, together = made(hsm, "eight"), threading.Barrier(9)

    def work() -> None:
        together.wait(HANG_S)
        for number in range(20):
            check(key, b"%d" % number)

    for name in LOSSES:
        caplog.clear()
        with ThreadPoolExecutor(8) as pool:
            futures = [pool.submit(work) for _ in range(8)]
            together.wait(HANG_S)
            LOSSES[name](hsm.connection.link.device)
            for future in futures:
                future.result(HANG_S)
        check(key)
        assert brought_back(caplog) == 1, name


def test_coroutines_and_threads_recover_together(hsm: Hsm, caplog: pytest.LogCaptureFixture) -> None:
    key = made(hsm, "coroutines")

    async def sign(number: int) -> None:
        message = b"%d" % number
        key.public_key().verify(await key.sign_async(message, ECDSA), message, ECDSA)

    async def run() -> None:
        for _ in range(3):
            caplog.clear()
            hsm.connection.link.device.registers.subsystem_reset()
            threads = [asyncio.to_thread(check, key) for _ in range(4)]
            await asyncio.gather(*(sign(number) for number in range(64)), *threads)
            assert brought_back(caplog) == 1

    asyncio.run(asyncio.wait_for(run(), HANG_S))


def test_the_server_is_killed_and_started_anew(place: Place) -> None:
    with place.serve() as server:
        hsm = place.create()
        key = made(hsm, "web")
        check(key)
        server.stop(signal.SIGKILL)
    with place.serve():
        check(key)
        check(cast(EcPrivateKey, hsm["web"]))
        hsm.close()


def test_a_server_that_is_gone_for_a_while_is_waited_for(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "RESTART_S", HANG_S)
    with place.serve() as server:
        hsm = place.create()
        key = made(hsm, "web")
        server.stop(signal.SIGKILL)
        with ThreadPoolExecutor(4) as pool:
            futures = [pool.submit(check, key) for _ in range(4)]
            until(lambda: hsm.connection._link is None, "recovery to begin")
            with place.serve():
                for future in futures:
                    future.result(HANG_S)
                hsm.close()


def test_who_waits_while_another_fails_fails_with_it(hsm: Hsm, monkeypatch: pytest.MonkeyPatch) -> None:
    """A device that is gone is waited for once, and not by each of many threads in turn."""
    key, tries, gate = made(hsm, "fails"), [], threading.Event()

    class Lock:
        """Counts those who wait."""

        def __init__(self) -> None:
            self.lock, self.comers = hsm.connection._lock, 0

        def __enter__(self) -> None:
            self.comers += 1
            self.lock.acquire()

        def __exit__(self, *_: object) -> None:
            self.lock.release()

    def gone(self: PrivateDevice) -> Controller:
        tries.append(threading.get_ident())
        assert gate.wait(HANG_S)
        raise DeviceNotFoundError("gone")

    lock = Lock()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hsm.connection, "_lock", lock)
        patch.setattr(PrivateDevice, "open", gone)
        patch.setattr(Controller, "reset", lambda *_, **__: (_ for _ in ()).throw(BusError("no reset")))
        hsm.connection.link.device.function.reset()
        with ThreadPoolExecutor(8) as pool:
            futures = [pool.submit(check, key) for _ in range(8)]
            until(lambda: lock.comers >= 8, "eight threads that want it back")
            gate.set()
            for future in futures:
                with pytest.raises(DeviceNotFoundError, match="gone"):
                    future.result(HANG_S)
        assert len(tries) == 1
        with pytest.raises(DeviceNotFoundError):
            check(key)
        assert len(tries) == 2, "the next call tries again"
    check(key)


def test_a_private_device_that_is_killed_is_started_again() -> None:
    with Hsm.private() as hsm:
        key = made(hsm, "web")
        for _ in range(2):
            device = cast(PrivateDevice, hsm.connection._source)._device
            assert device is not None
            os.kill(device.pid, signal.SIGKILL)
            check(key)


def test_a_device_without_its_state(place: Place) -> None:
    with place.serve("s", state="one") as server:
        hsm = place.create()
        key = made(hsm, "web")
        server.stop(signal.SIGKILL)
    with place.serve("s", state="two"):
        for _ in range(2):
            with pytest.raises(KeysLostError, match=r"MaskedBkBootNotPresent.*--state"):
                key.sign(b"m", ECDSA)
        with pytest.raises(KeysLostError, match=r"MaskedBkBootNotPresent.*--state"):
            place.open(device=place.uri())
        with pytest.raises(UnknownDeviceError, match="left alone"):
            place.open()
    with place.serve("s", state="one"):
        check(key)
        hsm.close()


def test_another_device_at_the_address_is_left_alone(place: Place) -> None:
    with place.serve("s", state="one"):
        place.create("one").close()
    with place.serve("s", state="two") as server:
        with place.create("two") as hsm:
            made(hsm, "theirs")
        with pytest.raises(UnknownDeviceError, match="store one: the device found is not the one"):
            place.open("one")
        module = server.status()["module"]
        assert module["sessions"] == {}
        with place.open("two") as hsm:
            check(made(hsm, "theirs"))
    with place.serve("s", state="one"), place.open("one") as hsm:
        check(made(hsm, "web"))


def test_a_copied_store_needs_the_state_of_its_device(place: Place, socket_folder: Path) -> None:
    with place.serve("s"), place.create("original") as hsm:
        public = made(hsm, "web").public_key()
    shutil.copytree(place.root / "original", place.root / "copy")
    with place.serve("t", state="another"), pytest.raises(KeysLostError, match="MaskedBkBootNotPresent"):
        place.open("copy", device=place.uri("t"))
    shutil.copytree(socket_folder / "state", socket_folder / "state-copy")
    with place.serve("t", state="state-copy"), place.open("copy", device=place.uri("t")) as hsm:
        check(made(hsm, "web"))
        assert made(hsm, "web").public_key() == public


def test_a_private_store_is_copied_with_its_device(place: Place) -> None:
    with Hsm.create("original", device="private", root=place.root) as hsm:
        public = made(hsm, "web").public_key()
    shutil.copytree(place.root / "original", place.root / "copy")
    with place.open("copy") as copy, place.open("original"):
        check(made(copy, "web"))
        assert made(copy, "web").public_key() == public
    shutil.rmtree(place.root / "copy" / "device")
    with pytest.raises(KeysLostError, match="MaskedBkBootNotPresent"):
        place.open("copy")


# -- what is repeated, and how often -----------------------------------------------------------------------------------


def test_a_loss_between_two_steps_repeats_both(hsm: Hsm, monkeypatch: pytest.MonkeyPatch) -> None:
    """Import: the unwrapping key, a reset, and then its number means nothing any more."""
    wrapped = []
    wrap = making.wrap_key

    def reset_first(*arguments: Any) -> bytes:
        if not wrapped:
            hsm.connection.link.device.reset(subsystem=True)
        wrapped.append(arguments[0])
        return wrap(*arguments)

    monkeypatch.setattr(making, "wrap_key", reset_first)
    own = ec.generate_private_key(ec.SECP256R1())
    key = hsm.import_key("two steps", own)
    assert isinstance(key, EcPrivateKey)
    assert len(wrapped) == 2
    assert key.public_key() == own.public_key()
    check(key)


def test_a_call_is_repeated_once(hsm: Hsm) -> None:
    key, tries = made(hsm, "once"), []

    def use(resident: Key) -> Procedure[bytes]:
        tries.append(resident)
        hsm.connection.link.device.reset(subsystem=True)
        return (yield Ask(calls.ecc_sign(resident, bytes(32), HashAlgorithm.Sha256)))

    with pytest.raises(StatusError) as raised:
        hsm.connection.run(lambda link: link.residents.held(key._handle.some, use))
    assert raised.value.status is DdiStatus.SessionNeedsRenegotiation
    assert len(tries) == 2
    check(key)


def test_other_errors_are_not_repeated(hsm: Hsm) -> None:
    tries = []

    def make(link: Link) -> Procedure[Key]:
        tries.append(link)
        return (yield Ask(calls.unmask(b"no masked key")))

    before = hsm.connection.link
    with pytest.raises(StatusError) as raised:
        hsm.connection.run(make)
    assert raised.value.status is DdiStatus.MaskedKeyDecodeFailed
    assert len(tries) == 1
    assert hsm.connection.link is before


@pytest.mark.parametrize("drain_s", [0.0, HANG_S])
def test_who_is_late_never_signs_with_another_key(hsm: Hsm, monkeypatch: pytest.MonkeyPatch, drain_s: float) -> None:
    """The session's id and the key's number are valid again after recovery, and mean another key."""
    monkeypatch.setattr(connection_module, "DRAIN_S", drain_s)
    keys = [made(hsm, f"late {number}") for number in range(3)]
    for key in keys:
        check(key)
    standing, go = threading.Event(), threading.Event()
    digest = bytes(31) + b"\1"

    def late(resident: Key) -> Procedure[bytes]:
        standing.set()
        assert go.wait(HANG_S)
        return (yield Ask(calls.ecc_sign(resident, digest, HashAlgorithm.Sha256)))

    with ThreadPoolExecutor(2) as pool:
        signing = pool.submit(hsm.connection.run, lambda link: link.residents.held(keys[0]._handle.some, late))
        assert standing.wait(HANG_S)
        hsm.connection.link.device.reset(subsystem=True)
        recovering = pool.submit(check, keys[1])
        if drain_s:
            assert stays(lambda: not recovering.done()), "who is still at work is waited for"
        else:
            recovering.result(HANG_S)
            check(keys[2])
        go.set()
        raw = signing.result(HANG_S)
        recovering.result(HANG_S)
    r, s = (int.from_bytes(half, "big") for half in (raw[:32], raw[32:]))
    prehashed = ec.ECDSA(Prehashed(hashes.SHA256()))
    keys[0].public_key().verify(encode_dss_signature(r, s), digest, prehashed)
    with pytest.raises(InvalidSignature):
        keys[1].public_key().verify(encode_dss_signature(r, s), digest, prehashed)


# -- what the store keeps ----------------------------------------------------------------------------------------------


def test_a_bmk_that_changes_is_kept(place: Place) -> None:
    """The firmware's profile makes one anew at each provisioning."""
    with place.serve("s", "--profile", "firmware"):
        hsm = place.create()
        key, kept = made(hsm, "web"), [hsm.store.bmk]
        for _ in range(2):
            hsm.connection.link.device.reset(subsystem=True)
            check(key)
            kept.append(hsm.store.bmk)
            assert Store.open(root=place.root).bmk == hsm.store.bmk
        assert len(set(kept)) == 3
        hsm.close()
        with place.open() as again:
            check(made(again, "web"))


def test_a_store_that_cannot_be_written_is_used(
    place: Place, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with place.serve("s", "--profile", "firmware"):
        with place.create() as hsm:
            made(hsm, "web")

        def refused(self: Store, **_: object) -> None:
            raise StorePermissionError("read-only")

        monkeypatch.setattr(Store, "update", refused)
        with place.open() as hsm:
            check(made(hsm, "web"))
            hsm.connection.link.device.reset(subsystem=True)
            check(made(hsm, "web"))
    assert any("cannot be kept: read-only" in record.message for record in caplog.records)


# -- the end -----------------------------------------------------------------------------------------------------------


def test_after_close_nothing_works(place: Place) -> None:
    with Hsm.create(device="private", root=place.root) as hsm:
        key = made(hsm, "web")
    for use in (lambda: key.sign(b"m", ECDSA), lambda: hsm.generate("x", "p256"), lambda: hsm.connection.link):
        with pytest.raises(QueueClosedError, match=r"used after close\(\)"):
            use()
    hsm.close()


def test_close_ends_the_calls_of_others() -> None:
    hsm = Hsm.private()
    key, working = made(hsm, "web"), threading.Barrier(5)
    ends: list[BaseException] = []

    def work() -> None:
        check(key)
        working.wait(HANG_S)
        try:
            while True:
                check(key)
        except BaseException as error:
            ends.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    working.wait(HANG_S)
    hsm.close()
    ended(*threads)
    assert [type(error) for error in ends] == [QueueClosedError] * 4
    assert all("used after close()" in str(error) for error in ends)
