# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""A device belongs to the process that opened it: what a child of fork() has of its parent's is taken from it at once.

The child's copies of rings, sockets and eventfds are the real ones: a command of its own would take the place of one of
the parent's, and each would get the other's answers. So every object that reaches a device is told in the child, by
`os.register_at_fork` and before anything else runs there. It closes its descriptors without a word to the device, puts
memory of its own in the place of shared memory, and raises `ForkedError` from then on. Commands cost nothing by that:
nobody asks which process this is.

A fork that Python does not know of, by C code alone, is not seen. Programs that are executed have none of this.
"""

from __future__ import annotations

import os
import weakref
from typing import Any, NoReturn, Protocol

from ihsm.errors import ForkedError


class Inherited(Protocol):
    """What has to know that it is now in a child of fork()."""

    def forked(self) -> None:
        """Become useless; harmless the second time, for there are grandchildren.

        No other thread runs, but those of the parent may have stopped anywhere: a lock that one of them held stays
        locked for ever, so that new ones are needed, and what it changed may be half done.
        """


_watched: weakref.WeakSet[Inherited] = weakref.WeakSet()


def watch(inherited: Inherited) -> None:
    """Have an object told in children of this process; it is not kept alive by that."""
    _watched.add(inherited)


class LeftBehind:
    """Stands in a child for a part of the parent's: whatever is asked of it raises `ForkedError`."""

    def __init__(self, owner: str) -> None:
        """`owner` is named by the error."""
        self._owner = owner

    def __getattr__(self, name: str) -> NoReturn:
        """Refuse."""
        raise ForkedError(f"{self._owner}: {name}")


def left_behind(owner: str) -> Any:
    """A `LeftBehind`, in the place of an object of any type."""
    return LeftBehind(owner)


def _tell() -> None:
    """Tell everything; one that cannot be told does not spare the others."""
    errors = []
    for inherited in list(_watched):
        try:
            inherited.forked()
        except Exception as error:
            errors.append(error)
    if errors:  # Python prints what a handler raises, and goes on
        raise ExceptionGroup("not all of the parent's devices are let go", errors)


os.register_at_fork(after_in_child=_tell)
