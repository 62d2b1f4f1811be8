# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Programs: what a process does with the kernel (Linux: fs/file.c, fs/ioctl.c, kernel/fork.c, kernel/exit.c).

A system call runs in the thread that makes it, so that a debugger steps from `ioctl` into the driver.
"""

from __future__ import annotations

from ihsm_kmod.kernel.mm import AddressSpace


class Process:
    """A process."""

    tgid: int
    mm: AddressSpace
