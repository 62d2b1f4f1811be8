# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Run a command that may not make some system calls, as in many a container.

    forbidding.py GROUP[,GROUP ...] PROGRAM [ARGUMENTS]

It and all its children get EPERM for them, by a filter of seccomp that none of them can take off.
"""

from __future__ import annotations

import errno
import os
import sys
from typing import Final

from ihsm_abi import seccomp
from ihsm_abi.seccomp import JUMP_EQUAL, LOAD_WORD, RETURN, Line

FORBIDDEN: Final = {
    "namespaces": {
        "ptrace": 101, "pivot_root": 155, "chroot": 161, "mount": 165, "umount2": 166, "unshare": 272, "setns": 308,
        "open_tree": 428, "move_mount": 429, "fsopen": 430, "mount_setattr": 442,
    },
    "landlock": {"landlock_create_ruleset": 444, "landlock_add_rule": 445, "landlock_restrict_self": 446},
    "filters": {"seccomp": 317},
    "page-faults": {"userfaultfd": 323},
}  # fmt: skip
"""Numbers of x86-64."""


def forbid(groups: str) -> None:
    """Install the filter."""
    numbers = [number for group in groups.split(",") for number in FORBIDDEN[group].values()]
    lines: list[Line | str] = [(LOAD_WORD, 0, 0, seccomp.DATA_NR)]
    lines += [(JUMP_EQUAL, "refuse", 0, number) for number in numbers]
    lines += [(RETURN, 0, 0, seccomp.RET_ALLOW), "refuse", (RETURN, 0, 0, seccomp.RET_ERRNO | errno.EPERM)]
    seccomp.install(seccomp.assemble(lines), 0)


if __name__ == "__main__":
    forbid(sys.argv[1])
    os.execvp(sys.argv[2], sys.argv[2:])
