# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""The ring measurements inside a QEMU guest, through the kernel's VFIO."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Final

from ihsm.bench.setups import LATENCY_DEVICE
from ihsm.embedded import MODULE_OPTIONS, child_environment
from ihsm.errors import IhsmError

MODULES: Final = ("vfio_iommu_type1", "vfio-pci")
TIMEOUT_S: Final = 600


class GuestBenchError(IhsmError):
    """The guest did not deliver results."""


def guest_records(suites: tuple[str, ...] = ("ring",)) -> list[dict[str, Any]]:
    """JSON forms of the results of some suites run in a guest, ids prefixed with `guest-`."""
    with tempfile.TemporaryDirectory(prefix="ihsm-bench-") as folder:
        output = Path(folder, "results.json")
        inside = f"ihsm bench {' '.join(suites)} --device auto --json > {output}"
        command = [
            sys.executable,
            *MODULE_OPTIONS,
            "ihsm",
            "guest",
            "--quiet",
            "--timeout",
            str(TIMEOUT_S),
            "--share",
            folder,
        ]
        for module in MODULES:
            command += ["--module", module]
        command += ["--device-args", " ".join(LATENCY_DEVICE), "--exec", inside]
        ended = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", env=child_environment()
        )
        if ended.returncode or not output.exists():
            last = (ended.stderr.strip() or ended.stdout.strip()).splitlines()[-1:]
            raise GuestBenchError(f"the guest ended with status {ended.returncode}: {' '.join(last)}")
        document = json.loads(output.read_text())
    return [record | {"id": f"guest-{record['id']}"} for record in document["results"]]
