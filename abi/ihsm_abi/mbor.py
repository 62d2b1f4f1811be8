# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""MBOR, the fixed-schema encoding of device-interface messages (spec 03 §2).

A map type is a class that derives from `MborMap`; its fields carry their id, wire type and limit:

    class HmacReq(MborMap):
        key_id: Annotated[int, U16(1)]
        msg: Annotated[bytes, Octets(2, 1024)]

The class becomes a frozen, keyword-only dataclass. On first use one straight-line encoder and decoder are generated
for it (`ihsm_abi.mbor_codegen`). The decoder is exactly as lenient as the real receivers: integer markers are ignored,
variable arrays may be misaligned, a map header may be E0-FF, and so on (§2.4).
"""

import dataclasses
import struct
import types
import typing
from collections.abc import Callable
from typing import Any, ClassVar, TypeVar

from ihsm_abi.mbor_codegen import compile_decoder, compile_encoder
from ihsm_abi.mbor_schema import (
    MAP_COUNT_MASK,
    MAP_MARKER,
    U8,
    U16,
    U32,
    U64,
    UINT_MARKER,
    Bool,
    DecodeErrorKind,
    Decoder,
    EncodeErrorKind,
    Encoder,
    Enum32,
    Field,
    FieldSpec,
    FixedOctets,
    MborDecodeError,
    MborEncodeError,
    MborError,
    Nested,
    Octets,
    OpenEnum,
)

__all__ = [
    "MAP_COUNT_MASK",
    "MAP_MARKER",
    "U8",
    "U16",
    "U32",
    "U64",
    "UINT_MARKER",
    "Bool",
    "Buffer",
    "DecodeErrorKind",
    "Decoder",
    "EncodeErrorKind",
    "Encoder",
    "Enum32",
    "Field",
    "FieldSpec",
    "FixedOctets",
    "MborDecodeError",
    "MborEncodeError",
    "MborError",
    "MborMap",
    "Nested",
    "Octets",
    "OpenEnum",
    "decode",
    "encode",
]

Buffer = bytes | bytearray | memoryview


@typing.dataclass_transform(frozen_default=True, kw_only_default=True)
class MborMap:
    """Base class of all map types; see the module's description."""

    mbor_fields: ClassVar[tuple[Field, ...]] = ()
    mbor_encoder: ClassVar[Encoder]
    mbor_decoder: ClassVar[Decoder]
    mbor_compiled: ClassVar[bool]

    def __init_subclass__(cls) -> None:
        """Make the class a dataclass and check its declaration."""
        dataclasses.dataclass(frozen=True, kw_only=True, init=False)(cls)
        cls.mbor_fields = _declared_fields(cls)
        cls.__init__ = _initializer(cls)  # type: ignore[method-assign]
        cls.mbor_compiled = False

        # The codec is compiled when it is first used, not at import.
        def first_encode(value: Any, position: int) -> bytes:
            cls.mbor_compile()
            return cls.mbor_encoder(value, position)

        def first_decode(message: bytes, position: int) -> tuple[Any, int]:
            cls.mbor_compile()
            return cls.mbor_decoder(message, position)

        cls.mbor_encoder = staticmethod(first_encode)
        cls.mbor_decoder = staticmethod(first_decode)

    @classmethod
    def mbor_compile(cls) -> None:
        """Generate this class's encoder and decoder unless that is done."""
        if not cls.mbor_compiled:
            cls.mbor_encoder = staticmethod(compile_encoder(cls, cls.mbor_fields))
            cls.mbor_decoder = staticmethod(compile_decoder(cls, cls.mbor_fields))
            cls.mbor_compiled = True


def _declared_fields(cls: type[MborMap]) -> tuple[Field, ...]:
    hints = typing.get_type_hints(cls, include_extras=True)
    found = []
    for entry in dataclasses.fields(cls):  # type: ignore[arg-type]  # __init_subclass__ made it a dataclass
        annotated = hints[entry.name]
        optional = False
        base, *extras = typing.get_args(annotated)
        spec = next(extra for extra in extras if isinstance(extra, FieldSpec))
        if isinstance(base, types.UnionType):
            base = next(arg for arg in typing.get_args(base) if arg is not types.NoneType)
            optional = True
        found.append(Field(entry.name, spec, optional, base))
    ids = [field.spec.id for field in found]
    if ids != sorted(set(ids)):
        raise TypeError(f"{cls.__name__}: field ids {ids} are not strictly ascending")
    return tuple(found)


def _initializer(cls: type[MborMap]) -> Callable[..., None]:
    """The constructor. It fills the instance at once, in half the time of a frozen dataclass's own."""
    parameters = ", ".join(f"{field.name}=None" if field.optional else field.name for field in cls.mbor_fields)
    values = ", ".join(f"{field.name!r}: {field.name}" for field in cls.mbor_fields)
    scope: dict[str, Any] = {"set_attribute": object.__setattr__}
    signature = f"self, *, {parameters}" if parameters else "self"
    exec(f"def __init__({signature}): set_attribute(self, '__dict__', {{{values}}})", scope)
    constructor: Callable[..., None] = scope["__init__"]
    constructor.__qualname__ = f"{cls.__qualname__}.__init__"
    return constructor


M = TypeVar("M", bound=MborMap)


def encode(value: MborMap, *, position: int = 0, limit: int | None = None) -> bytes:
    """Encode a map.

    `position` is the offset in bytes of the map within its message, on which the alignment of byte arrays depends
    (§2.2); `limit` is the room in bytes.

    Raises:
        MborEncodeError: a value outside its field's type or limit, or more than `limit` bytes.
    """
    try:
        encoded = type(value).mbor_encoder(value, position)
    except struct.error as error:
        raise MborEncodeError(EncodeErrorKind.InvalidParameter, f"{type(value).__name__}: {error}") from None
    if limit is not None and len(encoded) > limit:
        raise MborEncodeError(EncodeErrorKind.BufferOverflow, type(value).__name__)
    return encoded


def decode(cls: type[M], buffer: Buffer, offset: int = 0) -> tuple[M, int]:
    """Decode a map that starts at `offset` bytes; returns the value and the offset after it.

    Raises:
        MborDecodeError: with the kind that the real decoder reports first (§2.3, §2.4).
    """
    data = buffer if type(buffer) is bytes else bytes(buffer)
    try:
        value: M
        value, end = cls.mbor_decoder(data, offset)
    except (IndexError, struct.error):
        raise MborDecodeError(DecodeErrorKind.BufferUnderFlow, cls.__name__) from None
    return value, end
