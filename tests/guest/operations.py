# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Run inside a guest, with tests/ on PYTHONPATH: the golden path, then the self-test, on every function there is.

Prints one line of JSON per function.
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import asdict

from ihsm.bus.discovery import find_pci
from ihsm.ddi import Partition
from ihsm.driver import Controller, DriverOptions
from ihsm.selftest import run_selftest
from ihsm.uri import DeviceUri, open_uri
from support import golden_path


def main() -> None:
    """Walk and test."""
    for found in find_pci():
        start = time.monotonic()
        with Controller(open_uri(DeviceUri.parse(found.uri)), DriverOptions(spin_us=0)) as controller:
            walked = golden_path.walk(controller, lambda opened=controller: opened.reset(subsystem=True))
        with Controller(open_uri(DeviceUri.parse(found.uri)), DriverOptions(spin_us=0)) as controller:
            kind = Partition(controller).info().kind.name
            report = run_selftest(
                controller, progress=lambda step: print(json.dumps(asdict(step)), file=sys.stderr, flush=True)
            )
        record = {
            "kind": kind,
            "walk": walked,
            "selftest": report.record(),
            "seconds": round(time.monotonic() - start, 1),
        }
        print(json.dumps(record), flush=True)


if __name__ == "__main__":
    main()
