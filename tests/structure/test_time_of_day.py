# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Who looks at the time of day, which may jump: nobody measures or waits with it, or lets something expire by it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]
PRODUCT: Final = ("abi/ihsm_abi", "vfio_device/ihsm_device", "vfio_device/native", "userspace", "kmod_sim")
LOOKS: Final = re.compile(
    r"\btime\.time(_ns)?\(|\bdatetime\.now\(|\butcnow\(|\bCLOCK_REALTIME|\bgettimeofday\(|\btime\(NULL\)"
    r"|\bpthread_cond_timedwait\(|\bpthread_mutex_timedlock\(|\bsem_timedwait\("
)
"""Functions of C that wait until a time of day are found as well."""
KNOWN: Final = {
    "vfio_device/ihsm_device/client_process.py": "shown: since when a client has been there",
    "vfio_device/native/hooks.c": "where the times of a trace begin; from there on they are those of the other clock",
    "userspace/ihsm/bus/vfio_user_wire.py": "shown: whether it was this client that has the function",
    "userspace/ihsm/attest/evidence.py": "whether certificates of others are valid now; callers may give a time",
    "userspace/ihsm/ddi/certificates.py": "whether certificates of others are valid now; callers may give a time",
    "userspace/ihsm/cli/cert.py": "from when a certificate is valid",
    "userspace/ihsm/fields.py": "shown: when a key was made",
    "userspace/ihsm/guest/images.py": "which image was used last; what is made anew costs time alone",
    "kmod_sim/ihsm_kmod/host/files.py": "what programs see as the age of the node",
}


def looks(source: Path) -> Iterator[int]:
    """Lines of a file that look at the time of day."""
    for number, line in enumerate(source.read_text().splitlines(), 1):
        if LOOKS.search(line):
            yield number


def test_everybody_who_looks_is_known() -> None:
    sources = [
        file for folder in PRODUCT for suffix in ("py", "c", "h") for file in (ROOT / folder).rglob(f"*.{suffix}")
    ]
    found = {str(source.relative_to(ROOT)): lines for source in sources if (lines := list(looks(source)))}
    assert found.keys() - KNOWN.keys() == set(), f"take the monotonic clock, or say here what a jump does: {found}"
    assert KNOWN.keys() - found.keys() == set(), "need not be named any more"
