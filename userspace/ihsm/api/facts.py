# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""What a key object tells of its key."""

from __future__ import annotations

from dataclasses import dataclass

from ihsm.api.kinds import Usage


@dataclass(frozen=True, slots=True)
class KeyFacts:
    """A key in words."""

    kind: str
    usages: tuple[Usage, ...]
    origin: str
    """Where it was made: "device", "host" (and imported), or "derived" in the device from another."""
    label: str | None = None
    """In the store; None for a derived key that is not kept."""
    version: int | None = None
    certificates: tuple[bytes, ...] = ()
    """DER, leaf first."""
    public: bytes | None = None
    """DER SubjectPublicKeyInfo; None for a secret key."""

    @property
    def name(self) -> str:
        """For messages."""
        if self.label is None:
            return f"a derived {self.kind} key"
        return f"key {self.label!r}" if self.version == 1 else f"key {self.label!r} version {self.version}"
