# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Where in a guest's memory the sections of its modules lie, for a debugger."""

from __future__ import annotations

import re

_LINE = re.compile(r"(\w+) (\S+) (0x[0-9a-f]+)", re.ASCII)


class Sections:
    """Addresses by module and section, as the guest's init reports them from /sys/module/NAME/sections."""

    def __init__(self) -> None:
        """None yet."""
        self.addresses: dict[str, dict[str, int]] = {}

    def __bool__(self) -> bool:
        """Whether there are any."""
        return bool(self.addresses)

    def hear(self, line: str) -> None:
        """Take in "MODULE SECTION ADDRESS"; what is no such line says nothing."""
        if match := _LINE.fullmatch(line.strip()):
            self.addresses.setdefault(match[1], {})[match[2]] = int(match[3], 16)
