# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""`scripts/audit`: prints what was found and what could not be told, and exits by it."""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

import sbom
from auditing import pins, services

ROOT: Final = Path(__file__).resolve().parents[2]
CLEAN, FOUND, UNKNOWN = 0, 1, 3


def main() -> int:
    """0: all was looked at and nothing found; 1: something was; 3: nothing, but a service was out of reach."""
    parser = argparse.ArgumentParser(prog="scripts/audit", description=__doc__)
    parser.add_argument("--offline", action="store_true", help="ask no service: whether the pins hold together")
    parser.add_argument("--osv-url", default=services.OSV, metavar="URL", help="vulnerability service (%(default)s)")
    given = parser.parse_args()
    bill = sbom.bill(ROOT / "build" / "native")
    lock = ROOT / pins.LOCK
    questions: dict[str, Callable[[], list[str]]] = {"pins that do not hold": lambda: pins.findings(ROOT, bill)}
    if not given.offline:
        questions["vulnerabilities of Python packages"] = lambda: services.vulnerable_packages(lock, given.osv_url)
        questions["vulnerabilities of linked libraries"] = lambda: services.vulnerable_libraries(bill, given.osv_url)
        questions["withdrawn releases"] = lambda: services.withdrawn_packages(lock)
    status = CLEAN
    for what, question in questions.items():
        try:
            found = question()
        except services.UnknownError as error:
            print(f"audit: {what}: NOT KNOWN: {error}")
            status = status or UNKNOWN
            continue
        print(f"audit: {what}: {len(found) or 'none'}")
        for line in found:
            print(f"  {line}")
        status = FOUND if found else status
    return status


if __name__ == "__main__":
    sys.exit(main())
