# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""What a device claims, one by one: for whoever wants to see how far a device came that failed."""

from __future__ import annotations

from typing import NamedTuple


class Claim(NamedTuple):
    """One claim of a device."""

    name: str
    """`mailbox`, `chain`, `root`, `challenge`, `measurements` or `session`."""
    holds: bool | None
    """None: nobody can say, for there was nothing to compare it with."""
    detail: str
    """What holds, or what does not."""
