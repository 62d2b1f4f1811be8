# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Which device a store is used with, and who has it meanwhile."""

from __future__ import annotations

import errno
import gc
import os
import subprocess
import sys
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, cast

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from ihsm import Hsm
from ihsm.api import devices
from ihsm.api.devices import NamedDevice, PrivateDevice, device_for, new_device
from ihsm.api.ec_key import EcPrivateKey
from ihsm.driver import DriverOptions
from ihsm.errors import (
    ArgumentError,
    ArgumentTypeError,
    DeviceBusyError,
    DeviceNotFoundError,
    EmbeddedDeviceError,
    StoreBusyError,
    StoreError,
    StorePermissionError,
    UriError,
)
from ihsm.store import Store
from ihsm.uri import DeviceUri
from support.process import alive
from support.waiting import HANG_S, until
from userspace.api.conftest import Place

ECDSA = ec.ECDSA(hashes.SHA256())
OPTIONS = DriverOptions()

HOLDER = """
import sys
from pathlib import Path
from ihsm import Hsm
with Hsm.open(root=Path(sys.argv[1])):
    print("open", flush=True)
    sys.stdin.read()
"""


def signs(hsm: Hsm, label: str = "web") -> None:
    key = hsm[label] if label in hsm else hsm.generate(label, "p256")
    assert isinstance(key, EcPrivateKey)
    key.public_key().verify(key.sign(b"m", ECDSA), b"m", ECDSA)


def device_pid(hsm: Hsm) -> int:
    device = cast(PrivateDevice, hsm.connection._source)._device
    assert device is not None
    return device.pid


# -- one at a time -----------------------------------------------------------------------------------------------------


