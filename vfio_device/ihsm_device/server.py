# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""The device process: several functions, their sockets and control sockets, one set of worker threads."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from ihsm_abi.control import SCHEMA_VERSION, SUFFIX, ControlCommand
from ihsm_abi.faults import Fault
from ihsm_abi.sockets import numbered_path
from ihsm_device.commands import Command, CommandSource
from ihsm_device.control_socket import ControlServer, Door, Handler
from ihsm_device.doe import Mailboxes, NoObjects, Objects
from ihsm_device.endpoint import Endpoint
from ihsm_device.fault_commands import FaultCommands
from ihsm_device.function import Function, Module
from ihsm_device.limits import Limits
from ihsm_device.sandbox import Confinement
from ihsm_device.scheduler import Scheduler
from ihsm_device.socket_paths import OF_ANY_USER, Clients, SocketFile, default_paths, listen
from ihsm_device.tdi import DeviceInterface
from ihsm_device.trace_commands import TraceCommands
from ihsm_device.unreachable_log import UnreachableLog
from ihsm_device.workers import WorkerPool

_log = logging.getLogger(__name__)

THREAD_SWITCH_INTERVAL_S: Final = 1e-4
"""With Python's 5 ms one busy thread delays the wake-ups of all others by more than that."""
DEFAULT_SPIN_US: Final = 50.0
MAX_AES_THREADS: Final = 8


@contextlib.contextmanager
def chosen_paths(first: Path | None, count: int) -> Iterator[list[Path]]:
    """Socket paths of `count` functions: PATH, PATH.1, ..., or the first free numbers of the default folder.

    Those of the default folder are offered to nobody else before the end of the block.

    Raises:
        DeviceError: the default folder cannot be used.
    """
    if first is not None:
        yield [numbered_path(first, number) for number in range(count)]
        return
    with default_paths(count) as paths:
        yield paths


def tune_process() -> None:
    """Settings of the whole process: short thread switches."""
    sys.setswitchinterval(THREAD_SWITCH_INTERVAL_S)


