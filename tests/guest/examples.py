# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Run inside a guest: the programs of docs/examples that keep keys in a store, on the guest's PCI function.

Usage: examples.py SHARED. The proof of attested_key.py is left in the folder SHARED; prints a line of JSON.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from ihsm import Hsm
from ihsm.bus.discovery import find_pci

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"


def command(name: str, *arguments: str) -> list[str]:
    """The command line of an example."""
    return [sys.executable, str(EXAMPLES / name), *arguments]


def output(name: str, *arguments: str) -> list[str]:
    """The lines that an example prints; raises if it fails."""
    return subprocess.run(command(name, *arguments), stdout=subprocess.PIPE, text=True, check=True).stdout.splitlines()


def reset(uri: str) -> None:
    """A function level reset from outside of the program that has the function."""
    Path("/sys/bus/pci/devices", uri.removeprefix("pci:"), "reset").write_text("1")


def recovered(uri: str) -> list[str]:
    """What recovery.py answers before and after a reset under it."""
    with subprocess.Popen(command("recovery.py"), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as service:
        assert service.stdin is not None
        assert service.stdout is not None
        answers = []
        for number in range(2):
            if number:
                reset(uri)
            service.stdin.write(f"message {number}\n")
            service.stdin.flush()
            answers.append(service.stdout.readline().rstrip("\n"))
    return answers


def copied() -> bool:
    """Whether a file comes back from file_encryption.py as it was."""
    plain, sealed, back = (Path(f"/tmp/{name}") for name in ("plain", "sealed", "back"))
    plain.write_bytes(os.urandom(1_000_001))
    output("file_encryption.py", "encrypt", "archive", str(plain), str(sealed))
    output("file_encryption.py", "decrypt", "archive", str(sealed), str(back))
    return back.read_bytes() == plain.read_bytes() != sealed.read_bytes()


def main() -> None:
    """Make a store on the one function there is, and run them all."""
    with Hsm.create() as hsm:
        key = hsm.generate("service", "p256")
        public = key.public_key().public_numbers()
    (found,) = find_pci()
    record = {
        "request_to_jwt": output("request_to_jwt.py"),
        "attested_key": output("attested_key.py", "prove", "sealed", "nonce", sys.argv[1]),
        "recovery": recovered(found.uri),
        "file_encryption": copied(),
        "service": [public.x, public.y],
    }
    print(json.dumps(record), flush=True)


if __name__ == "__main__":
    main()
