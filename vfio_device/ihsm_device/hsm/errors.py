# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""How an operation ends other than with success."""

from ihsm_abi.ddi import DdiStatus


class RefusedError(Exception):
    """The command is answered with an error response of this status."""

    def __init__(self, status: DdiStatus) -> None:
        """Refuse with `status`."""
        super().__init__(status.name)
        self.status = status


class CancelledError(Exception):
    """A reset or the end of the session overtook the command: its result belongs to nobody and is dropped."""
