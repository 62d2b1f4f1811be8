# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""What the installed distribution says of itself, its version and its commands, read from its files.

`importlib.metadata` says the same and brings `email`, `zipfile` and `csv` with it, which take as long to load as all
else that `ihsm --version` needs. It is asked only where the files are not found, and for
commands of other distributions.
"""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any, Final

DISTRIBUTION: Final = "ihsm"
COMMAND_GROUP: Final = "ihsm.commands"
_FOLDER_SUFFIX: Final = ".dist-info"
"""Of the folder NAME-VERSION.dist-info beside a distribution's packages (PyPA, recording installed projects)."""


def version() -> str:
    """Version of the installed distribution."""
    for line in _lines("METADATA"):
        if not line:
            break
        name, _, value = line.partition(":")
        if name == "Version":
            return value.strip()
    from importlib import metadata

    return metadata.version(DISTRIBUTION)


def command_names() -> list[str]:
    """Names of all commands, those of other distributions too, sorted."""
    from importlib.metadata import entry_points

    return sorted({entry.name for entry in entry_points(group=COMMAND_GROUP)})


def load_command(name: str) -> Any:
    """What the entry point of a command names; None if there is no such command."""
    own = _own_commands().get(name)
    if own is not None:
        module, _, attribute = own.partition(":")
        return getattr(import_module(module), attribute)
    from importlib.metadata import entry_points

    for entry in entry_points(group=COMMAND_GROUP, name=name):
        return entry.load()
    return None


@functools.cache
def _own_commands() -> dict[str, str]:
    """Command -> MODULE:ATTRIBUTE, as this distribution's entry points have it (PyPA, entry points specification)."""
    found = {}
    group = None
    for line in _lines("entry_points.txt"):
        if line.startswith("["):
            group = line.strip("[] ")
        elif group == COMMAND_GROUP and "=" in line:
            name, _, target = line.partition("=")
            found[name.strip()] = target.strip()
    return found


def _lines(name: str) -> Iterator[str]:
    """Lines of a file of the distribution; none if there is no such file."""
    folder = _folder()
    if folder is None:
        return
    try:
        text = (folder / name).read_text()
    except (OSError, UnicodeError):
        return
    yield from (line.strip() for line in text.splitlines())


@functools.cache
def _folder() -> Path | None:
    """The distribution's folder: the first on the path, as imports go."""
    for place in sys.path:
        try:
            names = os.listdir(place or ".")
        except OSError:  # such as a zip file
            continue
        for name in names:
            if name.startswith(f"{DISTRIBUTION}-") and name.endswith(_FOLDER_SUFFIX):
                return Path(place, name)
    return None
