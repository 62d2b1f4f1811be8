# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""`scripts/pin-debian`: the table of Debian's packages by hash, from the signed lists of both suites."""

from collections.abc import Iterator
from typing import Final

from bootstrap import golang, kernel, qemu, tshark
from bootstrap.apt import PrivateApt
from ihsm.debian_packages import TABLE

SUITES: Final = ("bookworm", "trixie")
BUILDING: Final = ("flex", "bison", "m4", "bc")
"""What the debug kernel is built with, beside its source."""
HEAD: Final = """\
# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
# Packages that set-up, tests and `ihsm guest --kernel debug` fetch from Debian. Written by scripts/pin-debian.
"""


def main() -> None:
    """Write the table."""
    rows = sorted({f"{digest}  {suite}/{file}\n" for suite, file, digest in pins()}, key=lambda row: row.split()[1])
    TABLE.write_text(HEAD + "".join(rows))


def pins() -> Iterator[tuple[str, str, str]]:
    """Suite, file and SHA-256 of everything that is fetched."""
    for suite in SUITES:
        apt = PrivateApt(f"pins-{suite}", [f"deb {suite} main"])
        apt.update()
        parts = kernel.packages(apt)
        version = ".".join(parts[0].removeprefix("linux-image-").split(".")[:2])
        names = [*parts, f"linux-source-{version}", *golang.packages(apt), *BUILDING]
        for file, digest in apt.locations("download", *names) + apt.locations("install", "-t", suite, tshark.PACKAGE):
            yield suite, file, digest
        apt.discard()
    backports = qemu.SUITES[-1]
    apt = PrivateApt("pins-qemu", [f"deb {suite} main" for suite in qemu.SUITES])
    apt.update()
    for file, digest in apt.locations("install", "-t", backports, qemu.PACKAGE):
        yield backports, file, digest
    apt.discard()


if __name__ == "__main__":
    main()
