# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Commands that the device has fetched and not answered, as its trace tells."""

from __future__ import annotations

from collections import defaultdict

from ihsm.trace.commands import admin_command, answer, command_id
from ihsm.trace.records import Completion, Disconnect, Entry, Record, RegisterRead, RegisterWrite, Reset
from ihsm_abi.admin import AdminOpcode
from ihsm_abi.pci import Bar
from ihsm_abi.registers import Cc, Register
from ihsm_abi.resources import ADMIN_QUEUE_ID


class Outstanding:
    """Follows records."""

    def __init__(self) -> None:
        """None yet."""
        self._by_queue: dict[int, set[int | None]] = defaultdict(set)
        self.events = 0
        """How many records it has seen, without registers that were read: a driver may do that for ever."""

    def __len__(self) -> int:
        """How many there are now."""
        return sum(map(len, tuple(self._by_queue.values())))

    def follow(self, record: Record) -> None:
        """Take the next one."""
        self.events += not isinstance(record, RegisterRead)
        match record:
            case Entry(queue=queue, data=data):
                self._by_queue[queue].add(command_id(queue, data))
                command = admin_command(data) if queue == ADMIN_QUEUE_ID else None
                if command is not None and command.opcode == AdminOpcode.DELETE_SQ:
                    self._by_queue.pop(command.queue.id, None)
            case Completion(queue=queue, data=data) if (found := answer(queue, data)) is not None:
                self._by_queue[queue].discard(found.cid)
            case RegisterWrite(region=Bar.REGISTERS, offset=Register.CC, value=value) if Cc(value).en:
                pass
            case RegisterWrite(region=Bar.REGISTERS, offset=Register.CC | Register.NSSR) | Reset() | Disconnect():
                self._by_queue.clear()
