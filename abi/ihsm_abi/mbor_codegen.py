# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Generates the encoder and decoder of an MBOR map type as straight-line Python (see `ihsm_abi.mbor`).

Both generated functions walk the declared fields in order. Offsets that are known in advance are folded into literals;
only byte arrays, optional fields and nested maps make them dynamic. The end of the input shows itself as IndexError or
struct.error, which costs nothing on the good path and which `ihsm_abi.mbor.decode` turns into BufferUnderFlow.
"""

import struct
from collections.abc import Sequence
from typing import Any

from ihsm_abi.mbor_schema import (
    BOOL_MARKER,
    BYTES_MARKER,
    MAP_COUNT_MASK,
    MAP_MARKER,
    PAD_MASK,
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
    FixedOctets,
    MborDecodeError,
    MborEncodeError,
    Nested,
    Octets,
)

_STRUCT_CODE = {U8: "B", U16: "H", U32: "I", U64: "Q", Enum32: "I"}
_WIDTH_CODE = {U8: 0, U16: 1, U32: 2, U64: 3, Enum32: 2}
_VALUE_SIZE = {U8: 1, U16: 2, U32: 4, U64: 8, Enum32: 4}
_PADDING = (b"", b"\0", b"\0\0", b"\0\0\0")
_BOOL_IGNORED = 0xFF & ~BOOL_MARKER


def _run(lines: list[str], name: str, cls: type, scope: dict[str, Any]) -> Any:
    source = "\n".join(lines)
    exec(compile(source, f"<mbor {cls.__name__}.{name}>", "exec"), scope)
    return scope[name]


class _EncoderSource:
    """Collects the encoder's statements; runs of fields of known size become one struct call."""

    def __init__(self, scope: dict[str, Any]) -> None:
        self.scope = scope
        self.lines: list[str] = []
        self.parts: list[str] = []
        self.format = ""
        self.arguments: list[str] = []
        self.constant = b""
        self.offset = 0
        """Bytes since the position that the variable `p` stands for."""
        self.names = 0

    def name(self, prefix: str) -> str:
        self.names += 1
        return f"{prefix}{self.names}"

    def emit(self, line: str, indent: int = 1) -> None:
        self.lines.append("    " * indent + line)

    def put(self, data: bytes) -> None:
        self.constant += data
        self.offset += len(data)

    def put_value(self, code: str, expression: str) -> None:
        self._close_constant()
        self.format += code
        self.arguments.append(expression)
        self.offset += struct.calcsize(">" + code)

    def _close_constant(self) -> None:
        if self.constant:
            self.format += f"{len(self.constant)}s"
            self.arguments.append(repr(self.constant))
            self.constant = b""

    def expression(self) -> str:
        """The pending run as an expression of type bytes."""
        if not self.format:
            constant, self.constant = self.constant, b""
            return repr(constant)
        self._close_constant()
        packer = self.name("pack")
        self.scope[packer] = struct.Struct(">" + self.format).pack
        text = f"{packer}({', '.join(self.arguments)})"
        self.format, self.arguments = "", []
        return text

    def flush(self) -> None:
        if self.format or self.constant:
            self.parts.append(self.expression())


def _raise_encode(kind: EncodeErrorKind, where: str) -> str:
    return f"raise MborEncodeError(EncodeErrorKind.{kind.name}, {where!r})"


def _put_scalar(out: _EncoderSource, field: Field, value: str) -> None:
    kind = type(field.spec)
    if kind is Bool:
        out.put_value("B", f"{BOOL_MARKER | 1} if {value} else {BOOL_MARKER}")
    else:
        out.put(bytes([UINT_MARKER + _WIDTH_CODE[kind]]))
        out.put_value(_STRUCT_CODE[kind], value)


