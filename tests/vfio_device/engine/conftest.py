# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""An engine over the loopback host, with rings written by hand."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from support.rig import EngineRig


@pytest.fixture
def rig() -> Iterator[EngineRig]:
    """Doorbells as accesses; AES commands are carried out by the thread that rings."""
    with EngineRig() as rig:
        yield rig
