# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""The fixture by which a test says what it covers (`conformance.conditions`)."""

from __future__ import annotations

from typing import Protocol


class Covers(Protocol):
    """Names rows of the tables of conditions, after the assertion."""

    def __call__(self, *names: str) -> None: ...
