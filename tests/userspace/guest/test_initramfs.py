# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""The guest's first files: commands, folders and modules whose names are no text."""

from __future__ import annotations

import os
from pathlib import Path

from ihsm.guest.initramfs import Boot, GuestCommand, GuestModule, Mode, build
from ihsm.guest.kernel import find_kernel

ODD = b"/odd-\xff\xfe"


def test_names_keep_their_bytes() -> None:
    odd = os.fsdecode(ODD)
    command = GuestCommand(f"cat {odd}/file", Path(odd), {"HOME": f"{odd}/home"})
    module = GuestModule(f"{odd}/a.ko", b"elf", f"path={odd}/parameter")
    archive = build(find_kernel(), command, [module], Boot(Mode.EXEC, b"end", [Path(f"{odd}/share")]))
    for tail in (b"/file", b"' ||", b"/home'", b"/a.ko", b"/parameter", b"/share\n"):
        assert ODD + tail in archive, tail
