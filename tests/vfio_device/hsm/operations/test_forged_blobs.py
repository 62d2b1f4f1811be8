# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Masked keys with a good tag that no device makes: one that has the masking key finds no way in (spec 05 §16.3)."""

from __future__ import annotations

import pytest

from ihsm_abi.ddi import DdiStatus, KeyAttributeFlags, KeyType, UnmaskKeyReq, encode_request
from ihsm_abi.ddi.masked_key import MaskedKeyAttributes, MaskedKeyMetadata
from ihsm_abi.hsm_queue import ControlKind
from ihsm_device.hsm.identity import masking
from ihsm_device.hsm.keystore import Owner
from support.hsm import Scene

AES = KeyAttributeFlags.LOCAL | KeyAttributeFlags.ENCRYPT | KeyAttributeFlags.DECRYPT
OF_SESSION = AES | KeyAttributeFlags.SESSION


def unmasked(scene: Scene, flags: KeyAttributeFlags, *, tag: int | None, length: int = 32) -> DdiStatus:
    """What UnmaskKey answers to an AES-256 key masked with these attributes."""
    session = scene.open_session()
    store, live = scene.module.partition.device.store, scene.live(session.session_id)
    metadata = MaskedKeyMetadata(
        svn=1,
        key_type=KeyType.Aes256,
        key_attributes=MaskedKeyAttributes.of(flags),
        bks2_index=0,
        key_tag=tag,
        key_label=b"",
        key_length=length,
    )
    of_session = bool(flags & KeyAttributeFlags.SESSION)
    masking_key = live.masking_key if of_session else scene.state.provisioned.masking_key
    key = store.generate_secret(length, Owner())
    blob = masking.mask(store, masking_key, key, metadata)
    store.destroy(key)
    message = encode_request(UnmaskKeyReq(masked_key=blob), session_id=session.session_id)
    return scene.send(message, ControlKind.IN_SESSION, session.session_id).status


@pytest.mark.parametrize(
    ("flags", "tag", "status"),
    [
        (AES, None, DdiStatus.Success),
        (AES, 7, DdiStatus.Success),
        (OF_SESSION, None, DdiStatus.Success),
        (AES, 0, DdiStatus.InvalidArg),
        (OF_SESSION, 7, DdiStatus.InvalidArg),
        (OF_SESSION, 0, DdiStatus.InvalidArg),
    ],
)
def test_a_tag_that_no_key_can_have(scene: Scene, flags: KeyAttributeFlags, tag: int | None, status: DdiStatus) -> None:
    scene.provision()
    assert unmasked(scene, flags, tag=tag) == status


def test_a_length_that_is_not_the_types(scene: Scene) -> None:
    scene.provision()
    assert unmasked(scene, AES, tag=None, length=16) == DdiStatus.InvalidArg
