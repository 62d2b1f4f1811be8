# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Type stubs of a cffi module, made from the headers that declare it to cffi.

A type checker then sees the C boundary as C does: a pointer says what it points to, `bytes` are taken only where C
promises `const`, and there is no function or constant that the headers do not declare. The classes of a stub do not
exist at run time; annotations may name them as `_native.Pointer[_native.ihsm_host]` in a module whose annotations are
not evaluated (`from __future__ import annotations`).
"""

import keyword
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Final, NamedTuple

from pycparser import c_ast, c_parser

COMMENTS: Final = re.compile(r"/\*.*?\*/|//[^\n]*", re.DOTALL)
FIXED: Final = [f"{sign}int{bits}_t" for sign in ("", "u") for bits in (8, 16, 32, 64)]
TYPEDEFS: Final = (*FIXED, "size_t", "ssize_t", "intptr_t", "uintptr_t")
INTEGERS: Final = {name: name for name in TYPEDEFS} | {
    "int": "c_int",
    "unsigned int": "c_uint",
    "long": "c_long",
    "unsigned long": "c_ulong",
}
"""C's integers, and the class that stands for each behind a pointer."""
ELEMENTS: Final = {
    **INTEGERS,
    "unsigned": "c_uint",
    "bool": "c_bool",
    "_Bool": "c_bool",
    "char": "c_char",
    "void": "c_void",
}
BYTES: Final = ("c_char", "uint8_t")
"""Elements whose pointers cffi takes for each other's; for a pointer to constant ones it takes `bytes` as well."""
PRELUDE: Final = "".join(f"typedef int {name};\n" for name in (*TYPEDEFS, "bool"))
"""What pycparser must know of the standard headers."""

HEAD: Final = '''\
# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
# Generated from {headers}: do not edit.
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import Any, Final, Generic, Literal, Protocol, Self, TypeVar, overload

from _cffi_backend import CType
from _cffi_backend import buffer as buffer
from _typeshed import ReadableBuffer

_T = TypeVar("_T")

class ConstPointer(Generic[_T]):
    """`const T *`."""
    def __getitem__(self, index: int, /) -> _T: ...
    def __add__(self, offset: int, /) -> Self: ...
    def __bool__(self) -> bool: ...

class Pointer(ConstPointer[_T]):
    """`T *`."""
    def __setitem__(self, index: int, value: object, /) -> None: ...

class ConstArray(ConstPointer[_T]):
    """`const T[]`: an array that knows its length."""
    def __len__(self) -> int: ...
    def __iter__(self) -> Iterator[_T]: ...

class Array(Pointer[_T]):
    """`T[]`."""
    def __len__(self) -> int: ...
    def __iter__(self) -> Iterator[_T]: ...

class Number:
    """The result of a cast to a number."""
    def __int__(self) -> int: ...

class Memory(Protocol):
    """A numpy array: a buffer as well, but numpy declares that from Python 3.12 on only."""
    @property
    def __array_interface__(self) -> dict[str, Any]: ...

Buffer = ReadableBuffer | Memory
OnError = Callable[[type[BaseException], BaseException, TracebackType], None]

'''
FFI: Final = """\
    NULL: Final[Pointer[Any]]
    errno: int
    def buffer(self, cdata: ConstPointer[Any], size: int = -1, /) -> buffer: ...
    def offsetof(self, cdecl: str, field: str, /) -> int: ...
    def sizeof(self, cdecl: str | ConstPointer[Any], /) -> int: ...
    def typeof(self, cdecl: str | ConstPointer[Any], /) -> CType: ...
    def string(self, cdata: ConstPointer[c_char], maxlen: int = -1) -> bytes: ...
    def memmove(self, dest: Pointer[Any] | Buffer, src: ConstPointer[Any] | Buffer, n: int, /) -> None: ...
"""


class Type(NamedTuple):
    """A C type as a stub shows it."""

    value: str
    """What Python holds: int, bool, a pointer, a structure."""
    element: str
    """The class that stands for it behind a pointer."""


class Struct(NamedTuple):
    """A structure; without fields, one that Python never looks into."""

    spelling: str
    """How C names it: `struct x`, or `x` by its typedef."""
    name: str
    fields: dict[str, Type]


class Function(NamedTuple):
    """A function: types of its parameters by their names, and of what it returns."""

    parameters: dict[str, Type]
    result: Type


