# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""The two ways in which kernel code fails: an error number for the caller, or an oops, which ends the kernel."""

from __future__ import annotations

import errno as errno_names
import os
from typing import Final

from ihsm_kmod.kernel.reports import Report

ERESTARTSYS: Final = 512
"""A signal interrupted a sleep. The kernel's own number (linux/errno.h): programs see EINTR in its place."""


class Errno(Exception):
    """An error number, raised where a function of Linux returns it negated."""

    def __init__(self, code: int, text: str = "") -> None:
        """`code` is one of the module `errno`, positive; `text` is for whoever reads the trace."""
        name = "ERESTARTSYS" if code == ERESTARTSYS else errno_names.errorcode.get(code, str(code))
        super().__init__(f"{name}: {text or os.strerror(code)}")
        self.errno = code


class Oops(BaseException):
    """The kernel has crashed; every task of it gets one. No `except Exception` of a driver can catch it."""

    def __init__(self, report: Report) -> None:
        """`report` says what the kernel crashed of."""
        super().__init__(str(report))
        self.report = report
