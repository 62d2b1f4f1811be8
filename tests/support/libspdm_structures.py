# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Objects of IDE_KM and messages of TDISP as libspdm's own headers lay them out."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from typing import Any, Final

import cffi

from bootstrap import libspdm

_HEADERS: Final = ("pci_idekm.h", "pci_tdisp.h")


@functools.cache
def declared() -> tuple[cffi.FFI, Mapping[str, int]]:
    """Structures of both headers, and the numbers that they define."""
    folder = libspdm.provide().parent / "source" / "include" / "industry_standard"
    text = "\n".join((folder / name).read_text() for name in _HEADERS)
    numbers = {name: int(value, 0) for name, value in re.findall(r"(?m)^#define (PCI_\w+) (0x[0-9A-Fa-f]+|\d+)$", text)}
    plain = re.sub(r"/\*.*?\*/|(?m:^#[^\n]*)", "", text, flags=re.DOTALL)
    for name, value in numbers.items():
        plain = plain.replace(f"[{name}]", f"[{value}]")
    ffi = cffi.FFI()
    ffi.cdef(plain, packed=True)
    return ffi, numbers


def number(name: str) -> int:
    """What a header defines as `PCI_` and this."""
    return declared()[1][f"PCI_{name}"]


def encode(kind: str, more: bytes = b"", **fields: object) -> bytes:
    """A structure `pci_KIND_t`, and bytes behind it; fields of fields have a double underscore in their names."""
    ffi, _ = declared()
    whole = ffi.new(f"pci_{kind}_t *")
    for path, value in fields.items():
        *outer, last = path.split("__")
        setattr(functools.reduce(getattr, outer, whole), last, value)
    return bytes(ffi.buffer(whole)) + more


def decode(kind: str, data: bytes, *, exact: bool = True) -> Any:
    """The structure at the front of `data`, of which nothing may be left if it is `exact`."""
    ffi, _ = declared()
    size = ffi.sizeof(f"pci_{kind}_t")
    assert len(data) == size if exact else len(data) >= size
    whole = ffi.new(f"pci_{kind}_t *")
    ffi.memmove(whole, data, size)
    return whole
