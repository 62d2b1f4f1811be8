# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Byte code of Python sources, as this interpreter keeps it beside them: taken from there, or compiled."""

from __future__ import annotations

import importlib.util
import marshal
import os
import warnings
from pathlib import Path
from struct import Struct
from typing import Final

_HEAD: Final = Struct("<4sIII")
"""Magic number, flags, the source's time of change in seconds and its size (PEP 552, PEP 3147)."""
_BY_TIME: Final = 0
"""Flags of byte code that belongs to a source of that time and size: an edited one is compiled anew."""


def cached_name(source: Path) -> Path:
    """Where the interpreter looks for it."""
    return Path(importlib.util.cache_from_source(os.fspath(source), optimization=""))


def byte_code(source: Path, status: os.stat_result) -> bytes | None:
    """Content of the file that `cached_name` names; None for a source that does not compile or cannot be read.

    Args:
        source: file whose name ends in .py.
        status: its, with the time and size that the byte code is for.
    """
    head = _HEAD.pack(
        importlib.util.MAGIC_NUMBER, _BY_TIME, int(status.st_mtime) & 0xFFFFFFFF, status.st_size & 0xFFFFFFFF
    )
    try:
        there = cached_name(source).read_bytes()
    except OSError:
        there = b""
    if there.startswith(head):
        return there
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # they are the author's, who sees them elsewhere
            code = compile(source.read_bytes(), os.fspath(source), "exec", dont_inherit=True)
    except (OSError, SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    return head + marshal.dumps(code)
