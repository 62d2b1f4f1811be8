# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Run inside a guest, with tests/ on PYTHONPATH: NIST's AES vectors through an AES queue.

The argument is a number N: every Nth case is taken. Prints one line of JSON per group of cases.
"""

from __future__ import annotations

import itertools
import json
import sys

from ihsm.bench.device import provision
from ihsm.bus.discovery import find_pci
from ihsm.driver import Controller
from ihsm.uri import DeviceUri, open_uri
from support.nist_aes import GCM_GROUPS, XTS_GROUPS, NistRun, gcm_cases, xts_cases


def main() -> None:
    """Submit them all."""
    every = int(sys.argv[1])
    groups = {group: gcm_cases(group) for group in GCM_GROUPS} | {group: xts_cases(group) for group in XTS_GROUPS}
    (found,) = find_pci()
    with Controller(open_uri(DeviceUri.parse(found.uri))) as controller, provision(controller) as session:
        run = NistRun(session, controller.aes_queues[0])
        for group, cases in groups.items():
            taken = list(itertools.islice(cases, 0, None, every))
            print(json.dumps({"group": group, "ran": len(taken), "differing": run.differing(taken)}), flush=True)


if __name__ == "__main__":
    main()