class Declarations:
    """Everything that some headers declare, in their order."""

    def __init__(self, text: str) -> None:
        """`text`: headers without directives.

        Raises:
            pycparser.c_parser.ParseError: it is not C.
            ValueError: it declares something that there is no stub for.
        """
        self.structs: dict[str, Struct] = {}
        self.constants: dict[str, int] = {}
        self.functions: dict[str, Function] = {}
        self.pointed: set[str] = {"c_char"}
        """Classes of numbers and bytes that pointers need."""
        self._typedefs: dict[str, Type] = {}
        self._builtin = {name: self._basic(name) for name in ELEMENTS}
        for node in c_parser.CParser().parse(PRELUDE + COMMENTS.sub(" ", text)).ext:
            if isinstance(node, c_ast.Typedef):
                if node.name not in self._builtin:
                    self._typedefs[node.name] = self._type(node.type, node.name)
            elif isinstance(node, c_ast.Decl) and isinstance(node.type, c_ast.FuncDecl):
                self.functions[node.name] = self._function(node.type)
            elif isinstance(node, c_ast.Decl) and node.name is None:
                self._type(node.type)
            else:
                raise ValueError(f"{node.coord}: only types and functions can be declared")

    def _function(self, node: c_ast.FuncDecl) -> Function:
        parameters = {}
        for number, parameter in enumerate(node.args.params if node.args else ()):
            if isinstance(parameter, c_ast.EllipsisParam):
                raise ValueError(f"{parameter.coord}: a function must say what it takes")
            kind = self._type(parameter.type)
            if kind.element != "c_void":
                parameters[_identifier(parameter.name or f"p{number}")] = kind
        return Function(parameters, self._type(node.type))

    def _type(self, node: c_ast.Node, typedef: str | None = None) -> Type:
        match node:
            case c_ast.PtrDecl() | c_ast.ArrayDecl():
                const = "Const" if "const" in getattr(node.type, "quals", ()) else ""
                kind = "Pointer" if isinstance(node, c_ast.PtrDecl) else "Array"
                element = self._type(node.type).element
                self.pointed.add(element)
                return Type(pointer := f"{const}{kind}[{element}]", pointer)
            case c_ast.TypeDecl():
                return self._type(node.type, typedef)
            case c_ast.Struct():
                return self._struct(node, typedef)
            case c_ast.Enum():
                return self._enumeration(node)
            case c_ast.IdentifierType():
                name = " ".join(node.names)
                if name in self._builtin:
                    return self._builtin[name]
                if name in self._typedefs:
                    return self._typedefs[name]
        raise ValueError(f"{node.coord}: no stub for this type")

    @staticmethod
    def _basic(name: str) -> Type:
        element = ELEMENTS[name]
        return Type({"c_bool": "bool", "c_char": "bytes", "c_void": "None"}.get(element, "int"), element)

    def _struct(self, node: c_ast.Struct, typedef: str | None) -> Type:
        name = node.name or typedef
        if name is None:
            raise ValueError(f"{node.coord}: a structure needs a name")
        known = self.structs.get(name)
        if node.decls or known is None:
            fields = {field.name: self._type(field.type) for field in node.decls or ()}
            self.structs[name] = Struct(f"struct {name}" if node.name and not typedef else name, name, fields)
        elif typedef:
            self.structs[name] = known._replace(spelling=typedef)
        return Type(name, name)

    def _enumeration(self, node: c_ast.Enum) -> Type:
        following = 0
        for entry in node.values.enumerators if node.values else ():
            if entry.value is not None:
                following = self._number(entry.value)
            self.constants[entry.name] = following
            following += 1
        return Type("int", "c_int")

    def _number(self, node: c_ast.Node) -> int:
        match node:
            case c_ast.Constant(type="int"):
                return int(node.value.rstrip("uUlL"), 0)
            case c_ast.UnaryOp(op="-"):
                return -self._number(node.expr)
            case c_ast.ID() if node.name in self.constants:
                return self.constants[node.name]
        raise ValueError(f"{node.coord}: only plain numbers can be constants")


def _identifier(name: str) -> str:
    return f"{name}_" if keyword.iskeyword(name) else name


def _accepted(kind: Type) -> str:
    """What may be passed for a parameter: an array is taken for a pointer, and one kind of bytes for the other."""
    value = kind.value.replace("Array[", "Pointer[", 1)
    for pointer, more in (("ConstPointer", " | bytes"), ("Pointer", "")):
        if value in (f"{pointer}[{element}]" for element in BYTES):
            return " | ".join(f"{pointer}[{element}]" for element in BYTES) + more
        if value == f"{pointer}[c_void]":
            return f"{pointer}[Any]"
    return value


