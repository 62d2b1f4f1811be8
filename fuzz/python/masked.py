# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Masked keys whose tag is right: metadata and plaintext are an input's, encrypted under the device's own masking keys.

No client can make such a blob, but a device takes those of its predecessors: whatever one says of its key, UnmaskKey
gives a status or the key, and never an exception.
"""

import functools

from cryptography.hazmat.primitives import hashes, hmac
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from harness import Values, failures_are_findings, instrumented, main

with instrumented():
    from dispatcher import Function, map_of

    from ihsm_abi import mbor
    from ihsm_abi.ddi import API_REV, DdiOp, KeyAttributeFlags, ReqHdr, UnmaskKeyReq, encode_message
    from ihsm_abi.ddi.masked_key import CBC_IV_BYTES, MaskedKeyAttributes, MaskedKeyMetadata, masked_key_head
    from ihsm_abi.hsm_queue import ControlKind
    from ihsm_device.hsm.command import HsmCommand
    from ihsm_device.hsm.device import DeviceOptions
    from ihsm_device.hsm.wire import TYPES

AES_KEY_BYTES = 32
BLOCK_BYTES = 16
IV = bytes(CBC_IV_BYTES)
KEY_TYPES = sorted(TYPES)


class Masker:
    """A provisioned function, and what its masking keys are."""

    def __init__(self) -> None:
        """A virtual device in memory, which shows its keys."""
        self.function = Function(DeviceOptions(validation_hooks=True))
        self.reread()

    def reread(self) -> None:
        """The keys of now: those of the partition and of the session."""
        scene, store = self.function.scene, self.function.device.store
        handles = scene.state.provisioned.masking_key, scene.live(self.function.session).masking_key
        self.keys = [store.hook_reveal(handle) for handle in handles]

    def mask(self, key: bytes, metadata: bytes, plaintext: bytes) -> bytes:
        """A container as the device makes them (spec 03 §12)."""
        padded = plaintext + bytes(BLOCK_BYTES - len(plaintext) % BLOCK_BYTES)
        aes = Cipher(algorithms.AES(key[:AES_KEY_BYTES]), modes.CBC(IV)).encryptor()
        blob = masked_key_head(IV, metadata, len(padded)) + aes.update(padded) + aes.finalize()
        tag = hmac.HMAC(key[AES_KEY_BYTES:], hashes.SHA384())
        tag.update(blob)
        return blob + tag.finalize()


def metadata_of(values: Values, masker: Masker) -> bytes:
    """What the blob says: a type and a length that belong together, mostly; or bytes."""
    how = values.number()
    if how & 7 == 7:
        return values.bytes(values.number())
    if how & 7 == 6:
        return mbor.encode(map_of(MaskedKeyMetadata, values, masker.function))
    key_type = values.choice(KEY_TYPES)
    info = TYPES[key_type]
    flags = KeyAttributeFlags(values.number(2) | values.number() << 16)
    lengths = info.lengths or (info.vault_bytes,)
    metadata = MaskedKeyMetadata(
        svn=values.number(8) if how & 8 else None,
        key_type=key_type,
        key_attributes=MaskedKeyAttributes.of(flags, values.number()),
        bks2_index=values.number(2) if how & 16 else None,
        key_tag=values.number(2) if how & 32 else None,
        key_label=values.bytes(values.number() & 127),
        key_length=values.number(2) if how & 64 else values.choice(lengths),
    )
    return mbor.encode(metadata)


def one_input(data: bytes) -> None:
    """One blob."""
    masker = the_masker()
    values = Values(data)
    key = masker.keys[values.number() & 1]
    blob = masker.mask(key, metadata_of(values, masker), values.rest())
    session = masker.function.session
    try:
        message = encode_message(
            ReqHdr(rev=API_REV, op=DdiOp.UnmaskKey, sess_id=session), UnmaskKeyReq(masked_key=blob)
        )
    except mbor.MborEncodeError:  # longer than a request may be
        return
    masker.function.scene.module.execute(HsmCommand(message, ControlKind.IN_SESSION, True, session))
    assert masker.function.device.error is None, masker.function.device.error
    if masker.function.is_spoiled():
        masker.function.provision()
        masker.reread()


@functools.cache
def the_masker() -> Masker:
    """That of this process."""
    return Masker()


if __name__ == "__main__":
    failures_are_findings()
    main(one_input)
