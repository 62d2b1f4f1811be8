# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Where in a guest's memory the sections of its modules lie, for a debugger."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ihsm.guest.initramfs import GuestModule

_LINE = re.compile(r"(\w+) (\S+) (0x[0-9a-f]+)", re.ASCII)


@dataclass(frozen=True, slots=True)
class Loaded:
    """Modules that a guest has loaded: `addresses` by kernel's name of the module and by section.

    `kallsyms`: where the guest has put a copy of its /proc/kallsyms.
    """

    addresses: Mapping[str, Mapping[str, int]]
    modules: Sequence[GuestModule]
    kallsyms: Path


class Sections:
    """Addresses by module and section, as the guest's init reports them from /sys/module/NAME/sections."""

    def __init__(self) -> None:
        """None yet."""
        self.addresses: dict[str, dict[str, int]] = {}

    def hear(self, line: str) -> None:
        """Take in "MODULE SECTION ADDRESS"; what is no such line says nothing."""
        if match := _LINE.fullmatch(line.strip()):
            self.addresses.setdefault(match[1], {})[match[2]] = int(match[3], 16)
