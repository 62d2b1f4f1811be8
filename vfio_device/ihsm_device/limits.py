# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""What one function may have of the process that serves it, so that the others have the rest.

The process has so many mappings, addresses, descriptors and so much memory; each function gets an equal part of what is
not set aside for the process itself, and never more than a client can make use of.
"""

from __future__ import annotations

import contextlib
import resource
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

from ihsm_abi.pci import MSIX_VECTORS

MIB: Final = 1 << 20
GIB: Final = 1 << 30
TIB: Final = 1 << 40

MAX_REGIONS: Final = 16384
"""A guest with a virtual IOMMU maps pages one by one; with more regions each message would search too long."""
DEFAULT_MAP_COUNT: Final = 65530
"""Linux's vm.max_map_count, where /proc does not show it."""
REPLACED_MAPPINGS: Final = 2 * 8192
"""What pages that clients cut off may cost (MAX_SINGLE_PAGES in native/sigbus.c)."""
OWN_MAPPINGS: Final = 8192
"""Libraries, stacks, key memory."""
MAPPED_BYTES_OF_ALL: Final = 96 * TIB
"""Of the 128 TiB that a process has on x86-64."""
MAX_MAPPED_BYTES: Final = 16 * TIB
"""Twice what libvfio-user takes as one region, more than any guest's memory."""
FILLED_BYTES_OF_ALL: Final = 2 * GIB
MAX_FILLED_BYTES: Final = 256 * MIB
"""More than what is in the client's files for other reasons (native/fills.c): a client touches its memory before it has
the device write there, but for some buffers nobody has used yet."""
MIN_FILLED_BYTES: Final = 16 * MIB
SCRATCH_BYTES: Final = 16 * MIB
"""Memory in the place of a region that a client has cut; what is in it is lost in any case."""
MAX_CONTROL_CONNECTIONS: Final = 64
"""Of one function; a program has one, or two with a trace."""
MIN_CONTROL_CONNECTIONS: Final = 4
CONTROL_CONNECTIONS_OF_ALL: Final = 512
BACKLOG: Final = 64
"""Connections to a control socket that wait to be accepted; beyond that connect(2) waits."""
PROCESS_DESCRIPTORS: Final = 11
"""Standard streams, events and their lists, userfaultfd, the lock of the state."""
PASSING_DESCRIPTORS: Final = 4
"""A file of the state while it is written, and its folder; what /proc has of a client, and of the process itself."""
FUNCTION_DESCRIPTORS: Final = 6
"""Two sockets, the line to the process that looks at clients, the event of its end; the doorbells' page and event."""
MESSAGE_DESCRIPTORS: Final = 16
"""What libvfio-user takes with one message (VFIO_USER_CLIENT_MAX_MSG_FDS_LIMIT)."""
FILE_DESCRIPTORS: Final = 16
"""Of a client's files, which their mappings hold beyond that (IHSM_FILES in native/fills.h)."""
CLIENT_DESCRIPTORS: Final = 2 + MSIX_VECTORS + MESSAGE_DESCRIPTORS + FILE_DESCRIPTORS
"""What a client can have: its connection, of which there is a duplicate, interrupts, messages, files."""


def _mappings() -> int:
    with contextlib.suppress(OSError, ValueError):
        return int(Path("/proc/sys/vm/max_map_count").read_text())
    return DEFAULT_MAP_COUNT


def needed_descriptors(functions: int) -> int:
    """What a process must be able to open so that each function can have a client, and be asked for its status."""
    each = FUNCTION_DESCRIPTORS + CLIENT_DESCRIPTORS + MIN_CONTROL_CONNECTIONS
    return PROCESS_DESCRIPTORS + PASSING_DESCRIPTORS + functions * each


@dataclass(frozen=True, slots=True)
class Limits:
    """Of each function of a process, and of all of them together where it says so."""

    regions: int
    """DMA regions, mapped or not."""
    mapped_bytes: int
    """Addresses of this process that regions take up."""
    filled_bytes: int
    """Bytes of holes in the client's files that the device fills, beyond as many as the client itself has there."""
    control_connections: int
    control_connections_of_all: int
    scratch_bytes: int = SCRATCH_BYTES

    @classmethod
    def of(cls, functions: int) -> Self:
        """The limits of each of `functions` in this process, as the system is set up."""
        descriptors, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        if descriptors == resource.RLIM_INFINITY:
            descriptors = 1 << 20
        spare = max(0, descriptors - needed_descriptors(functions))
        of_all = min(CONTROL_CONNECTIONS_OF_ALL, functions * MIN_CONTROL_CONNECTIONS + spare // 2)
        mappings = max(0, _mappings() - REPLACED_MAPPINGS - OWN_MAPPINGS)
        return cls(
            regions=max(1, min(MAX_REGIONS, mappings // functions)),
            mapped_bytes=min(MAX_MAPPED_BYTES, MAPPED_BYTES_OF_ALL // functions),
            filled_bytes=max(MIN_FILLED_BYTES, min(MAX_FILLED_BYTES, FILLED_BYTES_OF_ALL // functions)),
            control_connections=max(MIN_CONTROL_CONNECTIONS, min(MAX_CONTROL_CONNECTIONS, of_all // functions)),
            control_connections_of_all=of_all,
        )

    def of_memory(self) -> dict[str, int]:
        """Those that C keeps (`struct ihsm_vfu_limits`)."""
        return {
            "regions": self.regions,
            "mapped_bytes": self.mapped_bytes,
            "filled_bytes": self.filled_bytes,
            "scratch_bytes": self.scratch_bytes,
        }

    def memory_texts(self) -> tuple[str, ...]:
        """What is told of a refused region, by `enum ihsm_vfu_limit`."""
        return (
            f"limit of regions: a function has at most {self.regions} (vm.max_map_count shared out)",
            f"limit of mapped bytes: a function has at most {self.mapped_bytes >> 30} GiB of addresses",
            "limit of filled bytes: holes in memory that the device may not write count in full, "
            f"{self.filled_bytes >> 20} MiB for one client",
        )

    def record(self, usage: dict[str, int], connections: int) -> dict[str, Any]:
        """Use and limit of each, for the control socket."""
        used = {**usage, "control_connections": connections}
        return {name: {"used": used[name], "limit": getattr(self, name)} for name in used}
