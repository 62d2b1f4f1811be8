# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""What the harnesses in Python share: instrumented imports, values taken from an input, the loop.

With Atheris a harness is a libFuzzer program, with its arguments. Without it, it takes files and folders of inputs and
goes through them once, as libFuzzer does with files.
"""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Final

PRODUCT: Final = ["ihsm", "ihsm_abi", "ihsm_device"]
_atheris: Any = None
if importlib.util.find_spec("atheris") is not None:
    import atheris as _atheris  # type: ignore[import-not-found, no-redef]


def instrumented() -> AbstractContextManager[Any]:
    """Around the imports of what is fuzzed."""
    if _atheris is None:
        return contextlib.nullcontext()
    found: AbstractContextManager[Any] = _atheris.instrument_imports(include=PRODUCT)
    return found


class FailureError(AssertionError):
    """The product has caught an exception that it does not know."""


class _Failures(logging.Handler):
    """What is caught as a last resort is logged with its traceback: a finding all the same."""

    def __init__(self) -> None:
        super().__init__()
        self.caught: list[FailureError] = []

    def emit(self, record: logging.LogRecord) -> None:
        if record.exc_info:
            failure = FailureError(record.getMessage())
            failure.__cause__ = record.exc_info[1]
            self.caught.append(failure)


_failures: Final = _Failures()


def failures_are_findings() -> None:
    """From now on; other lines of the log are left out."""
    logging.basicConfig(handlers=[_failures], level=logging.ERROR, force=True)


def instrument(function: Any) -> Any:
    """The same function, instrumented: for one that no import has brought."""
    return function if _atheris is None else _atheris.instrument_func(function)


class Values:
    """Numbers and bytes from the front of an input; what is beyond its end is zero."""

    def __init__(self, data: bytes) -> None:
        """All of `data`."""
        self._data = data
        self._at = 0

    @property
    def left(self) -> int:
        """Bytes not taken yet."""
        return len(self._data) - self._at

    def bytes(self, size: int) -> bytes:
        """At most `size` bytes, those that are there."""
        piece = self._data[self._at : self._at + size]
        self._at += len(piece)
        return piece

    def number(self, size: int = 1) -> int:
        """A number of `size` bytes, little-endian."""
        return int.from_bytes(self.bytes(size), "little")

    def chance(self) -> bool:
        """One of two."""
        return bool(self.number() & 1)

    def choice(self, values: Any) -> Any:
        """One of a sequence of at most 65536."""
        return values[self.number(1 if len(values) <= 256 else 2) % len(values)]

    def rest(self) -> bytes:
        """All that is left."""
        return self.bytes(self.left)


def main(one_input: Callable[[bytes], None], arguments: list[str] | None = None) -> None:
    """Fuzz, or go through the inputs that the command line names; an exception of `one_input` is a finding."""
    arguments = sys.argv if arguments is None else arguments

    def test_one_input(data: bytes) -> None:
        one_input(data)
        if _failures.caught:  # on whichever thread
            raise _failures.caught[0]

    if _atheris is not None:
        _atheris.Setup(arguments, test_one_input)
        _atheris.Fuzz()
        return
    count = 0
    for path in (Path(word) for word in arguments[1:] if not word.startswith("-")):
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            if file.is_file():
                try:
                    test_one_input(file.read_bytes())
                except BaseException:
                    print(f"{file}: a finding", file=sys.stderr)
                    raise
                count += 1
    print(f"{count} inputs")
