# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""From a PIN to the secrets in a header, and back; each refusal as the error that the user sees."""

from __future__ import annotations

from dataclasses import replace

from ihsm.errors import PinRequiredError, StoreDamagedError, StoreError, WrongPinError
from ihsm.store.header import HEADER, Header
from ihsm.store.sealing import OwnerSecrets, PinKey, Scrypt, SealBrokenError, SealedSecrets, prepare_pin


def sealed(header: Header, secrets: OwnerSecrets, pin: str | None) -> tuple[Header, PinKey | None]:
    """The header with its secrets under a PIN or in the clear."""
    if pin is None:
        return replace(header, owner=secrets), None
    key = _derive(Scrypt(), pin)
    return replace(header, owner=key.seal(secrets, header.associated)), key


def unlocked(name: str, header: Header, pin: str | None) -> tuple[OwnerSecrets, PinKey | None]:
    """The secrets, and the key they are sealed under."""
    if isinstance(header.owner, OwnerSecrets):
        if pin is not None:
            raise WrongPinError(f"store {name!r}: has no PIN, and one was given; `ihsm pin change` sets one")
        return header.owner, None
    if pin is None:
        raise pin_required(name)
    key = _derive(header.owner.kdf, pin)
    if not header.owner.fits(key):
        raise WrongPinError(f"store {name!r}: wrong PIN; no device was touched")
    return open_seal(header, header.owner, key, name), key


def open_seal(header: Header, owner: SealedSecrets, key: PinKey, name: str) -> OwnerSecrets:
    """The sealed secrets of a header, with the key that fits them; raises StoreDamagedError."""
    try:
        return owner.open(key, header.associated)
    except SealBrokenError:
        raise StoreDamagedError(
            f"store {name!r}: {HEADER}: id, device, identity or owner were changed by something else than ihsm, or are"
            " damaged; restore it from a copy of the store"
        ) from None


def _derive(kdf: Scrypt, pin: str) -> PinKey:
    prepared = prepare_pin(pin)
    try:
        return kdf.derive(prepared)
    except (MemoryError, ValueError) as error:
        megabytes = 128 * kdf.n * kdf.r >> 20
        raise StoreError(f"PIN: scrypt, which takes {megabytes} MiB of memory, failed here: {error}") from None


def pin_required(name: str) -> PinRequiredError:
    """The error of a store whose PIN was not given."""
    return PinRequiredError(f"store {name!r}: needs its PIN; give it by prompt, --pin-file or --pin-fd, or as pin=")
