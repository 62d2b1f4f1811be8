# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""The dissector for Wireshark, which the build makes from the declarations (`ihsm_abi.trace_lua`)."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Final

from ihsm.errors import OutputError

NAME: Final = "ihsm.lua"
PLUGINS: Final = Path(".local/lib/wireshark/plugins")
"""In a home folder: where Wireshark looks for scripts of a user's own."""


def text() -> str:
    """The script."""
    return (resources.files("ihsm.trace") / NAME).read_text()


def install() -> Path:
    """Put the script where Wireshark finds it; its path.

    Raises:
        OutputError: it cannot be written.
    """
    target = Path.home() / PLUGINS / NAME
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text())
    except OSError as error:
        raise OutputError(f"{target}: {error.strerror or error}") from None
    return target
