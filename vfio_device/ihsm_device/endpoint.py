# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""A function on a vfio-user socket: its context in the library, and the thread that owns that context."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from ihsm_abi import logs
from ihsm_abi.fault_actions import FaultAction
from ihsm_abi.faults import Fault
from ihsm_abi.pci import (
    BAR_BYTES,
    CLASS_CODE,
    DEVICE_ID,
    MSIX_VECTORS,
    REVISION_ID,
    SUBSYSTEM_ID,
    SUBSYSTEM_VENDOR_ID,
    VENDOR_ID,
    Bar,
)
from ihsm_abi.pci_config import COMMAND_OFFSET, CommandRegister
from ihsm_device import pci, vfu
from ihsm_device.client_memory import ClientMemory
from ihsm_device.doe import Mailbox, Mailboxes, Objects
from ihsm_device.engine import Engine
from ihsm_device.function import Function, Module
from ihsm_device.hosts import VfuHost
from ihsm_device.limits import Limits
from ihsm_device.sandbox.lookout import ReadMaps, read_maps
from ihsm_device.scheduler import Scheduler
from ihsm_device.socket_paths import OF_ANY_USER, Clients, SocketFile, claimed
from ihsm_device.tdi import DeviceInterface

_log = logging.getLogger(__name__)

JOIN_TIMEOUT_S: Final = 5.0
"""How long `stop` waits for the owner thread, which a client that stops in the middle of a message may hold."""
RETRY_DELAY_S: Final = 0.1
"""Pause after an error of the owner thread itself, so that a lasting one does not fill the log."""


def _wrong_sizes(faults: Sequence[Fault]) -> dict[Bar, int]:
    """Sizes of BARs in bytes, where faults have others than there are."""
    return {
        Bar[str(fault.parameters["bar"]).upper()]: int(fault.parameters["size"])
        for fault in faults
        if fault.action is FaultAction.WRONG_BAR_SIZE
    }


def _vectors(faults: Sequence[Fault]) -> int:
    """How many vectors clients are told of."""
    wrong = (int(fault.parameters["vectors"]) for fault in faults if fault.action is FaultAction.WRONG_VECTORS)
    return next(wrong, MSIX_VECTORS)


