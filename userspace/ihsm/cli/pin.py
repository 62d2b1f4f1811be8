# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""The user's PIN of a store: the options that commands share, how it is read, and `ihsm pin`."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import click

from ihsm.cli.common import EXISTING_FILE, read_file, store_option
from ihsm.store import LONGEST_PIN, Store

NO_PIN_NOTICE: Final = (
    "Note: store {name!r} has no PIN: the permissions of its files are all that protects it; `ihsm pin change` sets one"
)
"""What commands say of a store without a PIN, on standard error."""
_TERMINAL: Final = "/dev/tty"


def pin_options(prefix: str = "", what: str = "the store's PIN") -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Options for a PIN; the command gets `pin_file: Path | None` and `pin_fd: int | None`, each behind the prefix."""

    def add(function: Callable[..., Any]) -> Callable[..., Any]:
        for option in (
            click.option(
                f"--{prefix}pin-fd",
                type=click.IntRange(min=0),
                metavar="N",
                help=f"Open descriptor from which a line is read: {what}.",
            ),
            click.option(
                f"--{prefix}pin-file", type=EXISTING_FILE, help=f"File with {what}; a newline at its end is dropped."
            ),
        ):
            function = option(function)
        return function

    return add


def read_user_pin(
    protected: bool, pin_file: Path | None, pin_fd: int | None, *, prompt: str = "PIN", prefix: str = ""
) -> str | None:
    """The PIN that the user gives: from the file or descriptor named, else from the terminal.

    Asked for only where the store is `protected` by one and there is a terminal, be it behind a redirected standard
    input; without it the answer is None, which `Store.open` refuses. `prefix` is that of the options' names.

    Raises:
        click.UsageError: both a file and a descriptor, or what cannot be read.
    """
    _require_one(prefix, pin_file, pin_fd)
    if pin_file is not None:
        option = f"--{prefix}pin-file"
        return _text(_without_newline(read_file(pin_file, option)), option)
    if pin_fd is not None:
        option = f"--{prefix}pin-fd"
        return _text(_without_newline(_read_line(pin_fd, option)), option)
    return ask_pin(prompt) if protected and _has_terminal() else None


def read_pin_of(store: Store, pin_file: Path | None, pin_fd: int | None) -> str | None:
    """The PIN of a store that is there; as `read_user_pin`."""
    return read_user_pin(store.pin_protected, pin_file, pin_fd, prompt=f"PIN of store {store.name!r}")


def ask_pin(prompt: str, *, twice: bool = False) -> str:
    """Ask on the terminal, `twice` for a new one."""
    return str(click.prompt(prompt, hide_input=True, confirmation_prompt=twice, err=True))


def say_if_without_pin(store: Store) -> None:
    """Say on standard error that only the permissions of files protect a store, if it has no PIN."""
    if not store.pin_protected:
        click.echo(NO_PIN_NOTICE.format(name=store.name), err=True)


def _require_one(prefix: str, pin_file: Path | None, pin_fd: int | None) -> None:
    if pin_file is not None and pin_fd is not None:
        raise click.UsageError(f"--{prefix}pin-file and --{prefix}pin-fd cannot be given together")


def _read_line(descriptor: int, option: str) -> bytes:
    """A line, and nothing behind it: the next may be another PIN, or a command's input."""
    line = b""
    try:
        while not line.endswith(b"\n") and (byte := os.read(descriptor, 1)):
            line += byte
            if len(line) > LONGEST_PIN + 2:
                raise click.BadParameter(f"descriptor {descriptor}: no PIN has so many bytes", param_hint=option)
    except OSError as error:
        raise click.BadParameter(f"descriptor {descriptor}: {error.strerror}", param_hint=option) from None
    except OverflowError:
        raise click.BadParameter(f"descriptor {descriptor}: no such number", param_hint=option) from None
    return line


def _without_newline(data: bytes) -> bytes:
    return data.removesuffix(b"\n").removesuffix(b"\r") if data.endswith(b"\n") else data


def _text(data: bytes, option: str) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        pass
    # Not in the handler: the decoder's error holds the PIN.
    raise click.BadParameter("not UTF-8", param_hint=option)


def _has_terminal() -> bool:
    try:
        os.close(os.open(_TERMINAL, os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC))
    except OSError:
        return sys.stdin is not None and sys.stdin.isatty()
    return True


@click.group(
    help="""The PIN of a store.

    It protects the owner's key and the device's credential in the store's files. Exit status 7: wrong PIN, or no store.
    """
)
def pin() -> None:
    """Run `ihsm pin`; a sub-command follows."""


@pin.command(
    help="""Set another PIN, or a store's first one, or with --remove none.

    PINs are asked for on the terminal unless given by file or descriptor; a descriptor may give both, a line each, the
    present one first.
    """
)
@store_option
@pin_options()
@pin_options("new-", "the new PIN")
@click.option("--remove", is_flag=True, help="Have no PIN any more: file permissions are all that is left.")
def change(
    store: str | None,
    pin_file: Path | None,
    pin_fd: int | None,
    new_pin_file: Path | None,
    new_pin_fd: int | None,
    remove: bool,
) -> None:
    """Run `ihsm pin change`."""
    _require_one("", pin_file, pin_fd)
    _require_one("new-", new_pin_file, new_pin_fd)
    given = new_pin_file is not None or new_pin_fd is not None
    if remove and given:
        raise click.UsageError("--remove and a new PIN cannot be given together")
    if not remove and not given and not _has_terminal():
        raise click.UsageError("no terminal to ask for the new PIN: give --new-pin-file, --new-pin-fd or --remove")
    old = read_pin_of(Store.open(store, unlock=False), pin_file, pin_fd)
    opened = Store.open(store, pin=old)  # a wrong one is told before a new one is asked for
    new = None
    if given:
        new = read_user_pin(False, new_pin_file, new_pin_fd, prefix="new-")
    elif not remove:
        new = ask_pin(f"New PIN of store {opened.name!r}", twice=True)
    opened.change_pin(old, new)
    say_if_without_pin(opened)
