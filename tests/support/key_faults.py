# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Faults that many key operations share: key numbers, target properties, room in the vault, undecodable data."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any

from ihsm_abi.ddi import TargetKeyFlags, TargetKeyMetadata, TargetKeyProperties, decode_request_header
from support.faults import Change, Draft, Fault, fault
from support.hsm import Scene
from support.keyring import TAG, keyring


def use_key(name: str, field: str = "key_id") -> Change:
    """Name a key of the keyring, or what `Keyring.id` offers in its place."""

    def change(draft: Draft) -> None:
        draft.inputs[field] = keyring(draft.scene).id(name)

    return change


def put(**inputs: Any) -> Change:
    """Change inputs of the request."""
    return lambda draft: draft.inputs.update(inputs)


def key_faults(rows: dict[str, Iterable[str]], field: str = "key_id") -> tuple[Fault, ...]:
    """A fault for each key name that leads to a row."""
    return tuple(fault(row, "key", plain=use_key(name, field)) for row, names in rows.items() for name in names)


def properties(flags: TargetKeyFlags, label: bytes = b"") -> TargetKeyProperties:
    """Target properties with these flags."""
    return TargetKeyProperties(key_metadata=TargetKeyMetadata.of(flags), key_label=label)


def _with_session_flag(draft: Draft) -> None:
    draft.inputs["flags"] |= TargetKeyFlags.SESSION
    draft.inputs["key_tag"] = TAG


TARGET = (
    fault("usage-set-invalid", "usage", plain=put(flags=TargetKeyFlags.SIGN)),
    fault("usage-set-invalid", "usage", plain=put(flags=TargetKeyFlags.WRAP | TargetKeyFlags.UNWRAP)),
    fault("usage-set-invalid", "usage", plain=put(flags=TargetKeyFlags(0))),
    fault("session-key-with-tag", "tag", plain=_with_session_flag),
    fault("tag-zero", "tag", plain=put(key_tag=0)),
)
"""Faults of target properties and tag; the request is made from the inputs `flags` and `key_tag`."""


def _take_tag(scene: Scene) -> None:
    assert keyring(scene)["aes-tagged"].key_id


VAULT = (
    fault("tag-in-use", "tag", arrange=_take_tag, plain=put(key_tag=TAG)),
    fault("no-space", "room", late=lambda scene: keyring(scene).fill()),
    fault("fragmented", "room", late=lambda scene: keyring(scene).fragment()),
)
BULK_SLOTS = fault("bulk-slots", "slots", "room", late=lambda scene: keyring(scene).fill_bulk_slots())


def _bad_data(data: bytes) -> Change:
    def change(draft: Draft) -> None:
        _, offset = decode_request_header(draft.message)
        draft.message = draft.message[:offset] + data

    return change


def decode_faults(limits: dict[str, int], *, properties_in: bool = False) -> tuple[Fault, ...]:
    """Undecodable data maps: `limits` gives the largest length of each byte-array field."""
    faults = [
        fault("decode-data", "data", raw=_bad_data(data))
        # Not under id 1; no map; a map that ends before its fields; an unknown id.
        for data in (b"\x18\x02\xa0", b"\x18\x01\x00", b"\x18\x01\xb1", b"\x18\x01\xa1\x18\x1e\x18\x00")
    ]
    faults += [
        fault(f"decode-{name.replace('_', '-')}-too-long", "data", wire=_fill(name, size), raw=_lengthen(size))
        for name, size in limits.items()
    ]
    if properties_in:
        faults += [
            fault(
                "decode-key-properties-key-label-too-long",
                "data",
                wire=lambda draft: draft.replace_in("key_properties", key_label=_PATTERN * 128),
                raw=_lengthen(128),
            ),
            fault("decode-key-properties-key-metadata-blob-length", "data", wire=_metadata_pattern, raw=_shorten_blob),
        ]
    return tuple(faults)


_PATTERN = b"\xa5"
_BLOB_BYTES = 16


def _fill(name: str, size: int) -> Change:
    return lambda draft: draft.replace(**{name: _PATTERN * size})


def _lengthen(size: int) -> Change:
    """Make the array of `size` pattern bytes one longer than its declaration allows."""

    def change(draft: Draft) -> None:
        at = draft.message.index(_PATTERN * size)
        length_at = next(
            at - pad - 2
            for pad in range(4)
            if draft.message[at - pad - 3] == 0x80 | pad
            and draft.message[at - pad - 2 : at - pad] == size.to_bytes(2, "big")
        )
        message = bytearray(draft.message)
        message[length_at : length_at + 2] = (size + 1).to_bytes(2, "big")
        message[at:at] = _PATTERN
        draft.message = bytes(message)

    return change


def _metadata_pattern(draft: Draft) -> None:
    metadata = dataclasses.replace(draft.request.key_properties.key_metadata, blob=_PATTERN * _BLOB_BYTES)
    draft.replace_in("key_properties", key_metadata=metadata)


def _shorten_blob(draft: Draft) -> None:
    at = draft.message.index(_PATTERN * _BLOB_BYTES)
    draft.message = draft.message[: at - 1] + bytes([_BLOB_BYTES - 1]) + draft.message[at + 1 :]


def in_host_form(make: Callable[[dict[str, Any]], Any]) -> Callable[[Draft], Any]:
    """A request made from inputs in host form, put into the dialect of the device."""
    return lambda draft: draft.scene.dialect.to_wire(make(draft.inputs))
