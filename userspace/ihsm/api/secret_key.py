# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Shared secrets in the device, and the keys that are derived from them there (spec 05 §10, §11)."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from cryptography.hazmat.primitives import hashes

from ihsm.api.buffers import Buffer, frozen
from ihsm.api.digests import device_hash
from ihsm.api.facts import KeyFacts
from ihsm.api.handles import DeviceKey, Handle, Maker
from ihsm.api.kinds import DEVICE_USAGES, Family, Kind, Usage, derived_kind_of
from ihsm.api.symmetric import SYMMETRIC_CLASSES, SymmetricKey
from ihsm.arguments import whole
from ihsm.ddi import Key, KeyRequest, calls
from ihsm.errors import ArgumentError, ArgumentTypeError
from ihsm_abi.ddi import HashAlgorithm, KeyType

PARAMETER_MAX_BYTES: Final = 256
"""Of salt, info, label and context (spec 05 §11.1)."""

Parameter = Buffer | tuple[Buffer, Buffer] | None
"""What tells one derived key from another; for AES-XTS, which is two keys, a pair."""


class SecretKey(DeviceKey):
    """A shared secret that key agreement left in the device; it is good for nothing but deriving keys."""

    def hkdf(
        self,
        algorithm: hashes.HashAlgorithm,
        *,
        kind: str,
        salt: Buffer | None = None,
        info: Parameter = None,
        length: int | None = None,
    ) -> SymmetricKey:
        """Derive a key by HKDF (RFC 5869), extract and expand.

        Args:
            algorithm: SHA-1, SHA-256, SHA-384 or SHA-512.
            kind: of the derived key: an AES kind, or hmac-sha256, hmac-sha384, hmac-sha512.
            salt: up to 256 bytes; None is the empty one of RFC 5869.
            info: up to 256 bytes; for aes256-xts a pair of different ones, for data key and tweak key, each of which is
                a derivation of 32 bytes.
            length: of an HMAC key, in bytes: 32 to 64 with SHA-256, 48 to 128 with SHA-384, 64 to 128 with SHA-512;
                None: that of a digest.

        Returns:
            A key of the device, not kept in the store before `Hsm.keep`.

        Raises:
            ArgumentError, ArgumentTypeError: something that cannot be.
            UnsupportedByDeviceError: another hash.
        """
        plan = _hkdf_plan("hkdf", algorithm, kind, salt, info, length)
        return self._object(plan, self._handle.derive("hkdf", Usage.DERIVE, plan.makers))

    async def hkdf_async(
        self,
        algorithm: hashes.HashAlgorithm,
        *,
        kind: str,
        salt: Buffer | None = None,
        info: Parameter = None,
        length: int | None = None,
    ) -> SymmetricKey:
        """The same, awaited."""
        plan = _hkdf_plan("hkdf_async", algorithm, kind, salt, info, length)
        return self._object(plan, await self._handle.derive_async("hkdf_async", Usage.DERIVE, plan.makers))

    def kbkdf(
        self,
        algorithm: hashes.HashAlgorithm,
        *,
        kind: str,
        label: Buffer | None = None,
        context: Parameter = None,
        length: int | None = None,
    ) -> SymmetricKey:
        """Derive a key by KBKDF in counter mode with HMAC (NIST SP 800-108r1 §4.1).

        Counter of 32 bits before the fixed data, which are label, a zero byte, context and the length in 32 bits. A
        device with the firmware's profile first derives from the secret by HKDF with the context (spec 05 §11.4).
        What is not described here is as for `hkdf`.

        Args:
            label: up to 256 bytes.
            context: up to 256 bytes; for aes256-xts a pair of different ones, for data key and tweak key.

        Raises:
            ArgumentError, ArgumentTypeError, UnsupportedByDeviceError: as for `hkdf`.
        """
        plan = _kbkdf_plan("kbkdf", algorithm, kind, label, context, length)
        return self._object(plan, self._handle.derive("kbkdf", Usage.DERIVE, plan.makers))

    async def kbkdf_async(
        self,
        algorithm: hashes.HashAlgorithm,
        *,
        kind: str,
        label: Buffer | None = None,
        context: Parameter = None,
        length: int | None = None,
    ) -> SymmetricKey:
        """The same, awaited."""
        plan = _kbkdf_plan("kbkdf_async", algorithm, kind, label, context, length)
        return self._object(plan, await self._handle.derive_async("kbkdf_async", Usage.DERIVE, plan.makers))

    def _object(self, plan: _Plan, masked: tuple[bytes, ...]) -> SymmetricKey:
        kind = plan.kind
        facts = KeyFacts(kind=kind.name, usages=kind.usages, origin="derived")
        return SYMMETRIC_CLASSES[kind.family](
            Handle(self._handle.connection, facts.name, {kind.usages[0]: masked}), facts
        )


