# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""The security module of one function, as its queues and its controller see it."""

from collections.abc import Callable
from typing import Any, Self

from ihsm_abi.ddi import decode_request_header
from ihsm_abi.fault_actions import Resource
from ihsm_abi.hsm_queue import ControlKind, HsmStatus, SessionControl
from ihsm_abi.mbor import MborDecodeError
from ihsm_device.hsm.command import HsmCommand, HsmCompletion, Lane
from ihsm_device.hsm.device import HsmDevice
from ihsm_device.hsm.dispatch import run
from ihsm_device.hsm.keystore import BulkTable
from ihsm_device.hsm.operations import HANDLERS, express_key
from ihsm_device.hsm.partition import Partition, Published

__all__ = ["HsmCommand", "HsmCompletion", "Lane", "SecurityModule"]


class SecurityModule:
    """Executes commands; knows nothing of queues. Every method may be called from any thread."""

    def __init__(self, partition: Partition) -> None:
        """Serve a partition."""
        self.partition = partition

    @classmethod
    def open(cls, device: HsmDevice, index: int, tables: int, launch_guid: bytes = bytes(16)) -> Self:
        """The module of function `index` (from 0) with `tables` key tables.

        Raises:
            StateError: the function's file in the state directory is damaged.
        """
        partition = Partition.open(device, index, tables, express_key(device.dialect))
        partition.kept.launch_guid = launch_guid
        return cls(partition)

    @property
    def serial(self) -> int:
        """64-bit serial number of the function, for Identify and the serial-number capability."""
        return self.partition.device.serial(self.partition.index)

    @property
    def bulk_table(self) -> BulkTable:
        """Keys of the fast path, for the engine of the same function."""
        return self.partition.bulk_table

    @property
    def express(self) -> Published | None:
        """What the express lane of the engine of the same function may see; None: it has nothing to do."""
        return self.partition.published if self.partition.device.options.express else None

    @property
    def fips_approved(self) -> bool:
        """FIPS state that completions of the fast path report."""
        return self.partition.device.fips_approved

    @property
    def device_iv(self) -> bool:
        """Whether the device makes the IV of encryption with approved GCM keys."""
        return not self.partition.device.profile.approved_gcm_iv_from_caller

    def on_shortage(self, is_short_of: Callable[[Resource], bool]) -> None:
        """Ask so before a session id or room of the vault is taken for a client."""
        self.partition.shortage.ask = is_short_of

    def lane(self, message: bytes) -> Lane:
        """Which worker may run the command."""
        try:
            header, _ = decode_request_header(message)
        except MborDecodeError:
            return Lane.FAST
        handler = HANDLERS.get(header.op)
        return Lane.FAST if handler is None else handler.lane

    def execute(self, command: HsmCommand) -> HsmCompletion:
        """Run a normal command whose queue entry has been checked (spec 02 B.7)."""
        if self.partition.device.error is not None:
            return HsmCompletion(b"", SessionControl(0), sc=HsmStatus.INTERNAL_ERROR)
        return run(self.partition, command)

    def flush(self, command: HsmCommand) -> HsmCompletion:
        """Run a flush (spec 02 B.5): close the session as CloseSession does, ids that wait for renegotiation too."""
        partition = self.partition
        with partition.lock:
            session = partition.sessions.live(command.session_id)
            if session is None:
                partition.sessions.free(command.session_id)
                return HsmCompletion(b"", SessionControl(0), command.session_id)
            partition.close_session(session)
        flags = SessionControl.of(kind=ControlKind.CLOSE, id_valid=1, session_closed=1)
        return HsmCompletion(b"", flags, command.session_id, sc=HsmStatus.SUCCESS)

    # -- life cycle (spec 04 §12, 01 §14.9) ------------------------------------------------------------------------

    def nssr(self) -> None:
        """NVMe subsystem reset ("migration")."""
        self.partition.migrate()

    def disable(self) -> None:
        """CC.EN 1→0, or FLR of a ready VF."""
        self.partition.migrate()

    def client_lost(self) -> None:
        """The client's connection ended."""
        self.partition.client_lost()

    def partition_reset(self) -> None:
        """Resources withdrawn, or reset of the whole device; raises StateError if the state cannot be written."""
        self.partition.reset()

    def status(self) -> dict[str, Any]:
        """What `ihsm status` shows; nothing secret."""
        partition, device = self.partition, self.partition.device
        memory = device.store.statistics()
        with partition.lock:
            state = partition.state
            phase = "ready" if state.provisioned else "migrated" if partition.sessions.snapshot() else "fresh"
            return {
                "function": partition.index,
                "kind": device.dialect.kind.name,
                "state": phase,
                "sessions": {str(key): value for key, value in partition.sessions.snapshot().items()},
                "vault": state.vault.usage(),
                "key_memory": {"reserved_bytes": memory.bytes_reserved, "locked_bytes": memory.bytes_locked},
                "error": device.error,
                "self_tests": {"passed": device.self_tests.passed, "failed": list(device.self_tests.failed)},
                "fips_approved": device.fips_approved,
                "profile": device.profile.describe(),
                "express": device.options.express,
                "validation_hooks": device.options.validation_hooks,
                "partition_id": partition.kept.identity.partition_id.hex(),
            }
