# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""An lspci that knows IDE and TEE-IO, which Debian 12's does not, for tests: from Debian 13's source package."""

import hashlib
from pathlib import Path
from typing import Final

from bootstrap import source_archives
from bootstrap.layout import CHECKOUT, cache_root, locked, published
from bootstrap.process import run, step

PIN: Final = CHECKOUT / "requirements" / "pciutils.txt"
OPTIONS: Final = ("ZLIB=no", "DNS=no", "HWDB=no", "LIBKMOD=no", "SHARED=no")
PROGRAM: Final = "lspci"


def provide() -> Path:
    """Path of the program; raises SetupError: it cannot be fetched or built."""
    recipe = "\n".join((PIN.read_text(), *OPTIONS))
    folder = cache_root() / "pciutils" / hashlib.sha256(recipe.encode()).hexdigest()[:12]
    with locked(cache_root() / "pciutils.lock"):
        if not (folder / PROGRAM).exists():
            with step("pciutils: fetching and building it"), published(folder) as root:
                source = root / "source"
                source_archives.unpack("pciutils", "trixie", PIN, source, "--strip-components=1")
                run(["make", "-s", *OPTIONS, PROGRAM], cwd=source)
                (source / PROGRAM).rename(root / PROGRAM)
    return folder / PROGRAM
