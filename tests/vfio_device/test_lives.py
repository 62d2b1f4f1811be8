# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Nothing of a client outlives it, whatever it did: not even until the collector comes, which is turned off here."""

from __future__ import annotations

import random
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.commanded import Commander
from support.raw_client import RawClient
from support.soak.workers import ATTACKS, TRACES
from support.waiting import until

LIVES = {name: life for name, life in (ATTACKS | TRACES).items() if name != "trace_read"}
"""Without one that reads as long as somebody else works."""
LONG = {
    # until the device gives a client up, or replies that do not come
    "messages_that_stop", "messages_of_any_content", "replies_that_are_not_read", "clients_that_are_killed",
    # as long as their commands
    "lists_without_end", "a_key_deleted_while_it_works", "sparse_memory_that_one_command_fills", "expensive_commands",
    "queues_made_anew", "traces_begun_and_left",
}  # fmt: skip


@pytest.fixture(scope="module")
def counted() -> Iterator[tuple[Commander, str]]:
    """A device, and the path of its function."""
    with tempfile.TemporaryDirectory(prefix="ihsm-") as folder:
        path = str(Path(folder) / "f.sock")
        device = Commander("support.counted_device")
        try:
            device("serve", path)
            yield device, path
        finally:
            device.end()


@pytest.mark.parametrize(
    "life",
    [pytest.param(name, marks=[pytest.mark.long] if name in LONG else []) for name in LIVES],
)
def test_nothing_of_a_client_is_left(counted: tuple[Commander, str], life: str) -> None:
    device, path = counted

    def live() -> None:
        LIVES[life](path, random.Random(1))
        with RawClient(path) as client:  # which is served when all of the others has gone
            client.in_step()

    live()  # what is made once
    before = Counter(device("count"))
    live()
    live()
    until(lambda: not Counter(device("count")) - before, f"the end of all that {life} made")