def test_a_private_device_is_for_one_program(place: Place) -> None:
    """Who is refused learns who has it; who waits gets it, with the same keys."""
    with Hsm.create(device="private", root=place.root) as hsm:
        signs(hsm)
    command = [sys.executable, "-c", HOLDER, str(place.root)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdin is not None
        assert holder.stdout is not None
        assert holder.stdout.readline() == "open\n"
        with pytest.raises(StoreBusyError, match=f"process {holder.pid} has the store's private device.*wait_s"):
            place.open()
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(place.open, wait_s=HANG_S)
            holder.stdin.close()
            with waiting.result(HANG_S) as hsm:
                signs(hsm)


def test_the_same_in_one_program(place: Place) -> None:
    with Hsm.create(device="private", root=place.root):
        with pytest.raises(StoreBusyError, match=f"process {os.getpid()} has"):
            place.open()
        with pytest.raises(StoreBusyError, match="private device runs"):
            Store.open(root=place.root).rename("other")
    place.open().close()


def test_a_device_with_a_uri_is_for_one_program(place: Place) -> None:
    with place.serve(), place.create() as hsm:
        signs(hsm)
        with pytest.raises(DeviceBusyError):
            place.open()
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(place.open, wait_s=HANG_S)
            assert not waiting.done()
            hsm.close()
            with waiting.result(HANG_S) as again:
                signs(again)


def test_who_waits_tries_until_the_time_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    tries: list[int] = []

    def busy(uri: DeviceUri, options: DriverOptions, *, wait_s: float) -> Any:
        tries.append(1)
        raise DeviceBusyError("busy")

    monkeypatch.setattr(devices, "open_at", busy)
    for wait_s in (0.0, 0.2):
        device = NamedDevice(DeviceUri.parse("vfio-user:/nowhere"), OPTIONS, named=True, wait_s=wait_s)
        tries.clear()
        with pytest.raises(DeviceBusyError):
            device.open()
        assert (len(tries) > 1) == (wait_s > 0)


def test_a_device_that_is_not_there_is_not_waited_for(place: Place) -> None:
    with place.serve():
        place.create().close()
    with pytest.raises(DeviceNotFoundError):
        place.open(wait_s=HANG_S)


@pytest.mark.parametrize(("wait_s", "error"), [(float("nan"), ArgumentError), ("1", ArgumentTypeError)])
def test_a_wait_that_is_none(place: Place, wait_s: Any, error: type[Exception]) -> None:
    for use in (Hsm.open, Hsm.create):
        with pytest.raises(error, match="wait_s"):
            use(wait_s=wait_s, root=place.root)


# -- nothing is left behind --------------------------------------------------------------------------------------------


def test_who_forgets_to_close_leaves_no_process_and_no_lock(place: Place) -> None:
    hsm = Hsm.create(device="private", root=place.root)
    signs(hsm)
    pid = device_pid(hsm)
    assert alive(pid)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # about what was not closed
        del hsm
        gc.collect()
    until(lambda: not alive(pid), "the device's end")
    with place.open() as again:
        signs(again)


def test_a_private_hsm_leaves_nothing() -> None:
    hsm = Hsm.private()
    signs(hsm)
    folder, pid = hsm.store.path.parent, device_pid(hsm)
    hsm.close()
    hsm.close()
    assert not alive(pid)
    assert not folder.exists()


FORKING = """
import os, sys
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from ihsm import Hsm
with Hsm.private() as hsm:
    hsm.generate("web", "p256")
    child = os.fork()
    if not child:
        {child}
    os.waitpid(child, 0)
    hsm["web"].sign(b"m", ec.ECDSA(hashes.SHA256()))
    print(list(hsm))
"""


@pytest.mark.parametrize("child", ["sys.exit(0)", "hsm.close(); os._exit(0)", "del hsm; sys.exit(0)"])
def test_a_child_that_ends_leaves_its_parents_private_hsm_alone(child: str) -> None:
    """It leaves the `with` block, closes what it inherited, or only ends as a program does."""
    done = subprocess.run(
        [sys.executable, "-c", FORKING.format(child=child)], capture_output=True, text=True, check=False, timeout=HANG_S
    )
    assert done.stdout == "['web']\n", done.stderr


def test_a_private_hsm_of_a_killed_program_leaves_nothing() -> None:
    script = "from ihsm import Hsm; import signal; h = Hsm.private(); print(h.store.path, flush=True); signal.pause()"
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as program:
        assert program.stdout is not None
        path = Path(program.stdout.readline().strip())
        there = path.exists()
        program.kill()
    assert there
    until(lambda: not path.parent.exists(), "the keeper's work")


def test_without_room_for_a_private_hsm(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("ihsm.api.hsm.Kept", full)
    with pytest.raises(EmbeddedDeviceError, match="No space left on device; TMPDIR"):
        Hsm.private()


def test_a_failed_start_leaves_no_lock(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    with Hsm.create(device="private", root=place.root) as hsm:
        signs(hsm)

    def fails(*_: Any) -> None:
        raise EmbeddedDeviceError("cannot be started")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(devices, "EmbeddedDevice", fails)
        with pytest.raises(EmbeddedDeviceError):
            place.open()
    with place.open() as again:
        signs(again)


def test_a_lock_that_cannot_be_had(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """A store on a medium that is read-only, say: an error of the store, by its path."""
    state = place.folder / "device"

    def refused(*_: Any, **__: Any) -> int:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "open", refused)
        with pytest.raises(StorePermissionError, match=r"device\.lock: cannot be locked: Read-only"):
            PrivateDevice(state, OPTIONS, wait_s=0)
    (place.folder / "device.lock").symlink_to(place.folder / "elsewhere")
    with pytest.raises(StoreError):
        PrivateDevice(state, OPTIONS, wait_s=0)
    assert not (place.folder / "elsewhere").exists()


# -- which one ---------------------------------------------------------------------------------------------------------


def test_the_device_of_a_store(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    def chosen(store: Store, given: str | None) -> tuple[str, bool]:
        device = device_for(store, given, OPTIONS, 0)
        device.close()
        return str(device.store_device), device.named

    with place.serve():
        place.create("served").close()
    Hsm.create("alone", device="private", root=place.root).close()
    served, alone = (Store.open(name, root=place.root) for name in ("served", "alone"))
    assert chosen(served, None) == (place.uri(), False), "found by the store: its identity counts"
    assert chosen(alone, None) == ("private", True)
    assert chosen(alone, "auto") == ("private", True)
    assert chosen(served, "vfio-user:/given") == ("vfio-user:/given", True)
    monkeypatch.setenv("IHSM_DEVICE", "vfio-user:/variable")
    assert chosen(served, None) == ("vfio-user:/variable", True)
    assert chosen(alone, "vfio-user:/given") == ("vfio-user:/given", True)
    assert chosen(alone, "private") == ("private", True)
    with pytest.raises(ArgumentError, match="has none of its own but vfio-user:"):
        chosen(served, "private")
    for text in ("nonsense", "pci:x", "vfio-user:"):
        with pytest.raises(UriError):
            chosen(served, text)
        with pytest.raises(UriError):
            new_device(text, place.folder / "device", OPTIONS, 0)


def test_a_new_store_takes_the_device_found(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "choose_device", lambda text: DeviceUri.parse("vfio-user:/found"))
    state = place.folder / "device"
    found = new_device(None, state, OPTIONS, 0)
    assert (str(found.store_device), found.named) == ("vfio-user:/found", True)
    monkeypatch.setattr(devices, "choose_device", lambda text: None)
    alone = new_device(None, state, OPTIONS, 0)
    assert str(alone.store_device) == "private"
    with pytest.raises(StoreBusyError):
        new_device("private", state, OPTIONS, 0)
    alone.close()
    new_device("private", state, OPTIONS, 0).close()


def test_a_new_store_waits_for_a_device_that_others_have(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    looks = 0

    def found(_: str) -> DeviceUri:
        nonlocal looks
        looks += 1
        if looks < 3:
            raise DeviceBusyError("busy")
        return DeviceUri.parse("vfio-user:/free")

    monkeypatch.setattr(devices, "choose_device", found)
    with pytest.raises(DeviceBusyError):
        new_device(None, place.folder / "device", OPTIONS, 0)
    assert looks == 1, "who does not wait looks once"
    assert str(new_device(None, place.folder / "device", OPTIONS, HANG_S).store_device) == "vfio-user:/free"


def test_locks_are_taken_by_one_of_many_threads(place: Place) -> None:
    state, together, had = place.folder / "device", threading.Barrier(8), []

    def take() -> None:
        together.wait(HANG_S)
        device = PrivateDevice(state, OPTIONS, wait_s=HANG_S)
        had.append(device)
        assert len(had) == 1
        had.clear()
        device.close()
        device.close()

    with ThreadPoolExecutor(8) as pool:
        for future in [pool.submit(take) for _ in range(8)]:
            future.result(HANG_S)
