# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Which store, which device, which PIN: what all commands that use keys ask, and how they open both."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from ihsm.cli.common import store_option, wait_option
from ihsm.cli.completing import complete_keys
from ihsm.cli.inputs import claim_stdin
from ihsm.cli.pin import pin_options, read_pin_of
from ihsm.errors import WrongArgumentError
from ihsm.store import KeyRecord, KeyVersion, Store, split_label

if TYPE_CHECKING:
    from ihsm.api.hsm import Hsm
    from ihsm.driver import DriverOptions

STDIN_FD: Final = 0


@dataclass(frozen=True, slots=True)
class Place:
    """A store and its device, not opened yet: a command first reads its input."""

    store: str | None
    device: str | None = None
    wait_s: float = 0.0
    pin_file: Path | None = None
    pin_fd: int | None = None

    def files(self) -> Store:
        """The store without device and PIN: public keys and facts."""
        return Store.open(self.store, unlock=False)

    def hsm(self, options: DriverOptions | None = None) -> Hsm:
        """Store and device; errors as `Hsm.open`. A PIN is asked for on the terminal if none was given."""
        from ihsm.api.hsm import Hsm

        store = self.files()
        pin = read_pin_of(store, self.pin_file, self.pin_fd)
        return Hsm.open(store.name, device=self.device, pin=pin, wait_s=self.wait_s, options=options)

    def key(self, name: str) -> tuple[KeyRecord, KeyVersion]:
        """What the store has of a key, "web" or "web@1"; KeyNotFoundError."""
        label, number = split_label(name)
        record = self.files().key(label)
        return record, record.version(number)


class KeyName(click.ParamType):  # type: ignore[type-arg]  # generic in newer versions only
    """Type of an argument that names a key, or a version of one; a shell completes it."""

    name = "key"

    def __init__(self, *, new: bool = False) -> None:
        """`new`: a label alone, for a key that is to be made."""
        self.new = new

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """The name, if it can be one."""
        try:
            label, number = split_label(value)
        except WrongArgumentError as error:
            self.fail(str(error), param, ctx)
        if self.new and number is not None:
            self.fail(f"{label!r}: a version is not chosen; `ihsm key rotate {label}` makes the next one", param, ctx)
        return str(value)


def key_argument(function: Callable[..., Any]) -> Callable[..., Any]:
    """The argument KEY: the command gets `key: str`."""
    return click.argument("key", type=KeyName(), metavar="KEY", shell_complete=complete_keys)(function)


def label_argument(function: Callable[..., Any]) -> Callable[..., Any]:
    """The argument LABEL of a command that makes a key: the command gets `label: str`."""
    return click.argument("label", type=KeyName(new=True), metavar="LABEL")(function)


def store_place(function: Callable[..., Any]) -> Callable[..., Any]:
    """Option of a command that needs no device: it gets `place: Place`."""

    @functools.wraps(function)
    def command(*arguments: Any, store: str | None, **options: Any) -> Any:
        return function(*arguments, place=Place(store), **options)

    decorated: Callable[..., Any] = store_option(command)
    return decorated


def hsm_place(function: Callable[..., Any]) -> Callable[..., Any]:
    """Options of a command that uses keys in the device: it gets `place: Place`."""

    @functools.wraps(function)
    def command(
        *arguments: Any,
        store: str | None,
        device: str | None,
        wait_s: float,
        pin_file: Path | None,
        pin_fd: int | None,
        **options: Any,
    ) -> Any:
        if pin_fd == STDIN_FD:
            claim_stdin("--pin-fd 0")
        return function(*arguments, place=Place(store, device, wait_s, pin_file, pin_fd), **options)

    device_option = click.option(
        "--device",
        metavar="URI",
        help="vfio-user:PATH, pci:BDF or chardev:PATH. [default: $IHSM_DEVICE, else the store's own]",
    )
    decorated: Callable[..., Any] = command
    for option in (wait_option, pin_options(), device_option, store_option):
        decorated = option(decorated)
    return decorated
