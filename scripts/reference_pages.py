# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Reference pages of the public packages, in Markdown, from their docstrings.

Nothing is imported: griffe reads the sources. Public is what a package's `__all__` lists; of a class its methods,
properties and fields, and those of bases that are not public themselves.
"""

import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

import griffe

from written_pages import write

ROOT: Final = Path(__file__).resolve().parents[1]
PAGES: Final = ROOT / "docs" / "reference"
PACKAGES: Final = (
    "ihsm.bus", "ihsm.driver", "ihsm.ddi", "ihsm.attest", "ihsm.aio", "ihsm.store", "ihsm.api",
    "ihsm.testing", "ihsm_kmod.machine",
)  # fmt: skip
"""Packages and modules, the lowest first; a page is called as the last part of the name."""
SOURCES: Final = (ROOT / "userspace", ROOT / "kmod_sim")
"""Where they are."""
ENUMS: Final = ("Enum", "Flag", "IntEnum", "IntFlag", "StrEnum")
"""Bases of a class whose members are what it is for."""
MAX_SIGNATURE: Final = 100
"""Columns of a signature in one line."""
HEAD: Final = """\
<!--
SPDX-FileCopyrightText: The ihsm authors
SPDX-License-Identifier: Apache-2.0
Written by scripts/reference from the docstrings: change those.
-->
"""


class UndocumentedError(Exception):
    """A public name has no docstring, or cannot be found in the sources."""


def main() -> int:
    """Write the pages, or with `--check` only tell which would change; 1 if there are such."""
    return write(pages(), PAGES, ROOT, source="docstrings", script="scripts/reference")


def pages() -> dict[Path, str]:
    """Path and text of every page."""
    return {path_of(name): page(name) for name in PACKAGES}


def path_of(name: str) -> Path:
    """Where the page of a package is."""
    return PAGES / f"{name.rpartition('.')[2]}.md"


def page(name: str, sources: Sequence[Path] = SOURCES) -> str:
    """The page of a package.

    Raises:
        UndocumentedError: see there.
    """
    loader = griffe.GriffeLoader(search_paths=sources, docstring_parser="google", allow_inspection=False)
    for whole in {"ihsm", name.partition(".")[0]}:  # ihsm always: others take bases and types from it
        loader.load(whole)
    loader.resolve_aliases()
    package = loader.modules_collection[name]
    public = {entry: _resolved(package, entry) for entry in sorted(package.exports, key=str)}
    lines = [HEAD, f"# {package.path}", "", *_text(package), "", "| Name | |", "|---|---|"]
    for entry, definition in public.items():
        lines.append(f"| [`{entry}`](#{entry.lower()}) | {_first_paragraph(definition)} |")
    for entry, definition in public.items():
        lines += ["", f"## {entry}", ""]
        if isinstance(definition, griffe.Class):
            lines += _class(definition, {other.path: name for name, other in public.items()})
        elif isinstance(definition, griffe.Function):
            lines += [*_signature(definition, entry), "", *_text(definition)]
        elif isinstance(definition, griffe.Attribute):
            # From the source, for the library writes strings in other quotes than the formatter.
            value = definition.source.partition(" = ")[2]
            lines += ["```py", f"{entry} = {value}", "```", "", *_text(definition)]
        else:
            raise UndocumentedError(f"{definition.path}: neither a class, a function nor a value")
    return "\n".join(lines) + "\n"


def _resolved(package: griffe.Object | griffe.Alias, name: str) -> griffe.Object:
    """What a name of `__all__` stands for, where it is defined."""
    try:
        found = package[name]
    except KeyError:
        raise UndocumentedError(f"{package.path}.{name}: not in the sources") from None
    definition = _definition(found)
    if isinstance(definition, griffe.Module) and name in definition.members:
        definition = _definition(definition[name])  # imported from a module of the same name, it hides that
    _docstring(definition)
    return definition


def _docstring(item: griffe.Object | griffe.Alias) -> griffe.Docstring:
    if item.docstring is None or not item.docstring.value.strip():
        raise UndocumentedError(f"{item.path} has no docstring")
    return item.docstring


def _first_paragraph(item: griffe.Object) -> str:
    return _cell(" ".join(_docstring(item).value.strip().split("\n\n")[0].split()))


def _class(item: griffe.Class, public: dict[str, str]) -> Iterator[str]:
    """A class: its construction, its bases, and what can be used of it."""
    bases = [base for base in item.mro() if base.path in public]
    yield from _signature(item, item.name)
    yield ""
    yield from _text(item)
    if bases:
        names = ", ".join(f"[`{public[base.path]}`](#{public[base.path].lower()})" for base in bases)
        yield from ("", f"Has all that {names} has.")
    constructor = item.members.get("__init__")
    if isinstance(constructor, griffe.Function) and constructor.docstring:
        yield ""
        yield from _text(constructor)
    of_bases = {name for base in bases for name in base.all_members}
    members = {
        name: _awaited(item, _definition(member))
        for name, member in item.all_members.items()
        if not name.startswith("_") and not (member.inherited and name in of_bases)
    }
    if _is_enum(item):
        yield from ("", "| Member | |", "|---|---|")
        for name, member in members.items():
            if isinstance(member, griffe.Attribute) and "class-attribute" in member.labels:
                text = " ".join(member.docstring.value.split()) if member.docstring else ""
                yield f"| `{name}` | {_cell(text)} |"
    elif fields := _fields(item, members):
        yield from ("", "| Field | Type | |", "|---|---|---|")
        for name, field in fields.items():
            text = " ".join(field.docstring.value.split()) if field.docstring else ""
            yield f"| `{name}` | `{_cell(str(field.annotation))}` | {_cell(text)} |"
    for name, member in members.items():
        if isinstance(member, griffe.Function):
            form = _signature(member, name)
        elif isinstance(member, griffe.Attribute) and "property" in member.labels:
            form = iter(["```py", f"{name}: {member.annotation}", "```"])
        else:
            continue
        yield from ("", f"### {item.name}.{name}", "", *form, "", *_text(member))


def _definition(found: griffe.Object | griffe.Alias) -> griffe.Object:
    return found.final_target if isinstance(found, griffe.Alias) else found


def _awaited(item: griffe.Class, member: griffe.Object) -> griffe.Object:
    """What `name = awaited(Class.method)` in a class stands for (`ihsm.procedures`): the method, as a coroutine."""
    call = getattr(member, "value", None)
    if not isinstance(call, griffe.ExprCall) or str(call.function) != "awaited":
        return member
    owner, _, name = str(call.arguments[0]).rpartition(".")
    method = _definition(_definition(item.module[owner]).all_members[name])
    assert isinstance(method, griffe.Function)
    coroutine = griffe.Function(name, parameters=method.parameters, returns=method.returns, docstring=method.docstring)
    coroutine.decorators, coroutine.parent, coroutine.labels = method.decorators, method.parent, {"async"}
    return coroutine


def _is_record(item: griffe.Class) -> bool:
    return "dataclass" in item.labels or any(str(base) == "NamedTuple" for base in item.bases)


def _is_enum(item: griffe.Class) -> bool:
    return any(str(base) in ENUMS for base in item.bases)


def _fields(item: griffe.Class, members: Mapping[str, griffe.Object]) -> dict[str, griffe.Attribute]:
    """Attributes with a type: all of a data class or named tuple, of other classes those with a docstring."""
    return {
        name: member
        for name, member in members.items()
        if isinstance(member, griffe.Attribute)
        and member.annotation is not None
        and "property" not in member.labels
        and (_is_record(item) or member.docstring is not None)
    }


def _cell(text: str) -> str:
    """Text for a cell of a table."""
    return text.replace("|", r"\|")


def _signature(item: griffe.Class | griffe.Function, name: str) -> Iterator[str]:
    """How to call it, as Python writes it, in a fenced block."""
    parts = []
    kinds = griffe.ParameterKind
    before: griffe.ParameterKind | None = None
    for parameter in _parameters(item):
        if before == kinds.positional_only != parameter.kind:
            parts.append("/")
        if parameter.kind == kinds.keyword_only and before not in (kinds.keyword_only, kinds.var_positional):
            parts.append("*")
        stars = "*" if parameter.kind == kinds.var_positional else "**" if parameter.kind == kinds.var_keyword else ""
        annotation = "" if parameter.annotation is None else f": {parameter.annotation}"
        default = "" if parameter.default is None or stars else f" = {parameter.default}"
        parts.append(f"{stars}{parameter.name}{annotation}{default}")
        before = parameter.kind
    if before == kinds.positional_only:
        parts.append("/")
    result = f" -> {_returned(item)}" if isinstance(item, griffe.Function) and item.returns is not None else ""
    prefix = "class " if isinstance(item, griffe.Class) else ""
    if "async" in item.labels:
        prefix = "async "
    for label in ("classmethod", "staticmethod"):
        if label in item.labels:
            prefix = f"@{label}\n{prefix}"
    if isinstance(item, griffe.Class) and _is_enum(item):
        parts = [str(base) for base in item.bases]
    line = f"{prefix}{name}({', '.join(parts)}){result}"
    if len(line.rpartition("\n")[2]) > MAX_SIGNATURE:
        line = f"{prefix}{name}(\n" + "".join(f"    {part},\n" for part in parts) + f"){result}"
    return iter(["```py", line, "```"])


def _returned(item: griffe.Function) -> str:
    """What callers get: an `operation` (`ihsm.procedures`) performs the procedure that its method begins."""
    text = str(item.returns)
    if any(str(decorator.value) == "operation" for decorator in item.decorators):
        return _of_procedure(text)
    return text


def _of_procedure(text: str) -> str:
    """`T` of `Procedure[T]`."""
    return text[len("Procedure[") : -1] if text.startswith("Procedure[") else text


def _parameters(item: griffe.Class | griffe.Function) -> list[griffe.Parameter]:
    """What is passed in a call; a named tuple has its fields."""
    if isinstance(item, griffe.Class) and _is_record(item) and "dataclass" not in item.labels:
        fields = _fields(item, {name: _definition(member) for name, member in item.members.items()})
        kind = griffe.ParameterKind.positional_or_keyword
        return [
            griffe.Parameter(name, annotation=field.annotation, kind=kind, default=field.value)
            for name, field in fields.items()
        ]
    return [parameter for parameter in item.parameters if parameter.name not in ("self", "cls")]


def _text(item: griffe.Object | griffe.Alias) -> Iterator[str]:
    """A docstring: its text, then what is passed, returned and raised as lists."""
    titles = {
        griffe.DocstringSectionKind.parameters: "Arguments",
        griffe.DocstringSectionKind.returns: "Returns",
        griffe.DocstringSectionKind.yields: "Yields",
        griffe.DocstringSectionKind.raises: "Raises",
    }
    separator: list[str] = []
    for section in _docstring(item).parsed:
        yield from separator
        separator = [""]
        if section.kind == griffe.DocstringSectionKind.text:
            yield section.value
        elif section.kind in titles:
            yield from (f"{titles[section.kind]}:", "")
            for entry in section.value:
                name = getattr(entry, "name", "") or _of_procedure(str(entry.annotation))
                yield f"- `{name}`: {' '.join(entry.description.split())}"
        else:
            raise UndocumentedError(f"{item.path}: a docstring's section {section.kind.value!r} has no form here")


if __name__ == "__main__":
    sys.exit(main())
