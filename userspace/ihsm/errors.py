# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Exceptions of the user side, all derived from `IhsmError`; the CLI turns each into one line and an exit code."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import ClassVar, Final


class IhsmError(Exception):
    """Base of everything this package raises on purpose."""

    exit_code: ClassVar[int] = 1
    """Exit status of the `ihsm` command that fails with this error."""


class WrongArgumentError(IhsmError):
    """Base of what is wrong with an argument of a call; nothing was done."""

    exit_code = 2

    def __init__(self, operation: str, argument: str, problem: str) -> None:
        """The message is `operation: argument: problem`."""
        super().__init__(f"{operation}: {argument}: {problem}")
        self.operation = operation
        self.argument = argument


class ArgumentError(WrongArgumentError, ValueError):
    """An argument of a call has a value that it cannot have; nothing was done."""


class ArgumentTypeError(WrongArgumentError, TypeError):
    """An argument of a call is of a type that it cannot be; nothing was done."""


class UriError(IhsmError, ValueError):
    """A device URI that cannot be parsed."""

    exit_code = 2


class ForkedError(IhsmError, RuntimeError):
    """A child of fork() used what its parent has of a device; the device saw nothing of it."""

    def __init__(self, operation: str) -> None:
        """`operation` names what was refused."""
        super().__init__(f"{operation}: refused in a child of fork(), the device is its parent's: open the device anew")
        self.operation = operation

    def __reduce__(self) -> tuple[type[ForkedError], tuple[str]]:
        """A pool of processes pickles what its children raise."""
        return type(self), (self.operation,)


class OutputError(IhsmError, OSError):
    """Standard output or a file for results cannot be written."""

    exit_code = 2


class DeviceNotFoundError(IhsmError, FileNotFoundError):
    """No device at the given address, or nothing there that answers."""

    exit_code = 3


class DeviceForbiddenError(DeviceNotFoundError, PermissionError):
    """A device that serves other users and not this one; `ihsm serve --allow-uid` names who else may use it."""


class AmbiguousDeviceError(IhsmError, LookupError):
    """`auto` was asked for and there are several devices."""

    exit_code = 3

    def __init__(self, uris: Sequence[str]) -> None:
        """Name the candidates."""
        super().__init__(f"{len(uris)} devices found, name one with --device: {', '.join(uris)}")
        self.uris = tuple(uris)


class UnknownDeviceError(IhsmError):
    """A device that the store does not know, which nothing was done to; `ihsm init --device URI` provisions it."""

    exit_code = 3


class EmbeddedDeviceError(IhsmError, OSError):
    """The private device could not be started."""

    exit_code = 3


PROTOCOL: Final = "protocol"
"""`ControlError.code` of an answer that is none, or of no answer."""


class ControlError(IhsmError):
    """A control socket refused a request or did not answer as its protocol demands."""

    exit_code = 4

    def __init__(self, code: str, message: str) -> None:
        """`code` is one of `ihsm_abi.control.ControlErrorCode`, or PROTOCOL.

        That is our word and not the server's, so the text of the error does without it.
        """
        super().__init__(message if code == PROTOCOL else f"{code}: {message}")
        self.code = code
        self.message = message


class FaultNotFoundError(IhsmError, LookupError):
    """The device has no fault of this number (any more): it was cleared, or another server has begun."""


class TraceError(IhsmError, ValueError):
    """A file or stream that is no trace, or a record that cannot be."""


class TraceCutError(TraceError):
    """A trace that ends in the middle of a record; what is before it is whole."""


class ReplayError(IhsmError):
    """A recording that cannot be played, or a device that answers what nobody has asked."""


class ReplayTimeoutError(ReplayError, TimeoutError):
    """The device does not answer a recorded command, or does not become ready, in time."""


class FaultNotHitError(IhsmError, TimeoutError):
    """A fault was not hit so often within the time that was given."""

    exit_code = 124


class CommandSeenError(IhsmError, AssertionError):
    """A device has seen a command that it must never see, as someone has told it with the fault `never`."""


class BusError(IhsmError):
    """A PCI function could not be reached or did not behave as one."""

    exit_code = 4


HOW_TO_WAIT: Final = "to wait for it: --wait SECONDS, or wait_s"
"""The end of a line that says who has a device."""


class DeviceBusyError(BusError, BlockingIOError):
    """Another client has the function; the message says who, and since when."""


class AccessError(BusError, ValueError):
    """An access that a region does not have, or a value that does not fit it."""


class ConnectionLostError(BusError, ConnectionError):
    """The other end is gone; the function object cannot be used any more."""


class ProtocolError(BusError, ValueError):
    """An answer that the protocol does not admit; the message names the field, the value and the limit."""


class BusTimeoutError(BusError, TimeoutError):
    """No answer within the time limit."""


class ConfigRefusedError(BusError, PermissionError):
    """The kernel lets nobody, or not this user, read and write all of a function's configuration space."""


class MailboxNotFoundError(BusError, LookupError):
    """A function shows no mailbox for data objects (DOE); the message says who may hide it."""


class MailboxError(BusError):
    """A mailbox set its error bit instead of giving an answer; it has been aborted and can be used again."""


