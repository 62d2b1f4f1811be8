# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""What is left of objects without the collector of cycles, which counts objects and not the bytes that they hold."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def without_collector() -> Iterator[Callable[[type], int]]:
    """The collector does nothing meanwhile; what is given counts the objects of a type, of those that it knows."""

    def left(kind: type) -> int:
        return sum(isinstance(each, kind) for each in gc.get_objects())

    gc.collect()
    gc.disable()
    try:
        yield left
    finally:
        gc.enable()
