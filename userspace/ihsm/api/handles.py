# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""What all key objects have: where the key rests, how it is used, and what it refuses."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn, Self, TypeVar

from ihsm.api.attest import VerifiedReport, attest
from ihsm.api.connection import Connection, Link
from ihsm.api.errors import KeyNotExportableError
from ihsm.api.facts import KeyFacts
from ihsm.api.kinds import Usage
from ihsm.api.steps import Procedure, Step, one_step
from ihsm.arguments import Octets
from ihsm.ddi import Key, calls
from ihsm.ddi.errors import StatusError
from ihsm.errors import ArgumentError, IhsmError, KeyNotFoundError, KeysLostError
from ihsm_abi.ddi import DdiStatus

T = TypeVar("T")
Maker = Callable[[Key], calls.Call[Key]]
"""A key in the device to the call that makes another of it."""


class Handle:
    """A key at rest: its masked forms, one for each usage, and the connection that brings it into a device."""

    __slots__ = ("connection", "masked", "name")

    def __init__(self, connection: Connection, name: str, masked: Mapping[Usage, tuple[bytes, ...]]) -> None:
        """`name` is for messages; `masked` has the masked keys of each usage, of which AES-XTS has two."""
        self.connection = connection
        self.name = name
        self.masked = masked

    @property
    def some(self) -> tuple[bytes, ...]:
        """Masked keys of one usage or another."""
        return next(iter(self.masked.values()))

    def need(self, operation: str, usage: Usage) -> tuple[bytes, ...]:
        """The masked keys for a usage.

        Raises:
            ArgumentError: the key was not made for it.
        """
        masked = self.masked.get(usage)
        if masked is None:
            raise ArgumentError(
                operation, "key", f"{self.name} was made for {' and '.join(self.masked)}, {usage} is needed"
            )
        return masked

    def run(self, operation: str, usage: Usage, use: Callable[..., Procedure[T]]) -> T:
        """Have `use` work with the key in the device, see `Residents.held`.

        Raises:
            ArgumentError: the key was not made for this usage.
            KeyNotFoundError: the key was deleted meanwhile.
            KeysLostError: the device does not know the key any more.
            IhsmError: whatever the operation raises.
        """
        return self.run_with(operation, self.need(operation, usage), use)

    def run_with(self, operation: str, masked: tuple[bytes, ...], use: Callable[..., Procedure[T]]) -> T:
        """The same with the masked keys of a usage, or some of them."""
        return self._run(operation, lambda link: link.residents.held(masked, use))

    def run_one(self, operation: str, usage: Usage, step_of: Callable[..., Step]) -> Any:
        """Have one step done with the key in the device, see `Connection.run_one`; errors as `run`."""
        masked = self.need(operation, usage)
        try:
            return self.connection.run_one(masked, step_of)
        except (StatusError, KeyNotFoundError) as error:
            raise self._as_told(operation, error) from None

    async def run_one_async(self, operation: str, usage: Usage, step_of: Callable[..., Step]) -> Any:
        """The same, awaited."""
        return await self.run_async(operation, usage, one_step(step_of))

    async def run_async(self, operation: str, usage: Usage, use: Callable[..., Procedure[T]]) -> T:
        """`run`, awaited."""
        masked = self.need(operation, usage)
        return await self._run_async(operation, lambda link: link.residents.held(masked, use))

    def derive(self, operation: str, usage: Usage, makers: Sequence[Maker]) -> tuple[bytes, ...]:
        """Have the device make keys of the key; their masked forms, in the order of `makers`. Errors as `run`."""
        masked = self.need(operation, usage)
        return self._run(operation, lambda link: _derived(link, masked, makers))

    async def derive_async(self, operation: str, usage: Usage, makers: Sequence[Maker]) -> tuple[bytes, ...]:
        """The same, awaited."""
        masked = self.need(operation, usage)
        return await self._run_async(operation, lambda link: _derived(link, masked, makers))

    def _run(self, operation: str, make: Callable[[Link], Procedure[T]]) -> T:
        try:
            return self.connection.run(make)
        except (StatusError, KeyNotFoundError) as error:
            raise self._as_told(operation, error) from None

    async def _run_async(self, operation: str, make: Callable[[Link], Procedure[T]]) -> T:
        try:
            return await self.connection.run_async(make)
        except (StatusError, KeyNotFoundError) as error:
            raise self._as_told(operation, error) from None

    def _as_told(self, operation: str, error: StatusError | KeyNotFoundError) -> IhsmError:
        """The error as the user gets it, who knows the key by its name."""
        if isinstance(error, KeyNotFoundError):
            return KeyNotFoundError(f"{operation}: {self.name} was deleted")
        if error.status is DdiStatus.MaskedKeyDecodeFailed:
            return KeysLostError(
                f"{operation}: {self.name}: the device cannot read this key ({error.status.name}): it was made under "
                "another masking key, by another device or before this one lost its state"
            )
        return error


def _derived(link: Link, masked: tuple[bytes, ...], makers: Sequence[Maker]) -> Procedure[tuple[bytes, ...]]:
    made: list[bytes] = []
    for maker in makers:
        key = yield from link.residents.derived(masked, maker)
        made.append(key.masked_key)
    return tuple(made)


class DeviceKey:
    """Base of all key objects. Copies are the key itself; it does not pickle."""

    def __init__(self, handle: Handle, facts: KeyFacts) -> None:
        """Made by `Hsm`."""
        self._handle = handle
        self.facts = facts
        """Kind, usages, origin, label, version, certificates."""

    @property
    def label(self) -> str | None:
        """Label in the store; None for a key that was derived and is not kept."""
        return self.facts.label

    @property
    def version(self) -> int | None:
        """Version in the store; None for a key that was derived and is not kept."""
        return self.facts.version

    @property
    def kind(self) -> str:
        """Kind, as `Hsm.generate` takes it."""
        return self.facts.kind

    @property
    def usages(self) -> tuple[Usage, ...]:
        """What it is for."""
        return self.facts.usages

    @property
    def origin(self) -> str:
        """Where it was made: "device", "host" (and imported), or "derived" in the device from another."""
        return self.facts.origin

    @property
    def certificates(self) -> tuple[bytes, ...]:
        """Certificates kept with it when this object was made: DER, leaf first."""
        return self.facts.certificates

    def attest(self, report_data: Octets = b"") -> VerifiedReport:
        """The device's report on the key, verified; see `Hsm.attest`."""
        return attest(self._handle, report_data, self.facts.public)

    def __copy__(self) -> Self:
        """The same key: there is nothing to copy."""
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """The same key: there is nothing to copy."""
        return self

    def __reduce__(self) -> NoReturn:
        """A key object cannot be pickled."""
        raise KeyNotExportableError("pickle", f"{self.facts.name} is in the device and cannot be copied elsewhere")

    def __repr__(self) -> str:
        """Kind and name."""
        return f"<{type(self).__name__} {self.facts.kind}: {self.facts.name}>"