class MailboxBusyError(MailboxError):
    """A mailbox takes no object now: somebody else uses it, or the device does something that excludes it."""


class RequestRefusedError(BusError, OSError):
    """The other end refused a well-formed request; `errno` says why."""

    def __init__(self, what: str, errno: int) -> None:
        """`what` names the request."""
        super().__init__(f"{what}: {os.strerror(errno)} (errno {errno})")
        self.errno = errno


class InterruptsUnavailableError(BusError):
    """The function's interrupts cannot be had on this machine; completions can be polled instead."""

    def __init__(self, uri: str, reason: str) -> None:
        """The message says how to poll."""
        super().__init__(f"{uri}: {reason}; poll instead: --poll, or DriverOptions(interrupts=False)")


class BindError(BusError):
    """A function could not be bound to vfio-pci, or its IOMMU group cannot be used."""


class ResourceError(IhsmError, OSError):
    """The machine has no descriptors, threads or memory left for this; `errno` says which."""

    def __init__(self, what: str, errno: int) -> None:
        """`what` names what was asked for and why there is none."""
        super().__init__(what)
        self.errno = errno


class ArenaError(IhsmError):
    """DMA memory is exhausted or was used wrongly."""


class ArenaFullError(ArenaError, MemoryError):
    """There is no DMA memory, no I/O address or no locked memory left."""


class ArenaRequestError(ArenaError, ArgumentError):
    """DMA memory of a size or alignment that there is not."""


class SessionClosedError(IhsmError, ValueError):
    """A session, or what AES commands have of it, was used after its end."""

    exit_code = 6


class KeysLostError(IhsmError):
    """What the device held is gone and cannot be brought back."""

    exit_code = 6


class StoreError(IhsmError):
    """Base of what a store refuses; the store is as it was."""

    exit_code = 7


class StoreNotFoundError(StoreError, FileNotFoundError):
    """No store of this name; `ihsm init` makes one."""


class StoreExistsError(StoreError, FileExistsError):
    """There is a store of this name, which is not replaced."""


class StoreDamagedError(StoreError, ValueError):
    """A file of the store is not what was written; the message names the file and the field."""


class StorePermissionError(StoreError, PermissionError):
    """Others can get at the store, or it is not ours; the message names the path and what mends it."""


class WrongPinError(StoreError, ValueError):
    """The PIN does not open the store; no device was touched."""


class PinRequiredError(StoreError, ValueError):
    """The store has a PIN and none was given; no device was touched."""


class StoreBusyError(StoreError, BlockingIOError):
    """Another program has what is asked for, such as the store's private device."""


class KeyNotFoundError(StoreError, KeyError):
    """The store has no key of this label, or not this version of it."""

    def __str__(self) -> str:
        """The message; a KeyError would quote it."""
        return Exception.__str__(self)


class KeyExistsError(StoreError, ValueError):
    """The store has a key of this label, which is not replaced."""


class DriverError(IhsmError):
    """The controller does not behave as the driver needs it."""

    exit_code = 5


class UnsupportedDeviceError(DriverError):
    """Identity, BARs, interrupts or entry sizes are not those of an integrated HSM."""


class ControllerTimeoutError(DriverError, TimeoutError):
    """CSTS.RDY did not reach its target within (CAP.TO + 1) x 500 ms."""


class ControllerFatalError(DriverError):
    """CSTS.CFS is set."""


class DeviceGoneError(DriverError):
    """Registers read all ones: the device has disappeared."""


class ControllerLostError(DriverError):
    """Somebody else reset or disabled the controller: this driver's queues are gone. `Controller.reset` helps."""


class ControllerNotReadyError(DriverError):
    """The kernel's driver takes no commands now: it recovers the controller, or could not."""


class QueueClosedError(DriverError):
    """The queue was deleted, reset or closed while commands were outstanding, or before this one."""


class CommandTimeoutError(DriverError, TimeoutError):
    """A command was not completed, or found no room in a full ring, within its time limit."""


class QueueProtocolError(DriverError):
    """A completion that cannot be: unknown command id, SQ head out of range."""


class AdminCommandError(DriverError):
    """An admin command completed with a status other than 0."""

    def __init__(self, command: str, status: int, name: str) -> None:
        """`status` holds bits 15:1 of the completion's last word."""
        super().__init__(f"{command}: status {status:#06x} ({name})")
        self.status = status


class HsmCommandError(DriverError):
    """An HSM command completed with `sc` other than 0, so that there is no DDI response (spec 02 B.7)."""

    def __init__(self, sc: int, name: str, reply: object) -> None:
        """`reply` is the `ihsm.driver.HsmReply`."""
        super().__init__(f"HSM command: status {sc:#04x} ({name})")
        self.sc = sc
        self.reply = reply


class AesCommandError(DriverError):
    """An AES command completed with `sts` or `err` other than 0 (spec 02 E.2-E.4)."""

    def __init__(self, sts: int, err: int, name: str) -> None:
        """`name` is a reading of the pair."""
        super().__init__(f"AES command: {name} (sts {sts:#x}, err {err:#x})")
        self.sts = sts
        self.err = err


class AuthenticationFailedError(AesCommandError):
    """The tag of an AES-GCM decryption does not match: 3/9 or 2/0x2A. The destination must not be used."""