def _encode_field(out: _EncoderSource, field: Field, where: str) -> None:
    """Append one entry. An optional one is built into a variable of its own, empty when absent."""
    spec = field.spec
    value = out.name("v")
    out.emit(f"{value} = o.{field.name}")
    indent = 1
    part = ""
    if field.optional:
        # A position that depends on whether the entry is there is no literal any more.
        out.flush()
        part = out.name("s")
        out.emit(f"p += {out.offset}")
        out.offset = 0
        out.emit(f"{part} = b''")
        out.emit(f"if {value} is not None:")
        indent = 2
    out.put(bytes([UINT_MARKER, spec.id]))
    if isinstance(spec, Octets):
        length, pad = out.name("n"), out.name("pad")
        out.emit(f"{length} = len({value})", indent)
        out.emit(f"if {length} > {spec.max}:", indent)
        out.emit(_raise_encode(EncodeErrorKind.BufferOverflow, where), indent + 1)
        out.emit(f"{pad} = -(p + {out.offset + 3}) & {PAD_MASK}", indent)
        out.put_value("B", f"{BYTES_MARKER} | {pad}")
        out.put_value("H", length)
        head = out.expression()
        if field.optional:
            out.emit(f"{part} = {head} + PADDING[{pad}] + {value}", indent)
        else:
            out.parts += [head, f"PADDING[{pad}]", value]
        # The data starts aligned, so its length is the position modulo 4 from here on.
        out.emit(f"p = {length}", indent)
        out.offset = 0
    elif isinstance(spec, FixedOctets):
        out.emit(f"if len({value}) != {spec.size}:", indent)
        out.emit(_raise_encode(EncodeErrorKind.InvalidLen, where), indent + 1)
        out.put(bytes([BYTES_MARKER]) + spec.size.to_bytes(2, "big"))
        out.put_value(f"{spec.size}s", value)
    elif isinstance(spec, Nested):
        encoder, nested = out.name("encode"), out.name("m")
        field.type.mbor_compile()
        out.scope[encoder] = field.type.mbor_encoder
        out.emit(f"{nested} = {encoder}({value}, p + {out.offset})", indent)
        head_size = out.offset
        head = out.expression()
        if field.optional:
            out.emit(f"{part} = {head} + {nested}", indent)
        else:
            out.parts += [head, nested]
        out.emit(f"p += {head_size} + len({nested})", indent)
        out.offset = 0
    else:
        _put_scalar(out, field, value)
    if field.optional:
        if out.offset:
            size = out.offset
            out.emit(f"{part} = {out.expression()}", indent)
            out.emit(f"p += {size}", indent)
            out.offset = 0
        out.parts.append(part)


def compile_encoder(cls: type, fields: Sequence[Field]) -> Encoder:
    """The encoder of the map type `cls` with its declared fields (spec 03 §2.1-§2.3)."""
    scope: dict[str, Any] = {
        "MborEncodeError": MborEncodeError,
        "EncodeErrorKind": EncodeErrorKind,
        "PADDING": _PADDING,
    }
    out = _EncoderSource(scope)
    required = sum(not field.optional for field in fields)
    optional = [f"(o.{field.name} is not None)" for field in fields if field.optional]
    if optional:
        out.put_value("B", f"{MAP_MARKER + required} + {' + '.join(optional)}")
    else:
        out.put(bytes([MAP_MARKER + required]))
    for field in fields:
        _encode_field(out, field, f"{cls.__name__}.{field.name}")
    out.flush()
    body = out.parts[0] if len(out.parts) == 1 else f"b''.join(({', '.join(out.parts)}))"
    encoder: Encoder = _run(["def encode(o, p):", *out.lines, f"    return {body}"], "encode", cls, scope)
    return encoder


def _raise_decode(kind: DecodeErrorKind, where: str) -> str:
    return f"raise MborDecodeError(DecodeErrorKind.{kind.name}, {where!r})"