class Server:
    """Functions that nothing connects but the process and its worker threads."""

    def __init__(
        self,
        paths: Sequence[Path],
        make_module: Callable[[int], Module],
        *,
        make_objects: Callable[[int, DeviceInterface], Objects] = lambda index, interface: NoObjects(),
        resources: int = 1,
        doorbell_page: bool = False,
        spin_us: float = DEFAULT_SPIN_US,
        hsm_threads: int | None = None,
        faults: Sequence[Fault] = (),
        clients: Clients = OF_ANY_USER,
        confinement: Confinement | None = None,
        lost_lines: Callable[[], int] = lambda: 0,
    ) -> None:
        """One function per path; `make_module` makes the security module of function n.

        `make_objects` makes what answers the data objects of its mailbox, and acts on its interface of trusted I/O.
        With `doorbell_page` clients may map BAR2, and one thread watches those pages: it stays awake for `spin_us`
        microseconds after the last work (`math.inf`: always), then sleeps for short times. `hsm_threads` execute quick
        HSM commands, None: as many as suit the processors. `faults` are what each function is told to do wrong from
        the start, `clients` who may use them. `confinement` knows who reads mappings of clients; it and `lost_lines` of
        the log are shown in the status.

        Raises:
            DeviceError: a socket path cannot be used; nothing is left behind.
            OSError, MemoryError: the system gives no more descriptors or memory; the same.
        """
        self._scheduler = Scheduler(aes_workers=min(MAX_AES_THREADS, os.cpu_count() or 1), spin_us=spin_us)
        self._doorbell_page = doorbell_page
        self._faults = tuple(faults)
        self._clients = clients
        self._confinement = confinement or Confinement()
        self._lost_lines = lost_lines
        self._endpoints: list[Endpoint] = []
        self._limits = Limits.of(max(1, len(paths)))
        self._mailboxes: list[Mailboxes] = []
        self._control = ControlServer(clients.uids, self._limits)
        self._control_files: list[SocketFile] = []
        try:
            for index, path in enumerate(paths):
                interface = DeviceInterface()
                self._add(path, make_module(index), make_objects(index, interface), interface, index, resources)
        except BaseException:
            self._control.stop()
            self._disconnect()
            self._close()
            raise
        self._by_engine = {id(endpoint.engine): endpoint.function for endpoint in self._endpoints}
        self._unreachable = UnreachableLog(self._scheduler, self._index_of)
        express = any(endpoint.function.module.express is not None for endpoint in self._endpoints)
        self._pool = WorkerPool(
            self._scheduler, self._find, functions=len(paths), express=express, fast_threads=hsm_threads
        )

    def _add(
        self, path: Path, module: Module, objects: Objects, interface: DeviceInterface, index: int, resources: int
    ) -> None:
        mailboxes = Mailboxes()
        self._mailboxes.append(mailboxes)
        endpoint = Endpoint(
            self._scheduler,
            module,
            path,
            mailboxes,
            objects=objects,
            interface=interface,
            index=index,
            resources=resources,
            doorbell_page=self._doorbell_page,
            faults=self._faults,
            clients=self._clients,
            read_maps=self._confinement.maps_reader(index),
            limits=self._limits,
        )
        self._endpoints.append(endpoint)
        control_path = path.with_name(path.name + SUFFIX)
        listener, file = listen(control_path, self._clients.mode)
        self._control_files.append(file)
        faults = FaultCommands(endpoint.function.faults)
        handlers: dict[str, Handler] = {}
        traces = TraceCommands(endpoint.function.trace, endpoint.function.faults.list, os.fspath(path))
        door = self._control.add(listener, handlers)
        handlers[ControlCommand.STATUS] = lambda arguments: {
            **self._status(endpoint, faults, door),
            "trust": {**objects.status(), **interface.status()},
        }
        handlers.update(faults.handlers)
        handlers.update(traces.handlers)

    def _index_of(self, engine: CommandSource) -> int | None:
        function = self._by_engine.get(id(engine))
        return None if function is None else function.index

    def _find(self, command: Command) -> Function | None:
        return self._by_engine.get(id(command.engine))

    def _status(self, endpoint: Endpoint, faults: FaultCommands, door: Door) -> dict[str, Any]:
        return {
            "schema": SCHEMA_VERSION,
            "pid": os.getpid(),
            "open_files": len(os.listdir("/proc/self/fd")) - 1,
            "socket": os.fspath(endpoint.path),
            "client": endpoint.client,
            "sandbox": self._confinement.record(),
            "log": {"lost_lines": self._lost_lines()},
            "limits": self._limits.record(endpoint.usage(), door.connections),
            "faults": faults.status(),
            **endpoint.function.status(),
        }

    @property
    def paths(self) -> list[Path]:
        """Socket path of each function."""
        return [endpoint.path for endpoint in self._endpoints]

    @property
    def functions(self) -> list[Function]:
        """The functions in the order of their paths."""
        return [endpoint.function for endpoint in self._endpoints]

    def start(self) -> None:
        """Serve clients from now on.

        Raises:
            OSError, RuntimeError: the system gives no more descriptors or threads; `stop` ends what was started.
        """
        self._pool.start()
        self._unreachable.start()
        for mailboxes in self._mailboxes:
            mailboxes.start()
        self._control.start()
        for endpoint in self._endpoints:
            endpoint.start()

    def stop(self) -> None:
        """Disconnect every client, end every thread, remove the sockets."""
        self._control.stop()
        self._disconnect()
        self._pool.stop()
        self._unreachable.stop()
        for mailboxes in self._mailboxes:
            mailboxes.stop()
        self._close()

    def _disconnect(self) -> None:
        for endpoint in self._endpoints:
            endpoint.disconnect()

    def _close(self) -> None:
        ended = [endpoint.close() for endpoint in self._endpoints]
        for file in self._control_files:
            file.remove()
        if all(ended):
            self._scheduler.close()
            for mailboxes in self._mailboxes:
                mailboxes.close()
