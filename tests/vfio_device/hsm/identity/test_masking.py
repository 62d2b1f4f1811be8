# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Masked keys: the worked examples of spec 05 §16.4, damage of every byte, sizes of every type."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ihsm_abi.ddi import KeyAttributeFlags, KeyType
from ihsm_abi.ddi.masked_key import MaskedKeyAttributes, MaskedKeyMetadata
from ihsm_device.hsm.identity import masking
from ihsm_device.hsm.keystore import Curve, Handle, KeyStore, Owner
from support import oracle

OWNER = Owner()
MASKING_KEY = bytes(range(0x40, 0x90))
IV = bytes(range(0xA0, 0xB0))


@pytest.fixture(scope="module")
def store() -> Iterator[KeyStore]:
    store = KeyStore(validation_hooks=True)
    yield store
    store.close()


@pytest.fixture(scope="module")
def masking_key(store: KeyStore) -> Handle:
    return store.import_secret(MASKING_KEY, OWNER)


def metadata(key_type: KeyType, flags: int, length: int, label: bytes, tag: int | None = None) -> MaskedKeyMetadata:
    return MaskedKeyMetadata(
        svn=1,
        key_type=key_type,
        key_attributes=MaskedKeyAttributes.of(KeyAttributeFlags(flags)),
        bks2_index=0,
        key_tag=tag,
        key_label=label,
        key_length=length,
    )


def test_worked_examples(store: KeyStore, masking_key: Handle) -> None:
    scalar = store.import_secret((0x1122334455667788).to_bytes(32, "big"), OWNER)
    ecc = store.ec_import_scalar(Curve.P256, scalar, OWNER)
    aes = store.import_secret(bytes(range(32)), OWNER)
    for key, description, size, digest in (
        (
            ecc,
            metadata(KeyType.Ecc256Private, 0x3020, 32, b"k1"),
            308,
            "24e3c8e652afe26cde256d5bbec72967bce10eb2bee748fe1e45d48dded07859",
        ),
        (
            aes,
            metadata(KeyType.Aes256, 0xC20, 32, b"k2", 0x0102),
            248,
            "21f90ecb781535ef985e05c6e551f57cc6bee15e2a02f2776840753c3586783d",
        ),
    ):
        store.hook_push_random(IV)
        blob = masking.mask(store, masking_key, key, description)
        assert len(blob) == size
        assert hashlib.sha256(blob).hexdigest() == digest
        assert masking.read(blob).metadata == description
        assert oracle.open_masked(blob, MASKING_KEY).metadata == description


def test_a_key_comes_back_as_it_was(store: KeyStore, masking_key: Handle) -> None:
    keys = {
        KeyType.Ecc384Private: store.ec_generate(Curve.P384, OWNER),
        KeyType.Ecc521Private: store.ec_generate(Curve.P521, OWNER),
        KeyType.Secret521: store.generate_secret(66, OWNER),
        KeyType.HmacSha512: store.generate_secret(64, OWNER),
        KeyType.VarHmac384: store.generate_secret(77, OWNER),
        KeyType.AesXtsBulk256: store.generate_secret(32, OWNER),
        KeyType.Rsa2kPrivate: store.rsa_generate(2048, OWNER),
        KeyType.Rsa2kPrivateCrt: store.rsa_generate(2048, OWNER, crt=True),
    }
    for key_type, key in keys.items():
        blob = masking.mask(store, masking_key, key, metadata(key_type, 0, 1, b""))
        again = masking.unmask_key(store, masking_key, masking.read(blob), key_type, store.size(key), OWNER)
        assert store.hook_reveal(again) == store.hook_reveal(key), key_type
        store.destroy(again)


@given(data=st.data())
def test_no_damaged_blob_is_accepted(store: KeyStore, masking_key: Handle, data: st.DataObject) -> None:
    key = store.import_secret(bytes(48), OWNER)
    blob = bytearray(masking.mask(store, masking_key, key, masking.backup_metadata(b"BK3", 48, bks2_index=0)))
    store.destroy(key)
    match data.draw(st.sampled_from(["flip", "cut", "extend", "splice"])):
        case "flip":
            blob[data.draw(st.integers(0, len(blob) - 1))] ^= data.draw(st.integers(1, 255))
        case "cut":
            del blob[data.draw(st.integers(0, len(blob) - 1)) :]
        case "extend":
            blob += data.draw(st.binary(min_size=1, max_size=64))
        case "splice":
            at = data.draw(st.integers(0, 18))
            replacement = data.draw(st.binary(min_size=2, max_size=8))
            if bytes(blob[at : at + len(replacement)]) == replacement:
                return
            blob[at : at + len(replacement)] = replacement
    before = store.statistics().keys
    with pytest.raises(masking.UnmaskError):
        masking.unmask_secret(store, masking_key, masking.read(bytes(blob)), 48, OWNER)
    assert store.statistics().keys == before


@given(st.binary(max_size=400))
def test_any_bytes_are_a_container_or_refused(data: bytes) -> None:
    try:
        masking.read(data)
    except masking.UnmaskError:
        return
    assert len(data) > 68


def test_another_masking_key_opens_nothing(store: KeyStore, masking_key: Handle) -> None:
    other = store.import_secret(MASKING_KEY[::-1], OWNER)
    key = store.import_secret(bytes(80), OWNER)
    blob = masking.read(masking.mask(store, masking_key, key, masking.backup_metadata(b"MK", 80, bks2_index=0)))
    with pytest.raises(masking.UnmaskError):
        masking.unmask_masking_key(store, other, blob, OWNER)
    with pytest.raises(masking.UnmaskError):
        masking.unmask_secret(store, masking_key, blob, 97, OWNER)
    assert store.secrets_equal(masking.unmask_masking_key(store, masking_key, blob, OWNER), key)
