# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""For those who test what uses a device: have it do something wrong, and wait until it has."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Final

from ihsm.api.hsm import Hsm
from ihsm.bus import PciFunction
from ihsm.closing import Closing
from ihsm.control import ControlClient
from ihsm.driver import Controller
from ihsm.embedded import EmbeddedDevice
from ihsm.errors import (
    ArgumentError,
    ArgumentTypeError,
    CommandSeenError,
    DeviceNotFoundError,
    FaultNotFoundError,
)
from ihsm.uri import DeviceUri, Scheme
from ihsm_abi import fault_file
from ihsm_abi.control import DEFAULT_FAULT_WAIT_S
from ihsm_abi.fault_actions import FaultError
from ihsm_abi.fault_words import from_words, to_text
from ihsm_abi.faults import Fault, StandingFault
from ihsm_abi.registers import Register

__all__ = ["DeviceFault", "DeviceFaults", "faulty_device"]

Device = str | os.PathLike[str] | EmbeddedDevice | PciFunction | Controller | Hsm
_OPERATION: Final = "DeviceFaults"


class DeviceFault:
    """A fault that a device shows. May be used from any thread; a wait holds up nobody."""

    number: int
    """As `ihsm fault` and the control socket know it."""
    fault: Fault
    """What was added."""

    def __init__(self, socket_path: str, number: int, fault: Fault) -> None:
        """Made by `DeviceFaults.add`."""
        self._socket_path = socket_path
        self.number = number
        self.fault = fault

    def __repr__(self) -> str:
        """As `ihsm fault list` shows it."""
        return f"<fault {self.number}: {to_text(self.fault)}>"

    def wait(self, hits: int = 1, timeout_s: float = DEFAULT_FAULT_WAIT_S) -> int:
        """Wait until it has been hit so often since it was added; how often it has.

        One with the action "never" is waited for so long as `timeout_s` says, and shall not come.

        Args:
            hits: number of hits; those that were there before the call count.
            timeout_s: longest wait, in seconds.

        Raises:
            CommandSeenError: a command came that must never be seen, by this fault or another of the function.
            FaultNotHitError: it was hit less often in that time.
            FaultNotFoundError: it was cleared.
        """
        with ControlClient(self._socket_path) as client:
            return client.wait_fault(self.number, hits, timeout_s)

    @property
    def hits(self) -> int:
        """How often it has been hit.

        Raises:
            FaultNotFoundError: it was cleared.
        """
        return self._standing().hits

    @property
    def left(self) -> int | None:
        """How often it will be hit, None if there is no limit; errors as `hits`."""
        return self._standing().left

    def clear(self) -> None:
        """End it: what it holds up goes on. Harmless if it has ended.

        Raises:
            CommandSeenError: its command must never be seen, and was; it has ended.
        """
        with contextlib.suppress(FaultNotFoundError), ControlClient(self._socket_path) as client:
            client.clear_fault(self.number)

    def _standing(self) -> StandingFault:
        with ControlClient(self._socket_path) as client:
            for entry in client.faults():
                if entry.number == self.number:
                    return entry
        raise FaultNotFoundError(f"{self._socket_path}: there is no fault {self.number}")


