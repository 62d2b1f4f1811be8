# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""The queue engine: rings, doorbells, guest memory and interrupt vectors of a PCI function, in C (native/engine.h).

Admin and HSM commands are pulled by Python threads and completed by Python; AES commands never enter Python. Every
call releases the interpreter lock while it is in C.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable, Iterator
from typing import Final, Protocol

from ihsm_abi.pci import BAR_BYTES
from ihsm_abi.resources import FIRST_AES_QUEUE_ID, FIRST_HSM_QUEUE_ID
from ihsm_device import _native
from ihsm_device._native import ffi, lib
from ihsm_device.commands import Command, Outcome
from ihsm_device.hosts import Host
from ihsm_device.lifetimes import free_with
from ihsm_device.queues import QueueState
from ihsm_device.scheduler import Scheduler

DELETE_TIMEOUT_S: Final = 20.0
"""How long a deleted HSM queue waits for its fetched commands by default; a driver waits 30 s (spec 01 §6)."""
_NO_VECTOR: Final = -1


class NoPointerError(Exception):
    """Guest memory that the client did not share: QEMU without `share=on` for its memory backend."""


class QueueError(Exception):
    """A queue that exists already, does not exist, or is still in use."""


class KeyTable(Protocol):
    """Keys of the fast path, in the key store."""

    @property
    def native(self) -> _native.Pointer[_native.ks_bulk_table]:
        """What C knows the table by."""


class PublishedTable(Protocol):
    """What the express lane may see of the security module."""

    @property
    def native(self) -> _native.Pointer[_native.ihsm_published]:
        """What C knows it by."""


