# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""What the express lane may see of a partition: live sessions and usable keys (native/express/published.h).

C answers commands by it without asking Python. So what ends a session or a key withdraws it here first; to withdraw
returns when no answer that rests on it can follow.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from ihsm_abi.ddi import ApiRev, DdiOp
from ihsm_device import _native
from ihsm_device._native import ffi, lib
from ihsm_device.hsm.keystore import Handle
from ihsm_device.lifetimes import free_with

ANY_SESSION: Final[int] = lib.IHSM_ANY_SESSION


@dataclass(frozen=True, slots=True)
class ExpressKey:
    """What a key is good for in the express lane; lengths in bytes, 0 where the operation knows no such length."""

    operation: DdiOp
    choices: frozenset[int]
    """Values of the request's enumeration with which the operation succeeds; {0} where it has none."""
    approved: frozenset[int]
    """Those with which it succeeds in the FIPS state."""
    hash: int = 0
    """Of an HMAC key."""
    number_bytes: int = 0
    """A number that the key store gives out, or a tag."""
    wire_bytes: int = 0
    """The same in the response."""
    digest_wire_bytes: int = 0
    """A digest in the request; 0: of any length."""
    digest_significant_bytes: int = 0
    """Those of the digest that may differ from zero."""


class Published:
    """Sessions and keys of one function; every method may be called from any thread."""

    def __init__(self, *, little_endian: bool, fips: bool) -> None:
        """Nothing is published; `little_endian` says how numbers look on the wire, `fips` what responses report."""
        table = lib.ihsm_published_new(little_endian, fips)
        if table == ffi.NULL:
            raise MemoryError
        self._table = table
        free_with(self, lib.ihsm_published_free, table)

    @property
    def native(self) -> _native.Pointer[_native.ihsm_published]:
        """What the engine of the same function knows it by; it must not outlive this object."""
        return self._table

    def session(self, session_id: int, rev: ApiRev) -> None:
        """The session is live; its commands carry this revision."""
        _check(lib.ihsm_publish_session(self._table, session_id, rev.major, rev.minor))

    def key(self, key_id: int, handle: Handle, key: ExpressKey, *, session_id: int = ANY_SESSION) -> None:
        """The key is there; with `session_id` for that session alone."""
        facts = ffi.new("struct ihsm_published_key *")
        facts.handle, facts.operation, facts.session, facts.hash = handle, key.operation, session_id, key.hash
        facts.choices, facts.approved = _bits(key.choices), _bits(key.approved)
        facts.bytes, facts.wire_bytes = key.number_bytes, key.wire_bytes
        facts.digest_wire_bytes = key.digest_wire_bytes
        facts.digest_significant_bytes = key.digest_significant_bytes
        _check(lib.ihsm_publish_key(self._table, key_id, facts))

    def withdraw_session(self, session_id: int) -> None:
        """Take a session away, if it is there."""
        lib.ihsm_withdraw_session(self._table, session_id)

    def withdraw_key(self, key_id: int) -> None:
        """Take a key away, if it is there."""
        lib.ihsm_withdraw_key(self._table, key_id)

    def withdraw_keys(self) -> None:
        """Take all keys away."""
        lib.ihsm_withdraw_keys(self._table)

    def end(self) -> None:
        """Take all sessions away, for good: the error state."""
        lib.ihsm_published_end(self._table)

    def set_fips(self, fips: bool) -> None:
        """Responses report this FIPS state from now on."""
        lib.ihsm_published_set_fips(self._table, fips)


def _bits(values: Iterable[int]) -> int:
    return sum(1 << value for value in values)


def _check(result: int) -> None:
    if result == -errno.ENOMEM:
        raise MemoryError
    if result < 0:
        raise ValueError(f"this cannot be published: {errno.errorcode[-result]}")
