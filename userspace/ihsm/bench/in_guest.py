# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""The ring measurements inside a QEMU guest, through the kernel's VFIO."""

from __future__ import annotations

import sys
from typing import Any, Final

from ihsm.bench.setups import LATENCY_DEVICE
from ihsm.errors import IhsmError
from ihsm.kept import MODULE_OPTIONS, Kept
from ihsm_abi import json_text

MODULES: Final = ("vfio_iommu_type1", "vfio-pci")
TIMEOUT_S: Final = 600


class GuestBenchError(IhsmError):
    """The guest did not deliver results."""


def guest_records(suites: tuple[str, ...] = ("ring",)) -> list[dict[str, Any]]:
    """JSON forms of the results of some suites run in a guest, ids prefixed with `guest-`."""
    with Kept("ihsm-bench-") as kept:
        output = kept.folder / "results.json"
        inside = f"ihsm bench {' '.join(suites)} --device auto --json > {output}"
        command = [sys.executable, *MODULE_OPTIONS, "ihsm", "guest", "--quiet", "--timeout", str(TIMEOUT_S)]
        command += ["--share", str(kept.folder)]
        for module in MODULES:
            command += ["--module", module]
        command += ["--device-args", " ".join(LATENCY_DEVICE), "--exec", inside]
        kept.start(command, logged=(1, 2), log="guest.log")
        status = kept.wait()
        if status or not output.exists():
            last = (kept.folder / "guest.log").read_text(errors="replace").strip().splitlines()[-1:]
            raise GuestBenchError(f"the guest ended with status {status}: {' '.join(last)}")
        document = json_text.parse(output.read_bytes())
    noise = document["machine"]["noise"]
    return [
        record | {"id": f"guest-{record['id']}"} | ({"noisy": [*record.get("noisy", []), *noise]} if noise else {})
        for record in document["results"]
    ]
