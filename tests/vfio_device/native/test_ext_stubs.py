# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Type stubs of the native modules: they say what the modules have, and a type checker refuses what C must not get."""

from __future__ import annotations

import ast
import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

from ext_stubs import Declarations, stub

MODULES = ("ihsm_device._native", "ihsm._native", "ihsm.bench._native")
HEADER = """
/* struct no_declaration; */
struct opaque; // one that Python never looks into
enum numbers { FIRST, SECOND = 5, THIRD, MINUS = -1, COPY = SECOND };
typedef struct item { uint64_t id; bool live; const uint8_t *data; uint8_t bytes[8]; struct opaque *of; } item;
int make(const char *path, unsigned count, struct opaque **out);
bool test(const struct opaque *object, enum numbers number);
void fill(uint8_t *to, size_t lambda, item *items);
const item *first(void);
void anything(void *data);
"""


def stub_file(name: str) -> Path:
    module = importlib.import_module(name)
    assert module.__file__ is not None
    return Path(module.__file__).parent / "_native.pyi"


def refused(folder: Path, body: str, name: str = "ihsm_device._native") -> list[str]:
    """Messages of the type checker about a program that uses a native module."""
    program = folder / "program.py"
    program.write_text(f"from {name} import ffi, lib\n{body}")
    command = [sys.executable, "-m", "mypy", "--strict", "--config-file=", f"--cache-dir={folder / 'cache'}", program]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    return re.findall(r"program.py:\d+: error: (.*)", done.stdout)


@pytest.mark.parametrize("name", MODULES)
def test_a_stub_has_exactly_what_its_module_has(name: str) -> None:
    module = importlib.import_module(name)
    classes = {
        node.name: node for node in ast.parse(stub_file(name).read_text()).body if isinstance(node, ast.ClassDef)
    }
    functions, constants = set(), {}
    for node in classes["_Lib"].body:
        if isinstance(node, ast.FunctionDef):
            functions.add(node.name)
        elif isinstance(node, ast.AnnAssign):
            assert isinstance(node.target, ast.Name)
            assert node.value is not None
            constants[node.target.id] = ast.literal_eval(node.value)
    implemented_in_python = {name for name in dir(module.lib) if name.startswith("ihsm_py_")}
    assert functions | constants.keys() == set(dir(module.lib)) - implemented_in_python
    assert functions
    for constant, value in constants.items():
        assert getattr(module.lib, constant) == value
    typedefs, structs, _ = module.ffi.list_types()
    for struct in {*typedefs, *structs}:
        kind = module.ffi.typeof(struct if struct in typedefs else f"struct {struct}")
        if fields := [node.target.id for node in classes[struct].body if isinstance(node, ast.AnnAssign)]:
            assert fields == [name for name, _ in kind.fields]
        else:
            with pytest.raises(module.ffi.error, match="know the size"):
                module.ffi.sizeof(kind)


def test_every_declaration_is_typed() -> None:
    text = stub({"header.h": HEADER}, "int called(uint64_t handle, const char *text);\nvoid told(bool loud);")
    for line in (
        "class opaque: ...",
        "    id: int\n    live: bool\n    data: ConstPointer[uint8_t]\n    bytes: Array[uint8_t]\n",
        "    of: Pointer[opaque]\n",
        "    FIRST: Final = 0\n    SECOND: Final = 5\n    THIRD: Final = 6\n    MINUS: Final = -1\n    COPY: Final = 5",
        "    def make(path: ConstPointer[c_char] | ConstPointer[uint8_t] | bytes, count: int, "
        "out: Pointer[Pointer[opaque]], /) -> int: ...",
        "    def test(object: ConstPointer[opaque], number: int, /) -> bool: ...",
        "    def fill(to: Pointer[c_char] | Pointer[uint8_t], lambda_: int, items: Pointer[item], /) -> None: ...",
        "    def first() -> ConstPointer[item]: ...",
        "    def anything(data: Pointer[Any], /) -> None: ...",
        '    def new(self, cdecl: Literal["item *"], init: object = ...) -> item_pointer: ...',
        '    def new(self, cdecl: Literal["struct opaque **"]) -> Array[Pointer[opaque]]: ...',
        '    def def_extern(self, *, name: Literal["called"], error: int, onerror: OnError)'
        " -> Callable[[Callable[[int, ConstPointer[c_char]], int]], object]: ...",
        '    def def_extern(self, *, name: Literal["told"], onerror: OnError)'
        " -> Callable[[Callable[[bool], None]], object]: ...",
    ):
        assert line in text
    ast.parse(text)
    assert "no_declaration" not in text
    assert "int16_t" not in text


@pytest.mark.parametrize("text", ["int variable;", "int f(int, ...);", "float f(void);", "enum e { A = sizeof(int) };"])
def test_what_has_no_stub_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"no stub|must say|only types|only plain"):
        Declarations(text)


@pytest.mark.parametrize("name", MODULES)
def test_stubs_are_correct_python(tmp_path: Path, name: str) -> None:
    assert refused(tmp_path, "print(ffi, lib)\n", name) == []


def test_the_type_checker_knows_what_c_takes(tmp_path: Path) -> None:
    good = """
key, size, out = ffi.new("uint64_t *"), ffi.new("size_t *"), ffi.new("uint8_t[]", 16)
status: int = lib.ks_ec_sign(key[0], b"digest", 6, out, size)
signature: bytes = bytes(ffi.buffer(out, size[0]))
counters = ffi.new("struct ihsm_counters *")
number: int = counters.doorbells + lib.KS_OK
memory = ffi.from_buffer("uint8_t[]", bytearray(8), require_writable=True)
lib.ihsm_loopback_map(lib.ihsm_loopback_new(), 0, len(memory), memory, True)
lib.ihsm_loopback_map(lib.ihsm_loopback_new(), 0, 8, ffi.NULL, True)
name: bytes = ffi.string(lib.ks_self_test_name(0))
"""
    assert refused(tmp_path, good) == []
    bad = {
        'lib.ks_random(b"read-only", 9)': 'has incompatible type "bytes"',
        'lib.ks_random(ffi.from_buffer("uint8_t[]", b"read-only"), 9)': 'has incompatible type "ConstArray[uint8_t]"',
        "lib.ihsm_engine_free(lib.ihsm_loopback_new())": 'has incompatible type "Pointer[ihsm_host]"',
        'lib.ks_generate_secret(1, 2, ffi.new("int *"))': 'has incompatible type "Array[c_int]"',
        "lib.ks_destroy()": "Too few arguments",
        "lib.ks_destroy(1.5)": 'has incompatible type "float"',
        "lib.ks_destroyed(1)": 'has no attribute "ks_destroyed"',
        'ffi.new("struct ihsm_conters *")': "No overload variant",
        'ffi.new("struct ihsm_counters *").doorbels': 'has no attribute "doorbels"',
        "lib.KS_OK = 1": 'Cannot assign to final attribute "KS_OK"',
        "ffi.string(lib.ks_random)": "Argument 1",
    }
    messages = refused(tmp_path, "\n".join(bad) + "\n")
    assert len(messages) == len(bad)
    for message, expected in zip(messages, bad.values(), strict=True):
        assert expected in message