def stub(headers: Mapping[str, str], callbacks: str = "") -> str:
    """The text of a module's stub.

    Args:
        headers: names and texts (without directives) of what cffi reads, in that order.
        callbacks: text of a header of functions that Python implements and C calls.

    Raises:
        pycparser.c_parser.ParseError: a text is not C.
        ValueError: something is declared that there is no stub for.
    """
    declared = Declarations("\n".join(headers.values()))
    implemented = Declarations(callbacks).functions
    declared.pointed |= {"uint8_t"}  # for the parameters that take either kind of bytes
    sections = (
        _elements(declared.pointed),
        *map(_struct, declared.structs.values()),
        _library(declared),
        _interface(declared),
        _callbacks(implemented),
        ("", "ffi: _FFI", "lib: _Lib", ""),
    )
    return HEAD.format(headers=", ".join(headers)) + "\n".join(line for section in sections for line in section)


def _elements(pointed: set[str]) -> Iterator[str]:
    for name in dict.fromkeys(ELEMENTS.values()):
        if name in pointed:
            yield f"class {name}{ {'c_char': '(bytes)', 'c_void': ''}.get(name, '(int)') }: ..."
    yield ""


def _struct(struct: Struct) -> Iterator[str]:
    """Two classes if there are fields: cffi lets a pointer be used for what it points to."""
    if struct.fields:
        yield f"class {struct.name}:"
        for name, kind in struct.fields.items():
            yield f"    {_identifier(name)}: {kind.value}"
        yield ""
        yield f"class {struct.name}_pointer({struct.name}, Pointer[{struct.name}]): ..."
    else:
        yield f"class {struct.name}: ..."
    yield ""


def _library(declared: Declarations) -> Iterator[str]:
    yield "class _Lib:"
    for name, value in declared.constants.items():
        yield f"    {name}: Final = {value}"
    for name, function in declared.functions.items():
        parameters = ", ".join([f"{name}: {_accepted(kind)}" for name, kind in function.parameters.items()])
        yield "    @staticmethod"
        yield f"    def {name}({parameters}{', /' if parameters else ''}) -> {function.result.value}: ..."
    yield ""


def _interface(declared: Declarations) -> Iterator[str]:
    """The `ffi` object: what it makes is typed by the C declaration, which must be one that exists."""
    yield "class _FFI:"
    yield FFI.rstrip("\n")
    integers = {c: element for c, element in INTEGERS.items() if element in declared.pointed}
    structs = declared.structs.values()
    visible = [struct for struct in structs if struct.fields]
    opaque = [struct for struct in structs if f"Pointer[{struct.name}]" in declared.pointed]
    yield from _overloads(
        "new",
        [
            *((f"{c} *", "init: int = ...", f"Array[{element}]") for c, element in integers.items()),
            *((f"{c}[]", "init: int | bytes | Sequence[int]", f"Array[{element}]") for c, element in integers.items()),
            *((f"{s.spelling} *", "init: object = ...", f"{s.name}_pointer") for s in visible),
            *((f"{s.spelling}[]", "init: int | Sequence[object]", f"Array[{s.name}]") for s in visible),
            *((f"{s.spelling} **", "", f"Array[Pointer[{s.name}]]") for s in opaque),
        ],
    )
    address = "value: int | ConstPointer[Any]"
    yield from _overloads(
        "cast",
        [
            ("uintptr_t", address, "Number"),
            *((f"{c} *", address, f"Pointer[{element}]") for c, element in integers.items()),
        ],
    )
    writable = "python_buffer: Buffer, require_writable: Literal[True]"
    readable = "python_buffer: Buffer, require_writable: Literal[False] = ..."
    yield from _overloads(
        "from_buffer",
        [
            form
            for cdecl, element in {"": "c_char", **{f"{c}[]": element for c, element in integers.items()}}.items()
            for form in ((cdecl, writable, f"Array[{element}]"), (cdecl, readable, f"ConstArray[{element}]"))
        ],
    )


def _overloads(method: str, forms: Iterable[tuple[str, str, str]]) -> Iterator[str]:
    """A method's signatures by what C declaration it is given (if any), further parameters and result."""
    for cdecl, parameters, result in forms:
        given = ", ".join(part for part in (cdecl and f'cdecl: Literal["{cdecl}"]', parameters) if part)
        yield "    @overload"
        yield f"    def {method}(self, {given}) -> {result}: ..."


def _callbacks(implemented: Mapping[str, Function]) -> Iterator[str]:
    """The rest of the `ffi` object: each function that C calls is implemented by one that takes what C passes."""
    for name, function in implemented.items():
        passed = ", ".join(kind.value for kind in function.parameters.values())
        result = function.result.value
        error = "" if result == "None" else f", error: {result}"
        yield "    @overload"
        decorator = f"Callable[[Callable[[{passed}], {result}]], object]"
        yield f'    def def_extern(self, *, name: Literal["{name}"]{error}, onerror: OnError) -> {decorator}: ...'
