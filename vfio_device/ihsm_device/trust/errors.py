# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""How a request is refused: an exception that becomes ERROR."""

from __future__ import annotations

from ihsm_abi.spdm.codes import ErrorCode


class RefusedError(Exception):
    """The request gets ERROR; nothing has changed, unless it `ends_session`."""

    def __init__(self, code: ErrorCode, data: int = 0, *, ends_session: bool = False) -> None:
        """`data`: the second parameter of ERROR."""
        super().__init__(code.name)
        self.code = code
        self.data = data
        self.ends_session = ends_session


def invalid() -> RefusedError:
    """A wrong length, slot, flag or value."""
    return RefusedError(ErrorCode.INVALID_REQUEST)