class DeviceFaults(Closing):
    """Faults of a device, which end with the block. May be used from any thread.

    The end of the block raises CommandSeenError if a command has come that must never be seen (`add("never", ...)`),
    but not in the place of another exception, which gets a note.

    >>> with DeviceFaults("/tmp/hsm.sock") as faults:
    ...     hit = faults.add("drop-completion", queue=1, nth=2)
    ...     send_two_commands()
    ...     hit.wait()  # the second of them has been carried out, and its completion dropped
    """

    def __init__(self, device: Device) -> None:
        """Nothing is wrong yet.

        Args:
            device: path or URI of a socket that `ihsm serve` made, or what was opened there: an `EmbeddedDevice`, a
                function, a `Controller`, an `Hsm`.

        Raises:
            DeviceNotFoundError: nobody listens there, or it has no control socket.
        """
        self.socket_path = _socket_of(device)
        self._added: list[DeviceFault] = []
        ControlClient(self.socket_path).close()

    def add(self, action: str, /, **values: int | str) -> DeviceFault:
        """Have the device do something wrong from now on; docs/faults.md has all actions with their values.

        Args:
            action: what it does wrong, such as "drop-completion".
            values: which events are meant, when, and how, such as `queue=1, nth=2`; all that fit, if nothing is given.

        Raises:
            ArgumentError: there is no such action, or it has no such value; the message says what there is. Or a device
                can have it from its start alone.
        """
        fault = _fault(f"{_OPERATION}.add", action, values)
        if fault.spec.at_start_only:
            raise ArgumentError(
                f"{_OPERATION}.add", "action", f"{action} is possible from the start alone: faulty_device"
            )
        return self.add_fault(fault)

    def add_fault(self, fault: Fault) -> DeviceFault:
        """The same for a fault that was made before.

        Raises:
            ControlError: the device has too many, or knows none of the kind.
        """
        with ControlClient(self.socket_path) as client:
            added = DeviceFault(self.socket_path, client.add_fault(fault), fault)
        self._added.append(added)
        return added

    def standing(self) -> Sequence[StandingFault]:
        """All faults that the function shows now, those of others and of its start too."""
        with ControlClient(self.socket_path) as client:
            return client.faults()

    def clear(self) -> None:
        """End all faults that were added here; those of others stay.

        Raises:
            CommandSeenError: one was a command that must never be seen, and was; all have ended.
        """
        seen: list[str] = []
        while self._added:
            with contextlib.suppress(DeviceNotFoundError):  # the device has ended, and its faults with it
                try:
                    self._added.pop().clear()
                except CommandSeenError as error:
                    seen.insert(0, str(error))
        if seen:
            raise CommandSeenError("; ".join(seen))

    def close(self) -> None:
        """As `clear`."""
        self.clear()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Clear the faults."""
        try:
            self.clear()
        except CommandSeenError as seen:
            if error is None:
                raise
            error.add_note(str(seen))


@contextlib.contextmanager
def faulty_device(*faults: Mapping[str, int | str], arguments: Sequence[str] = ()) -> Iterator[EmbeddedDevice]:
    """A private device for the block that does something wrong from its start.

    >>> with faulty_device({"action": "wrong-bar-size", "bar": "registers", "size": 8192}) as device:
    ...     ...

    Args:
        faults: of each its action and its values, as `DeviceFaults.add` takes them; those of docs/faults.md that a
            device can have from its start alone, and all others.
        arguments: further options of `ihsm serve`.

    Raises:
        ArgumentError: there is no such action, or it has no such value.
        EmbeddedDeviceError: the device cannot be started.
    """
    operation = "faulty_device"
    made = [
        _fault(operation, str(each.get("action")), {name: each[name] for name in each if name != "action"})
        for each in faults
    ]
    with tempfile.TemporaryDirectory(prefix="ihsm-") as folder:
        file = Path(folder) / "faults.json"
        file.write_text(fault_file.dump(made))
        with EmbeddedDevice(["--faults", os.fspath(file), *arguments]) as device:
            yield device


def _fault(operation: str, action: str, values: Mapping[str, int | str]) -> Fault:
    """The fault of an action and its values; ArgumentError, as of the operation, if there is none like that."""
    given = {name: value.name if isinstance(value, Register) else value for name, value in values.items()}
    try:
        return from_words(action, given)
    except FaultError as error:
        raise ArgumentError(operation, error.field, error.reason) from None


def _socket_of(device: Device) -> str:
    """Path of the socket of the function that a device is reached by."""
    if isinstance(device, Hsm):
        opened = device.connection.link.device
        device = opened if isinstance(opened, Controller) else opened.uri
    if isinstance(device, Controller):
        device = device.function
    if isinstance(device, EmbeddedDevice):
        return os.fspath(device.socket_path)
    text = device.uri if isinstance(device, PciFunction) else device
    if isinstance(text, str) and text.startswith(tuple(f"{scheme}:" for scheme in Scheme)):
        uri = DeviceUri.parse(text)
        if uri.scheme != Scheme.VFIO_USER:
            raise DeviceNotFoundError(f"{uri} has no control socket, so that it can have no faults")
        return uri.address
    if isinstance(text, str | os.PathLike):
        return os.fspath(text)
    raise ArgumentTypeError(_OPERATION, "device", f"{type(device).__name__}, must be a device")
