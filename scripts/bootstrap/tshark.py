# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""tshark, for the tests of traces: the one on PATH, else Debian's own, unpacked into the cache, not installed.

Set-up does not need it; the tests that do provide it on first use. With all it depends on it lies under one folder
and runs through that folder's dynamic loader, so that nothing of the machine changes.
"""

import shutil
from pathlib import Path

from bootstrap.apt import PrivateApt, suite
from bootstrap.layout import cache_root, existing, locked, published, relocate_links
from bootstrap.process import SetupError, output, run, step

PACKAGE = "tshark"
PROGRAM = f"bin/{PACKAGE}"
DATA = "usr/share/wireshark"
ORDINARY_USER = "bin/ordinary_user.so"
"""What makes tshark load scripts for root too; a folder without it is of an older set-up."""
WRAPPER = f"""#!/bin/sh
# Runs the tshark unpacked in this folder with the libraries unpacked beside it.
root=$(dirname "$(dirname "$(readlink -f "$0")")")
libraries=$root/usr/lib/x86_64-linux-gnu:$root/lib/x86_64-linux-gnu # the second up to Debian 12
for folder in "$root/usr/lib" "$root/lib"; do
  loader=$folder/x86_64-linux-gnu/ld-linux-x86-64.so.2
  [ ! -e "$loader" ] || break
done
export WIRESHARK_DATA_DIR=$root/{DATA}
exec "$loader" --preload "$root/{ORDINARY_USER}" --library-path "$libraries" "$root/usr/bin/tshark" "$@"
"""


def provide() -> Path:
    """Path of a `tshark` that runs.

    Raises:
        SetupError: there is none, and it cannot be fetched.
    """
    if found := shutil.which(PACKAGE):
        return Path(found)
    parent = cache_root() / PACKAGE
    with locked(cache_root() / "tshark.lock"):
        folder = existing(parent, ORDINARY_USER) or _unpack(parent / suite())
    return folder / PROGRAM


def _unpack(folder: Path) -> Path:
    with step(f"tshark: unpacking Debian's {PACKAGE} with its libraries into a private folder"):
        apt = PrivateApt(PACKAGE, [f"deb {suite()} main"])
        apt.update()
        with published(folder) as root:
            for deb in apt.download_with_dependencies(PACKAGE, suite()):
                run(["dpkg-deb", "-x", deb, root])
            relocate_links((root / DATA).iterdir(), folder)
            wrapper = root / PROGRAM
            wrapper.parent.mkdir(exist_ok=True)
            source = Path(__file__).with_name("ordinary_user.c")
            run(["cc", "-shared", "-fPIC", "-nostdlib", "-o", root / ORDINARY_USER, source])
            wrapper.write_text(WRAPPER)
            wrapper.chmod(0o755)
            if not output([wrapper, "--version"], check=False).startswith("TShark"):
                raise SetupError(f"the tshark unpacked into {root} does not run")
        apt.discard()
    return folder
