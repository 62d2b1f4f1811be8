# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Which interface is the function's: a device behind vfio-user does not learn its own bus number (spec 06 §2.5)."""

from __future__ import annotations

from ihsm_abi.tdisp import FunctionId


class InterfaceId:
    """The id that the host has told; else the first one of a session, until its end."""

    def __init__(self, told: int | None = None) -> None:
        """`told`: bus, device and function, as a requester id."""
        self._told = None if told is None else FunctionId.of(requester_id=told)
        self._taken: FunctionId | None = None

    @property
    def known(self) -> FunctionId | None:
        """Of the function; None if nobody has told."""
        return self._told if self._taken is None else self._taken

    def admits(self, function_id: int) -> bool:
        """Whether an interface is the function's."""
        word = FunctionId(function_id)
        if self._told is not None:
            return word.requester_id == self._told.requester_id
        asked = FunctionId.of(requester_id=word.requester_id, segment=word.segment, segment_valid=word.segment_valid)
        if self._taken is None:
            self._taken = asked
        return asked == self._taken

    def forget(self) -> None:
        """The session has ended."""
        self._taken = None