class Endpoint:
    """One function that clients reach at a socket path, one client at a time."""

    def __init__(
        self,
        scheduler: Scheduler,
        module: Module,
        path: Path,
        mailboxes: Mailboxes,
        *,
        objects: Objects,
        interface: DeviceInterface,
        index: int = 0,
        resources: int = 1,
        doorbell_page: bool = False,
        faults: Sequence[Fault] = (),
        clients: Clients = OF_ANY_USER,
        read_maps: ReadMaps = read_maps,
        limits: Limits | None = None,
    ) -> None:
        """Listens at `path` from now on, serves `clients` from `start` on; `doorbell_page`: BAR2 can be mapped.

        `objects` answers what comes into its mailbox, which is one of `mailboxes`; those are closed after it. They act
        on its `interface` of trusted I/O.
        `faults` are what the function is told to do wrong from the start, `read_maps` gives mappings of clients.
        A client may have what `limits` says; None: what the only function of a process may have.

        Raises:
            OSError, MemoryError: the system gives no more descriptors or memory; nothing is left behind.
            SocketPathTooLong, SocketPathTaken, SocketPathUnusable: as `socket_paths.claimed` says.
        """
        self.path = path
        with contextlib.ExitStack() as undone:
            with claimed(path, clients.mode):
                self._context = vfu.Context(
                    os.fspath(path), log=self._library_log, uids=clients.uids, limits=limits or Limits.of(1)
                )
                undone.callback(self._context.close)
                self._file = SocketFile.at(path)
            undone.callback(self._file.remove)
            undone.callback(self._context.close)  # before: removing needs a descriptor for its lock
            self._stop_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
            undone.callback(os.close, self._stop_fd)
            self._memory = ClientMemory(read_maps)
            self._set_up(scheduler, module, index, resources, doorbell_page, faults, undone)
            self._add_trust(mailboxes.add(index, objects), interface)
            self._context.realize()
            undone.pop_all()
        self._stopping = threading.Event()
        self._disconnected = False
        self._removed = False
        self._owner = threading.Thread(target=self._own, name=f"function-{index}", daemon=True)

    def _set_up(
        self,
        scheduler: Scheduler,
        module: Module,
        index: int,
        resources: int,
        doorbell_page: bool,
        faults: Sequence[Fault],
        undone: contextlib.ExitStack,
    ) -> None:
        self._context.set_ids(VENDOR_ID, DEVICE_ID, SUBSYSTEM_VENDOR_ID, SUBSYSTEM_ID)
        self._context.set_class(CLASS_CODE, REVISION_ID)
        sizes, vectors = _wrong_sizes(faults), _vectors(faults)
        for block in pci.capabilities(module.serial, vectors):
            self._context.add_capability(block.data, block.position, extended=block.extended)
        self.engine = Engine(scheduler, VfuHost(self._context, sizes), doorbell_page=doorbell_page)
        undone.callback(self.engine.close)
        self.function = Function(
            self.engine,
            module,
            index=index,
            resources=resources,
            bus_master=self._is_bus_master,
            private_memory=self._private_memory,
            faults=faults,
        )
        undone.callback(self.function.faults.close)
        controller = self.function.controller
        if register_bytes := sizes.get(Bar.REGISTERS, BAR_BYTES):
            self._context.region(Bar.REGISTERS, register_bytes, read=controller.read, write=controller.write)
        self._context.irqs(vectors)
        self._context.on_reset(self._reset)
        self._context.on_dma(self._mapped, self._memory.unmapped)

    def _add_trust(self, mailbox: Mailbox, interface: DeviceInterface) -> None:
        for block in (pci.mailbox(), pci.ide()):
            self._context.place_capability(block.data, block.position)
        self._context.mailbox(mailbox.handle, pci.MAILBOX_POSITION)
        self._context.interface(interface.handle, pci.IDE_POSITION, self._interface_failed)
        self._interface = interface
        interface.stop_function = self._stop_function

    def _stop_function(self) -> None:
        with self.engine.function_mutex():
            self.function.controller.stop_interface()

    def _interface_failed(self) -> None:
        _log.warning("%s: configuration has changed under a locked interface, which is in the state ERROR", self.path)
        self.function.controller.stop_interface()

    @property
    def client(self) -> dict[str, Any] | None:
        """The process that has the function, as the control socket shows it; None without one."""
        client = self._context.client
        return None if client is None else client.record()

    def usage(self) -> dict[str, int]:
        """What the client has of what `limits` limits."""
        return self._context.usage()

    def start(self) -> None:
        """Serve clients."""
        self._owner.start()

    def disconnect(self) -> None:
        """Disconnect the client, stop serving and remove the socket; an endpoint that was not started too.

        What waits for commands, such as DELETE_SQ for those that a fault holds, waits no longer.
        """
        self._stopping.set()
        os.eventfd_write(self._stop_fd, 1)
        if self._owner.ident is not None:
            self._owner.join(JOIN_TIMEOUT_S)
        self._removed = self._file.remove()
        if self._owner.is_alive():
            _log.warning("the thread of %s did not end within %.0f s", self.path, JOIN_TIMEOUT_S)
            return
        self.function.controller.client_lost()
        self._disconnected = True

    def close(self) -> bool:
        """Free the engine of an endpoint that is disconnected, when no thread executes commands any more.

        False if the owner thread is held up by its client: then the engine stays open, for the process to end with.
        """
        if not self._disconnected:
            return False
        self.function.faults.close()
        self._context.on_reset(lambda kind: None)
        self.engine.close()
        self._context.close()
        os.close(self._stop_fd)
        if not self._removed:
            self._file.remove()  # there are descriptors again for its lock
        return True

    def _own(self) -> None:
        """Attach client after client; nothing a client does ends this thread."""
        logs.concern(self.function.index)
        while not self._stopping.is_set():
            try:
                if self._context.attach(self._stop_fd):
                    _log.info("client attached to %s", self.path)
                    pid = self._client_came()
                    self._context.run(self._stop_fd)
                    self.function.trace.client_gone(pid)
                    _log.info("client of %s gone", self.path)
            except OSError as error:
                # of this process or of the system, such as too many open files: the next attempt may do
                _log.error("serving %s failed: %s", self.path, error.strerror or error)
                self._stopping.wait(RETRY_DELAY_S)
            except Exception:
                logs.failure(_log, "serving %s failed", self.path)
                self._stopping.wait(RETRY_DELAY_S)

    def _client_came(self) -> int:
        """Record it; its process id, 0 if that is not known."""
        client = self._context.client
        pid = (client.pid if client else None) or 0
        self.function.trace.client_came(pid, (client.name if client else None) or "")
        return pid

    def _reset(self, kind: vfu.ResetType) -> None:
        _log.info("%s: %s", self.path, kind.name)
        if kind is vfu.ResetType.LOST_CONNECTION:
            self.function.controller.client_lost()
        else:
            self.function.controller.reset()

    def _mapped(self, region: vfu.DmaRegion) -> None:
        if self._memory.mapped(region):
            self.function.controller.memory_plugged_in()

    def _is_bus_master(self) -> bool:
        low = self._context.config_space[COMMAND_OFFSET : COMMAND_OFFSET + 2]
        return bool(CommandRegister(int.from_bytes(low, "little")).bus_master)

    def _private_memory(self) -> int | None:
        client = self._context.client
        return self._memory.private_address(client.connection if client else None)

    @staticmethod
    def _library_log(level: int, text: str) -> None:
        logging.getLogger("libvfio-user").log(level, "%s", text)
