# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Commands under way and their ids (spec 01 §5.1): a tag is a command id that no other command of its queue has."""

from __future__ import annotations

import errno
import random
from dataclasses import dataclass, field

from ihsm_abi.uapi import InternalCode
from ihsm_kmod.kernel.completion import Completion
from ihsm_kmod.kernel.errors import Errno
from ihsm_kmod.kernel.task import signal_pending
from ihsm_kmod.kernel.wait import WaitQueueHead, wait_event, wake_up


@dataclass(eq=False)
class Command:
    """One command: what its submitter sleeps on, and what it finds when it wakes up."""

    done: Completion = field(default_factory=Completion)
    tag: int | None = None
    """None while it has no command id."""
    code: InternalCode = InternalCode.UNDEFINED
    cqe: bytes | None = None


class TagStore:
    """`slots` - 1 tags: one slot of a ring stays empty, so no more commands fit.

    Claim and release are single operations of a dictionary, as they are single bit operations in Linux (`sbitmap`).
    """

    def __init__(self, slots: int) -> None:
        """All tags free. The first one given out is random: nobody may take a command id for a slot number."""
        self.depth = slots - 1
        self._commands: dict[int, Command] = {}
        self._hint = random.randrange(self.depth)
        self._freed = WaitQueueHead()

    def claim(self, command: Command) -> bool:
        """Give the command a tag if one is free; does not sleep."""
        for step in range(self.depth):
            tag = (self._hint + step) % self.depth
            if self._commands.setdefault(tag, command) is command:
                command.tag = tag
                self._hint = (tag + 1) % self.depth
                return True
        return False

    def claim_sleeping(self, command: Command) -> None:
        """Give the command a tag; sleeps, uninterruptibly, until there is one.

        Raises:
            Errno: EAGAIN, there is none and a signal was pending already.
        """
        if self.claim(command):
            return
        if signal_pending():
            raise Errno(errno.EAGAIN, "no free tag and a signal is pending")
        wait_event(self._freed, lambda: self.claim(command))

    def find(self, tag: int) -> Command | None:
        """The command with this id."""
        return self._commands.get(tag)

    def has(self, command: Command) -> bool:
        """Whether the command has a tag that is still its own."""
        return command.tag is not None and self._commands.get(command.tag) is command

    def release(self, command: Command) -> None:
        """Take the command's tag back; nothing happens if it has none any more."""
        if command.tag is None or not self.has(command):
            return
        del self._commands[command.tag]
        wake_up(self._freed)

    def outstanding(self) -> list[Command]:
        """The commands that have a tag now."""
        return list(self._commands.values())
