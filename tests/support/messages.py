# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Messages made from the declarations: samples of every map type, and messages that break one limit of it."""

from __future__ import annotations

import types
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any

from ihsm_abi import mbor
from ihsm_abi.mbor import Bool, Enum32, FixedOctets, MborMap, Nested, Octets


def sample(cls: type[MborMap]) -> Any:
    """The smallest value: zeros, empty arrays, no optional field."""
    return cls(**{field.name: _sample_value(field) for field in cls.mbor_fields if not field.optional})


def _sample_value(field: mbor.Field) -> Any:
    match field.spec:
        case FixedOctets():
            return bytes(field.spec.size)
        case Octets():
            return b""
        case Nested():
            return sample(field.type)
        case Bool():
            return False
        case Enum32():
            return field.type(0)
    return 0


@dataclass(frozen=True)
class BrokenLimit:
    """A field whose length the decoder must refuse."""

    row: str
    """Id of its row in `ddi-conditions.json`."""
    encoded: bytes
    """Data map with that field too long, or of a wrong fixed length."""


def broken_limits(cls: type[MborMap], position: int) -> Iterator[BrokenLimit]:
    """Every byte array of a map type, one byte beyond its limit or off its length; `position` as for `mbor.encode`."""
    for path, spec in _byte_arrays(cls, ()):
        name = "-".join(path).replace("_", "-")
        if isinstance(spec, FixedOctets):
            for size in (spec.size - 1, spec.size + 1):
                yield BrokenLimit(f"decode-{name}-length", _encode(cls, path, size, position))
        else:
            yield BrokenLimit(f"decode-{name}-too-long", _encode(cls, path, spec.max + 1, position))


def _byte_arrays(cls: type[MborMap], path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    for field in cls.mbor_fields:
        if isinstance(field.spec, Nested):
            yield from _byte_arrays(field.type, (*path, field.name))
        elif isinstance(field.spec, Octets | FixedOctets):
            yield (*path, field.name), field.spec


def _encode(cls: type[MborMap], path: tuple[str, ...], size: int, position: int) -> bytes:
    """A sample whose byte array at `path` has `size` bytes, whatever its declaration says."""
    return mbor.encode(_put(_redeclared(cls, path, size), path, bytes(size)), position=position)


def _redeclared(cls: type[MborMap], path: tuple[str, ...], size: int) -> type[MborMap]:
    """The same map type, but with `size` as limit or length of the byte array at `path`."""
    annotations: dict[str, Any] = {}
    defaults: dict[str, Any] = {}
    for field in cls.mbor_fields:
        spec, kind = field.spec, field.type
        if field.name == path[0]:
            if isinstance(spec, Nested):
                kind = _redeclared(kind, path[1:], size)
            else:
                spec = type(spec)(spec.id, size)  # type: ignore[call-arg]
        annotations[field.name] = Annotated[kind | None if field.optional else kind, spec]
        if field.optional:
            defaults[field.name] = None
    body = {"__annotations__": annotations, "__module__": __name__, **defaults}
    return types.new_class(cls.__name__, (MborMap,), exec_body=lambda namespace: namespace.update(body))


def _put(cls: type[MborMap], path: tuple[str, ...], value: bytes) -> Any:
    changed = {}
    for field in cls.mbor_fields:
        if field.name == path[0]:
            changed[field.name] = value if len(path) == 1 else _put(field.type, path[1:], value)
        elif not field.optional:
            changed[field.name] = _sample_value(field)
    return cls(**changed)
