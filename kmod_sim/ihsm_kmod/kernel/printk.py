# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""The kernel's log (linux/printk.h, linux/dev_printk.h)."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from enum import IntEnum
from typing import Protocol, TextIO

from ihsm_kmod.kernel.clock import HZ
from ihsm_kmod.kernel.task import Core, current

_log = logging.getLogger(__name__)


class LogLevel(IntEnum):
    """Levels of the log that drivers use (linux/kern_levels.h)."""

    ERR = 3
    WARNING = 4
    INFO = 6
    DEBUG = 7


@dataclass(frozen=True)
class LogRecord:
    """One line of the log."""

    level: LogLevel
    text: str
    jiffies: int

    def __str__(self) -> str:
        """As `dmesg` shows it."""
        return f"[{self.jiffies / HZ:12.6f}] {self.text}"


class Log:
    """The log of one kernel."""

    def __init__(self, kernel: Core) -> None:
        """Empty."""
        self.records: list[LogRecord] = []
        self.console: TextIO | None = None
        """Where lines go at once."""

    def add(self, record: LogRecord) -> None:
        """Log a line."""
        self.records.append(record)
        if self.console is not None:
            try:
                print(record, file=self.console, flush=True)
            except OSError as error:
                _log.warning("the kernel's log is not written any more: %s", error.strerror or error)
                self.console = None


class Named(Protocol):
    """A device, as far as its messages name it."""

    @property
    def name(self) -> str:
        """Name on its bus."""


def _printk(level: LogLevel, text: str) -> None:
    kernel = current().kernel
    kernel.part(Log).add(LogRecord(level, text, kernel.clock.jiffies))


def pr_err(text: str) -> None:
    """Log an error."""
    _printk(LogLevel.ERR, text)


def pr_warn(text: str) -> None:
    """Log a warning."""
    _printk(LogLevel.WARNING, text)


def pr_info(text: str) -> None:
    """Log something to know."""
    _printk(LogLevel.INFO, text)


def pr_debug(text: str) -> None:
    """Log something for whoever works on the driver."""
    _printk(LogLevel.DEBUG, text)


def _dev_printk(level: LogLevel, device: Named, text: str) -> None:
    driver = getattr(getattr(device, "driver", None), "name", "")
    _printk(level, f"{driver} {device.name}: {text}".lstrip())


def dev_err(device: Named, text: str) -> None:
    """Log an error of a device: `driver 0000:00:04.0: text`."""
    _dev_printk(LogLevel.ERR, device, text)


def dev_warn(device: Named, text: str) -> None:
    """Log a warning about a device."""
    _dev_printk(LogLevel.WARNING, device, text)


def dev_info(device: Named, text: str) -> None:
    """Log something to know about a device."""
    _dev_printk(LogLevel.INFO, device, text)


def dev_dbg(device: Named, text: str) -> None:
    """Log something about a device for whoever works on its driver."""
    _dev_printk(LogLevel.DEBUG, device, text)