class Engine:
    """The queues of one function."""

    def __init__(
        self, scheduler: Scheduler, host: Host, *, inline_aes: bool = True, doorbell_page: bool = False
    ) -> None:
        """Rings in `host`'s memory, served by `scheduler`.

        With `inline_aes` the thread that carries a doorbell does short AES work itself instead of waking a worker.
        With `doorbell_page` doorbells come through a page of shared memory (`page_fd`) that the scheduler's poller
        watches; doorbells that arrive as accesses are stored into it.
        With a `VfuHost` this must come before the context is realised, because it sets up BAR2 and BAR4.
        """
        self._scheduler = scheduler
        self._host = host
        self._number = scheduler.register(self)
        with contextlib.ExitStack() as undone:
            undone.callback(scheduler.forget, self._number)
            self.handle = lib.ihsm_engine_new(scheduler.handle, host.handle, self._number, inline_aes)
            if self.handle == ffi.NULL:
                raise MemoryError
            self._used: list[PublishedTable] = []
            free_with(self, _release, self.handle, scheduler, host, self._used)
            undone.callback(lib.ihsm_engine_close, self.handle)
            self.hold: Callable[[int, Command], None] = lambda fault_id, command: None
            """Takes each admin and HSM command that a fault holds, to be carried out when the fault ends."""
            self.page_fd: int | None = self._share_page() if doorbell_page else None
            """The doorbell page as a file of 4096 bytes that cannot change its size; None without one."""
            host.attach(self)
            undone.pop_all()

    def _share_page(self) -> int:
        _check(lib.ihsm_engine_use_page(self.handle), 0)
        return int(lib.ihsm_engine_page_fd(self.handle))

    @property
    def host(self) -> Host:
        """Whose memory and vectors these are."""
        return self._host

    @property
    def kick_fd(self) -> int:
        """Eventfd that wakes the poller of doorbell pages (`ihsm_abi.doorbells.POLLER_ASLEEP_OFFSET`)."""
        return int(lib.ihsm_engine_kick_fd(self.handle))

    def enable_admin(self, asq: int, acq: int, sq_entries: int, cq_entries: int) -> None:
        """Start the admin rings at guest addresses `asq` and `acq`; nothing is read before the first doorbell.

        Raises:
            NoPointerError: a ring lies in memory that the client gave no pointer to.
            QueueError: the admin rings exist.
        """
        result = lib.ihsm_engine_enable_admin(self.handle, asq, acq, sq_entries, cq_entries)
        if result == -errno.EFAULT:
            raise NoPointerError(
                f"admin rings at {asq:#x} and {acq:#x} lie in memory that is not shared with the device: "
                "give QEMU's memory backend share=on"
            )
        _check(result, 0)

    def set_keys(self, table: KeyTable, *, fips: bool = False, device_iv: bool = False) -> None:
        """Give the AES queues their keys; before the first of them is created, and `table` must outlive them.

        `fips` is the service indicator's FIPS state; with `device_iv` approved GCM encryption uses an IV of the
        device's own instead of the caller's (spec 02 E.3).

        Raises:
            QueueError: an AES queue exists.
        """
        _check(lib.ihsm_engine_set_keys(self.handle, table.native, fips, device_iv), FIRST_AES_QUEUE_ID)

    def set_express(self, published: PublishedTable) -> None:
        """Let the express lane answer commands by what is published; before the first HSM queue is created.

        Raises:
            QueueError: an HSM queue exists.
        """
        _check(lib.ihsm_engine_set_express(self.handle, published.native), FIRST_HSM_QUEUE_ID)
        self._used.append(published)

    def put_slow(self, command: Command) -> bool:
        """Leave an HSM command to the threads of `Scheduler.pull_slow`; False: too many of this engine wait there."""
        kept = ffi.new("struct ihsm_command *")
        kept.engine_id, kept.generation = self._number, command.generation
        kept.queue_id, kept.cid = command.queue_id, command.cid
        kept.request_len = len(command.request)
        ffi.memmove(kept.sqe, command.sqe, len(command.sqe))
        ffi.memmove(kept.request, command.request, len(command.request))
        return bool(lib.ihsm_put_slow(self.handle, kept))

    def create_cq(self, queue_id: int, base: int, entries: int, vector: int | None) -> None:
        """Start a completion queue of 2 to 65536 entries; None as vector: no interrupts.

        Raises:
            QueueError: it exists.
            ValueError: no such queue can exist, or a number is out of range.
        """
        number = _NO_VECTOR if vector is None else vector
        _check(lib.ihsm_engine_create_cq(self.handle, queue_id, base, entries, number), queue_id)

    def create_sq(self, queue_id: int, base: int, entries: int, cqid: int) -> None:
        """Start a submission queue; its completions go to the CQ of the same id, `cqid` must only exist (01 §14.2).

        Raises:
            QueueError: it exists, or a CQ is missing.
            ValueError: no such queue can exist, or a number is out of range.
        """
        _check(lib.ihsm_engine_create_sq(self.handle, queue_id, base, entries, cqid), queue_id)

    def cq_exists(self, queue_id: int) -> bool:
        """True if the completion queue exists."""
        return bool(lib.ihsm_engine_cq_exists(self.handle, queue_id))

    def sq_exists(self, queue_id: int) -> bool:
        """True if the submission queue exists."""
        return bool(lib.ihsm_engine_sq_exists(self.handle, queue_id))

    def queue(self, queue_id: int) -> QueueState | None:
        """State of a queue pair, None if it has neither SQ nor CQ."""
        state = ffi.new("struct ihsm_queue *")
        if lib.ihsm_engine_queue(self.handle, queue_id, state) < 0 or not (state.sq_live or state.cq_live):
            return None
        return QueueState(
            queue_id,
            bool(state.sq_live),
            bool(state.cq_live),
            bool(state.stopped),
            None if state.vector == _NO_VECTOR else int(state.vector),
            *(int(value) for value in (state.sq_entries, state.sq_head, state.sq_tail)),
            *(int(value) for value in (state.cq_entries, state.cq_head, state.cq_tail)),
        )

    def delete_sq(self, queue_id: int, timeout_s: float = DELETE_TIMEOUT_S) -> bool:
        """End a submission queue (spec 01 §14.4); afterwards no further CQE of it is posted.

        HSM queue: commands already read run to their end and post; after `timeout_s` those still open are cancelled.
        AES queue: commands read and not yet carried out get status 7. Everything not read is dropped.

        Returns:
            False if the queue went otherwise meanwhile (the function was disabled).

        Raises:
            QueueError: it does not exist, or is being deleted.
        """
        result = lib.ihsm_engine_delete_sq(self.handle, queue_id, int(timeout_s * 1e6))
        if result == -errno.ESTALE:
            return False
        _check(result, queue_id)
        return True

    def delete_cq(self, queue_id: int) -> None:
        """End a completion queue; an interrupt it asked for that nobody else wants is dropped.

        Raises:
            QueueError: it does not exist, or its submission queue does.
        """
        _check(lib.ihsm_engine_delete_cq(self.handle, queue_id), queue_id)

    def disable(self) -> None:
        """Drop all queues and cancel their commands: no DMA, no completion and no interrupt follows the return."""
        lib.ihsm_engine_disable(self.handle)

    def reset(self) -> None:
        """`disable`, and MSI-X table and masks go back to their reset values."""
        lib.ihsm_engine_reset(self.handle)

    def complete_admin(self, command: Command, dw0: int = 0, status: int = 0, data: bytes | None = None) -> Outcome:
        """Complete an admin command with a 15-bit `status`; `data` goes to the command's PRP1 first."""
        command.require_open()
        return command.settle(
            lib.ihsm_engine_complete_admin(
                self.handle,
                command.queue_id,
                command.generation,
                command.sqe,
                dw0,
                status,
                data if data is not None else ffi.NULL,
                len(data) if data is not None else 0,
            )
        )

    def complete_hsm(
        self,
        command: Command,
        message: bytes,
        *,
        byte_count: int | None = None,
        flags: int = 0,
        session_id: int = 0,
        short_app_id: int = 0,
        sc: int = 0,
    ) -> Outcome:
        """Complete an HSM command (spec 02 B.3): message to the destination, then the CQE, then the interrupt.

        At most `dst_len` bytes are written; `byte_count` (the message's length if None) is reported as it is.
        """
        command.require_open()
        return command.settle(
            lib.ihsm_engine_complete_hsm(
                self.handle,
                command.queue_id,
                command.generation,
                command.sqe,
                command.request,
                message,
                len(message),
                len(message) if byte_count is None else byte_count,
                flags,
                session_id,
                short_app_id,
                sc,
            )
        )

    def refuse(self, taken: _native.Pointer[_native.ihsm_command]) -> None:
        """Answer, with status internal error, a command that was taken from a ring and got no further."""
        lib.ihsm_engine_refuse(self.handle, taken)

    @contextlib.contextmanager
    def function_mutex(self) -> Iterator[None]:
        """What keeps the owner thread from register accesses and resets, for who does such things in its place."""
        lib.ihsm_engine_lock_function(self.handle)
        try:
            yield
        finally:
            lib.ihsm_engine_unlock_function(self.handle)

    def doorbell(self, offset: int, value: int) -> None:
        """A 32-bit write to BAR2; values and queues that make no sense are ignored and counted (spec 01 §3)."""
        lib.ihsm_engine_doorbell(self.handle, offset, value)

    def read_msix(self, offset: int, size: int) -> bytes:
        """Read BAR4: MSI-X table at 0, pending bits at 0x800, zeros elsewhere."""
        _check_bar_access(offset, size)
        data = ffi.new("uint8_t[]", size)
        lib.ihsm_host_msix_read(self._host.handle, offset, data, size)
        return bytes(ffi.buffer(data))

    def write_msix(self, offset: int, data: bytes) -> None:
        """Write BAR4; only aligned accesses of 4 or 8 bytes to the table have an effect."""
        _check_bar_access(offset, len(data))
        lib.ihsm_host_msix_write(self._host.handle, offset, data, len(data))

    def set_function_mask(self, masked: bool) -> None:
        """Mask all vectors, as bit 14 of the MSI-X capability's message control does."""
        lib.ihsm_host_set_function_mask(self._host.handle, masked)

    def set_removed(self, removed: bool) -> None:
        """The function is gone for its client, or there again; what its configuration space held is forgotten."""
        lib.ihsm_host_set_removed(self._host.handle, removed)

    @property
    def admin_stopped(self) -> bool:
        """True once an admin entry could not be read or an admin completion not be written: CSTS.CFS."""
        return bool(lib.ihsm_engine_admin_stopped(self.handle))

    def counters(self) -> dict[str, int]:
        """What happened since the engine was made, by name."""
        counters = ffi.new("struct ihsm_counters *")
        lib.ihsm_engine_counters(self.handle, counters)
        return {name: int(getattr(counters, name)) for name, _ in ffi.typeof("struct ihsm_counters").fields}

    def close(self) -> None:
        """Drop all queues and free. No other method may run or be called from now on, but commands may linger."""
        self._scheduler.forget(self._number)
        self._host.detach()
        lib.ihsm_engine_close(self.handle)


def _release(
    handle: _native.Pointer[_native.ihsm_engine], scheduler: Scheduler, host: Host, used: list[PublishedTable]
) -> None:
    """Free an engine; what it uses is an argument so that it outlives the engine."""
    lib.ihsm_engine_free(handle)


def _check(result: int, number: int) -> None:
    """Raise the exception that fits a negative errno."""
    match -result:
        case 0:
            return
        case errno.EINVAL:
            raise ValueError(f"{number:#x}: no such queue or vector can exist")
        case errno.EEXIST:
            raise QueueError(f"{number:#x} exists already")
        case errno.ENOENT:
            raise QueueError(f"{number:#x} does not exist, or the CQ it needs does not")
        case errno.EBUSY:
            raise QueueError(f"{number:#x} is still in use")
        case code:
            raise OSError(code, os.strerror(code))


def _check_bar_access(offset: int, size: int) -> None:
    if offset < 0 or size < 0 or offset + size > BAR_BYTES:
        raise ValueError(f"access to {size} bytes at {offset:#x} leaves the BAR of {BAR_BYTES} bytes")
