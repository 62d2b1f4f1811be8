# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""How a request is refused: an exception that becomes ERROR."""

from __future__ import annotations

from ihsm_abi.spdm.codes import ErrorCode
from ihsm_abi.spdm.messages import Error, ErrorTooLarge


class RefusedError(Exception):
    """The request gets ERROR; nothing has changed, unless it `ends_session`."""

    def __init__(self, code: ErrorCode, data: int = 0, *, ends_session: bool = False) -> None:
        """`data`: the second parameter of ERROR."""
        super().__init__(code.name)
        self.ends_session = ends_session
        self.message = Error(code=code, data=data)


class TooLargeRefusedError(RefusedError):
    """Its answer would be longer than what the requester, or a data object, takes."""

    def __init__(self, response_bytes: int) -> None:
        """`response_bytes`: length of the answer."""
        super().__init__(ErrorCode.RESPONSE_TOO_LARGE)
        self.message = ErrorTooLarge(code=ErrorCode.RESPONSE_TOO_LARGE, data=0, response_bytes=response_bytes)


def invalid() -> RefusedError:
    """A wrong length, slot, flag or value."""
    return RefusedError(ErrorCode.INVALID_REQUEST)