def _decode_value(field: Field, value: str, offset: int, where: str, scope: dict[str, Any]) -> tuple[list[str], int]:
    """Statements that read the value at `p + offset`, and the literal offset after them (0 where `p` was moved)."""
    spec = field.spec
    at = f"p + {offset}"
    if isinstance(spec, U8):
        return [f"{value} = b[{at} + 1]"], offset + 2
    if isinstance(spec, U16):
        return [f"{value} = b[{at} + 1] << 8 | b[{at} + 2]"], offset + 3
    if isinstance(spec, Bool):
        return [
            f"{value} = b[{at}] & {_BOOL_IGNORED}",
            f"if {value} > 1:",
            "    " + _raise_decode(DecodeErrorKind.ExpectedBool, where),
            f"{value} = {value} == 1",
        ], offset + 1
    if isinstance(spec, (U32, U64, Enum32)):
        kind = type(spec)
        reader = f"read_{_STRUCT_CODE[kind]}"
        scope[reader] = struct.Struct(f">x{_STRUCT_CODE[kind]}").unpack_from
        lines = [f"({value},) = {reader}(b, {at})"]
        if isinstance(spec, Enum32):
            enum_name, members = f"enum_{field.type.__name__}", f"members_{field.type.__name__}"
            scope[enum_name] = field.type
            scope[members] = field.type._value2member_map_
            lines += [
                f"n = {members}.get({value})",
                f"{value} = {enum_name}({value}) if n is None else n",
            ]
        return lines, offset + 1 + _VALUE_SIZE[kind]
    if isinstance(spec, Nested):
        decoder = f"decode_{field.name}"
        field.type.mbor_compile()
        scope[decoder] = field.type.mbor_decoder
        return [f"{value}, p = {decoder}(b, {at})"], 0
    lines = [
        f"m = b[{at}]",
        f"if m & {BYTES_MARKER} == 0:",
        "    " + _raise_decode(DecodeErrorKind.ExpectedU8, where),
    ]
    if isinstance(spec, FixedOctets):
        start, end = offset + 3, offset + 3 + spec.size
        lines += [
            f"if m & {PAD_MASK}:",
            "    " + _raise_decode(DecodeErrorKind.InvalidPadding, where),
            f"if b[{at} + 1] << 8 | b[{at} + 2] != {spec.size}:",
            "    " + _raise_decode(DecodeErrorKind.InvalidLen, where),
            f"{value} = b[p + {start} : p + {end}]",
            f"if len({value}) != {spec.size}:",
            "    " + _raise_decode(DecodeErrorKind.BufferUnderFlow, where),
        ]
        return lines, end
    assert isinstance(spec, Octets)
    lines += [
        f"n = b[{at} + 1] << 8 | b[{at} + 2]",
        f"if n > {spec.max}:",
        "    " + _raise_decode(DecodeErrorKind.BufferUnderFlow, where),
        f"p += {offset + 3} + (m & {PAD_MASK})",
        "e = p + n",
        "if e > len(b):",
        "    " + _raise_decode(DecodeErrorKind.BufferUnderFlow, where),
        f"{value} = b[p:e]",
        "p = e",
    ]
    return lines, 0


def compile_decoder(cls: type, fields: Sequence[Field]) -> Decoder:
    """The decoder of the map type `cls` with its declared fields; checks in the order of spec 03 §2.3 and §2.4."""
    scope: dict[str, Any] = {
        "MborDecodeError": MborDecodeError,
        "DecodeErrorKind": DecodeErrorKind,
        "cls": cls,
        "new": object.__new__,
        "set_attribute": object.__setattr__,
    }
    lines = [
        "m = b[p]",
        f"if m & {MAP_MARKER} != {MAP_MARKER}:",
        "    " + _raise_decode(DecodeErrorKind.ExpectedMap, cls.__name__),
        # From here on c counts the entries without the optional ones that were found.
        f"c = m & {MAP_COUNT_MASK}",
    ]
    offset = 1
    required = 0
    for number, field in enumerate(fields):
        value, where = f"v{number}", f"{cls.__name__}.{field.name}"
        if field.optional:
            if offset:
                lines.append(f"p += {offset}")
            body, after = _decode_value(field, value, 2, where, scope)
            if after:
                body.append(f"p += {after}")
            lines += [
                f"{value} = None",
                f"if c != {required} and p + 2 <= len(b) and b[p + 1] == {field.spec.id}:",
                "    c -= 1",
                *("    " + line for line in body),
            ]
            offset = 0
        else:
            lines += [
                f"if c == {required} or b[p + {offset} + 1] != {field.spec.id}:",
                "    " + _raise_decode(DecodeErrorKind.InvalidId, where),
            ]
            body, offset = _decode_value(field, value, offset + 2, where, scope)
            lines += body
            required += 1
    members = ", ".join(f"{field.name!r}: v{number}" for number, field in enumerate(fields))
    lines += [
        f"if c != {required}:",
        "    " + _raise_decode(DecodeErrorKind.InvalidLen, cls.__name__),
        "o = new(cls)",
        f"set_attribute(o, '__dict__', {{{members}}})",
        f"return o, p + {offset}",
    ]
    decoder: Decoder = _run(["def decode(b, p):", *("    " + line for line in lines)], "decode", cls, scope)
    return decoder