@dataclass(frozen=True, slots=True)
class _Plan:
    """A derivation, checked: one call for each key of the device that the derived one consists of."""

    kind: Kind
    derive: Callable[[bytes | None, Key], calls.Call[Key]]
    parameters: tuple[bytes | None, ...]
    """What `derive` is given for each, before the secret."""

    @property
    def makers(self) -> list[Maker]:
        """The calls, once the secret is in the device."""
        return [functools.partial(self.derive, parameter) for parameter in self.parameters]


def _hkdf_plan(
    operation: str,
    algorithm: hashes.HashAlgorithm,
    kind_name: str,
    salt: Buffer | None,
    info: Parameter,
    length: int | None,
) -> _Plan:
    kind, hash_algorithm = derived_kind_of(operation, kind_name), _hash(operation, algorithm)
    key_type, key_length = _type_and_length(operation, kind, length)
    request = KeyRequest(DEVICE_USAGES[kind.usages[0]])
    # Present also where it is empty: for an absent one the firmware takes 256 zero bytes (spec 05 §11.3).
    chosen = b"" if salt is None else _short(operation, "salt", salt)

    def derive(part: bytes | None, secret: Key) -> calls.Call[Key]:
        return calls.hkdf(secret, hash_algorithm, key_type, request, salt=chosen, info=part, key_length=key_length)

    return _Plan(kind, derive, _parts(operation, kind, "info", info))


def _kbkdf_plan(
    operation: str,
    algorithm: hashes.HashAlgorithm,
    kind_name: str,
    label: Buffer | None,
    context: Parameter,
    length: int | None,
) -> _Plan:
    kind, hash_algorithm = derived_kind_of(operation, kind_name), _hash(operation, algorithm)
    key_type, key_length = _type_and_length(operation, kind, length)
    request = KeyRequest(DEVICE_USAGES[kind.usages[0]])
    chosen = None if label is None else _short(operation, "label", label)

    def derive(part: bytes | None, secret: Key) -> calls.Call[Key]:
        return calls.kbkdf(secret, hash_algorithm, key_type, request, label=chosen, context=part, key_length=key_length)

    return _Plan(kind, derive, _parts(operation, kind, "context", context))


def _hash(operation: str, algorithm: hashes.HashAlgorithm) -> HashAlgorithm:
    if not isinstance(algorithm, hashes.HashAlgorithm):
        raise ArgumentTypeError(operation, "algorithm", f"{type(algorithm).__name__}, must be a HashAlgorithm")
    return device_hash(operation, "derives", algorithm)


def _type_and_length(operation: str, kind: Kind, length: int | None) -> tuple[KeyType, int | None]:
    """Type of the derived key, and its length where the type does not say it."""
    assert kind.key_type is not None
    if length is None:
        return kind.key_type, None
    size, variable = whole(operation, "length", length), kind.variable
    fixed = kind.hmac_bytes or kind.aes_bytes
    if size == fixed:
        return kind.key_type, None
    if variable is None:
        raise ArgumentError(operation, "length", f"{size}, {kind.name} has {fixed} bytes")
    if not variable.low <= size <= variable.high:
        problem = f"{size}, {kind.name} has {variable.low} to {variable.high} bytes"
        raise ArgumentError(operation, "length", problem)
    return variable.key_type, size


def _parts(operation: str, kind: Kind, argument: str, value: Parameter) -> tuple[bytes | None, ...]:
    if kind.family is Family.XTS:
        if not isinstance(value, tuple) or len(value) != 2:
            problem = f"{kind.name} is two keys: a pair needed, for the data key and for the tweak key"
            raise ArgumentError(operation, argument, problem)
        first, second = (_short(operation, argument, part) for part in value)
        if first == second:
            raise ArgumentError(operation, argument, "the two keys of AES-XTS would be the same (IEEE 1619)")
        return first, second
    if isinstance(value, tuple):
        raise ArgumentTypeError(operation, argument, f"a pair, {kind.name} is one key")
    return (None if value is None else _short(operation, argument, value),)


def _short(operation: str, argument: str, value: Buffer) -> bytes:
    data = frozen(operation, argument, value)
    if len(data) > PARAMETER_MAX_BYTES:
        raise ArgumentError(operation, argument, f"{len(data)} bytes, at most {PARAMETER_MAX_BYTES} possible")
    return data
