# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Manual pages of all commands, in man(7) markup, from what click knows of them; and what `ihsm --help` says of each.

They are kept in the repository, and the wheel takes them from there: a build needs neither click nor the commands.
"""

import inspect
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

import click

from ihsm.cli import main as ihsm
from written_pages import write

ROOT: Final = Path(__file__).resolve().parents[1]
PAGES: Final = ROOT / "docs" / "man"
SUMMARIES: Final = ROOT / "userspace" / "ihsm" / "cli" / "summaries.txt"
SUMMARIES_HEAD: Final = """# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
# Written by scripts/man-pages from the help texts: change those.
"""
HEAD: Final = r""".\" SPDX-FileCopyrightText: The ihsm authors
.\" SPDX-License-Identifier: Apache-2.0
.\" Written by scripts/man-pages from the help texts: change those.
"""
ENVIRONMENT: Final = (
    ("IHSM_DEVICE", "URI of the device to use, in place of the store's own."),
    ("IHSM_STORE", "Name of the store to use, in place of default."),
    ("XDG_DATA_HOME", "Folder of the folder of the stores, default ~/.local/share."),
    ("IHSM_TRACEBACK", "If set, a failure shows where it happened."),
    ("TMPDIR", "Folder for what comes through a pipe and is too large for memory."),
)
MARKUP: Final = {
    "\\": "\\e",
    "-": "\\-",
    "~": "\\(ti",
    "^": "\\(ha",
    "`": "\\(ga",
    "'": "\\(aq",
    '"': "\\(dq",
    "|": "|\\:",
}
"""Characters that are shown as others, or as nothing, unless they are written so. Behind a bar a line may end."""
FILES: Final = (("$XDG_DATA_HOME/ihsm/NAME/", "The store NAME: keys as the device masked them."),)


def main() -> int:
    """Write the pages, or with `--check` only tell which would change; 1 if there are such."""
    found = [
        write(texts, folder, ROOT, source="commands", script="scripts/man-pages")
        for texts, folder in ((pages(), PAGES), ({SUMMARIES: summaries()}, None))
    ]
    return max(found)


def summaries() -> str:
    """A line for each command of the program: its name, and the first sentence of its help, as click would cut it."""
    lines = []
    for child in children(click.Context(ihsm, info_name="ihsm")):
        words = paragraphs(child)[0].split()
        end = next((index for index, word in enumerate(words) if word.endswith(".")), len(words))
        lines.append(f"{child.info_name} {' '.join(words[: end + 1])}\n")
    return SUMMARIES_HEAD + "".join(lines)


def pages() -> dict[Path, str]:
    """Path and text of every page: one for the program and one for each of its commands."""
    context = click.Context(ihsm, info_name="ihsm")
    found = {PAGES / "ihsm.1": page(context)}
    for child in children(context):
        found[PAGES / f"{child.command_path.replace(' ', '-')}.1"] = page(child)
    return found


def children(context: click.Context) -> Iterator[click.Context]:
    """Contexts of a group's commands, by name; none for other commands."""
    group = context.command
    if isinstance(group, click.Group):
        for name in group.list_commands(context):
            command = group.get_command(context, name)
            assert command is not None
            yield click.Context(command, context, info_name=name)


def page(context: click.Context) -> str:
    """The page of a command, which has all of the commands that it groups; of the program, which only names them."""
    below = list(children(context))
    whole = context.parent is None
    name = context.command_path.replace(" ", "-")
    lines = [
        f'.TH "{name.upper()}" "1" "" "ihsm" "User Commands"',
        ".ad l",
        ".nh",
        ".SH NAME",
        f"{escape(name)} \\- {escape(summary(context))}",
        ".SH SYNOPSIS",
        *synopsis(context),
    ]
    if not whole:
        for child in below:
            lines += [".br", *synopsis(child)]
    lines += [".SH DESCRIPTION", *description(context), *options(context, ".SH OPTIONS")]
    if whole:
        lines += [".SH COMMANDS"]
        for child in below:
            page_name = escape(child.command_path.replace(" ", "-"))
            lines += [".TP", f"\\fB{page_name}\\fR(1)", escape(summary(child))]
        lines += [*definitions(".SH ENVIRONMENT", ENVIRONMENT), *definitions(".SH FILES", FILES)]
        return HEAD + "\n".join(lines) + "\n"
    if below:
        lines += [".SH COMMANDS"]
        for child in below:
            lines += [f'.SS "{escape(child.command_path)}"', *description(child), *options(child, ".PP")]
    lines += [
        ".SH EXIT STATUS",
        "0 after success; the others are those of",
        ".BR ihsm (1).",
        ".SH SEE ALSO",
        ".BR ihsm (1)",
    ]
    return HEAD + "\n".join(lines) + "\n"


def summary(context: click.Context) -> str:
    """The first sentence of a command's help, as the NAME section has it: without its full stop."""
    text = " ".join(paragraphs(context)[0].split())
    sentence = re.match(r".*?[.:;](?= |$)", text)
    first = (sentence[0] if sentence else text).rstrip(".:;")
    return first[0].lower() + first[1:] if not first[:2].isupper() and first.split()[0].lower() != "ihsm" else first


def paragraphs(context: click.Context) -> list[str]:
    """Paragraphs of a command's help."""
    text = inspect.cleandoc(context.command.help or "")
    return [part for part in re.split(r"\n\s*\n", text) if part.strip()]


def synopsis(context: click.Context) -> list[str]:
    """How a command is written."""
    return [f"\\fB{escape(context.command_path)}\\fR {escape(' '.join(context.command.collect_usage_pieces(context)))}"]


def description(context: click.Context) -> list[str]:
    """A command's help."""
    lines: list[str] = []
    for part in paragraphs(context):
        lines += [".PP", escape(" ".join(part.split()))]
    return lines[1:]


def options(context: click.Context, heading: str) -> list[str]:
    """Options of a command with their help."""
    found = [each for each in context.command.get_params(context) if isinstance(each, click.Option)]
    return definitions(heading, [record for each in found if (record := each.get_help_record(context))])


def definitions(heading: str, pairs: Iterable[tuple[str, str]]) -> list[str]:
    """A list of words and what they mean; nothing if there are none."""
    lines: list[str] = []
    for word, meaning in pairs:
        lines += [".TP", f"\\fB{escape(word)}\\fR", escape(" ".join(meaning.split())) or "\\&"]
    return [heading, *lines] if lines else []


def escape(text: str) -> str:
    """Text as man(7) shows it: no character is taken for markup, and a hyphen can be copied into a shell."""
    shown = "".join(MARKUP.get(character, character) for character in text)
    return f"\\&{shown}" if shown.startswith(".") else shown


if __name__ == "__main__":
    sys.exit(main())
