# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Memory shared with a device, in a child of fork(): taken out of the child, see `ihsm.forks`."""

from __future__ import annotations

import mmap
import os

from ihsm._native import ffi, lib
from ihsm.errors import ResourceError


def unshare(memory: mmap.mmap) -> None:
    """Put zeroed memory of this process alone where shared memory is mapped; views of it stay valid.

    Raises:
        ResourceError: the kernel has no memory for that; what is there is still shared.
    """
    if memory.closed:
        return
    error = lib.ihsm_unshare(ffi.from_buffer("uint8_t[]", memory, require_writable=True), len(memory))
    if error:
        raise ResourceError(f"memory in a child of fork(): {os.strerror(-error)}", -error)
