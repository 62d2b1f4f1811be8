# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Run inside a guest, with tests/ on PYTHONPATH: NIST's AES vectors through an AES queue.

The argument is a number N: every Nth case is taken. Prints one line of JSON per group of cases.
"""

from __future__ import annotations

import json
import sys

from ihsm.bench.device import provision
from ihsm.bus.discovery import find_pci
from ihsm.driver import Controller
from ihsm.uri import DeviceUri, open_uri
from support.nist_aes import NistRun, every_nth


def main() -> None:
    """Submit them all."""
    (found,) = find_pci()
    with Controller(open_uri(DeviceUri.parse(found.uri))) as controller, provision(controller) as session:
        run = NistRun(session, controller.aes_queues[0])
        for group, cases in every_nth(int(sys.argv[1])).items():
            print(json.dumps({"group": group, "ran": len(cases), "differing": run.differing(cases)}), flush=True)


if __name__ == "__main__":
    main()
