# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Values that options of `ihsm serve` cannot have, refused before anything is done."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Final

import click

from ihsm_abi.tdisp import RequesterId
from ihsm_device.socket_paths import LOCK_SUFFIX

MAX_UID: Final = (1 << 32) - 2
"""The one number more means to the system that a user stays who he is (setresuid(2), chown(2))."""
_DIGITS: Final = len(str(MAX_UID))


def refuse_nan(context: click.Context, parameter: click.Parameter, value: float) -> float:
    """A time."""
    if math.isnan(value):
        raise click.BadParameter("nan is no time", context, parameter)
    return value


def socket_name(context: click.Context, parameter: click.Parameter, value: Path | None) -> Path | None:
    """Where a socket can be made, and told of in a line, and no socket's lock file."""
    if value is None:
        return None
    if not value.name:
        raise click.BadParameter(f"{os.fspath(value)!r} names no socket", context, parameter)
    _require_line(context, parameter, value)
    if value.suffix == LOCK_SUFFIX:
        raise click.BadParameter(
            f"{os.fspath(value)!r} is where another socket has its lock: choose a name without {LOCK_SUFFIX}",
            context,
            parameter,
        )
    return value


def folder(context: click.Context, parameter: click.Parameter, value: Path | None) -> Path | None:
    """A folder, or nothing yet, and told of in a line."""
    if value is None:
        return None
    _require_line(context, parameter, value)
    if value.exists() and not value.is_dir():
        raise click.BadParameter(f"{os.fspath(value)!r} is not a folder", context, parameter)
    return value


def user(context: click.Context, parameter: click.Parameter, value: str | None) -> str | None:
    """A name, or a number that a user can have."""
    if (
        value is not None
        and value.isascii()
        and value.isdecimal()
        and (len(value.lstrip("0")) > _DIGITS or int(value) > MAX_UID)
    ):
        raise click.BadParameter(f"no user has this number: 0 to {MAX_UID} possible", context, parameter)
    return value


def requester_ids(context: click.Context, parameter: click.Parameter, value: tuple[str, ...]) -> tuple[int, ...]:
    """Bus, device and function, of each function."""
    try:
        return tuple(RequesterId.parse(text) for text in value)
    except ValueError as error:
        raise click.BadParameter(str(error), context, parameter) from None


def _require_line(context: click.Context, parameter: click.Parameter, path: Path) -> None:
    """What is printed of a path stays within its line."""
    if len(f"{os.fspath(path)}.".splitlines()) > 1:
        raise click.BadParameter(f"{os.fspath(path)!r} is more than one line", context, parameter)
