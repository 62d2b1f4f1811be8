# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Credential encryption and the key hierarchy: every intermediate value of the interface's golden path."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from ihsm_device.hsm.keystore import (
    ArgumentError,
    CredentialCheck,
    Curve,
    Handle,
    Hash,
    KeyStore,
    Owner,
    PointNotOnCurveError,
    WrongKindError,
)

OWNER = Owner()
NONCE = bytes(range(32))
IV = bytes(range(0xA0, 0xB0))
ID, PIN, SEED = bytes(range(0x10, 0x20)), bytes(range(0x20, 0x30)), bytes(range(0x30, 0x60))
CLIENT_POINT = b"\x04" + bytes.fromhex(
    "4f2bda7fd2105f8467e21f45223ad58863ffa4c084832d9f6c64ffc47fdd519727ab53cb71f9c40de24b64acde61f02f"
    "c7dce130b612fa5dbcac94573a2354fd005d8e9caefdc5fde48304474708bbd82f77e1fd2c630bea236f6f8dccc1678e"
)
POTA_SPKI = bytes.fromhex(
    "3076301006072a8648ce3d020106052b8104002203620004"
    "b34b8c0631557021dd5da7964b0f645443a969a1af9e0e33c1ebd1e9123d329ed7f07b9e37d6b24997351da3656de532"
    "be1d328e70005c0e759f93320dbbcc0b64c0c6d5d7c2122fa3649f20eef05795c070247bc87d81aedba6b03cf244ddd3"
)
BKS = bytes.fromhex(
    "9b4e4eb7adabdcd6b4d507eb68eb26992abbcab55cfb773bc4d0a88c2102b0ac"
    "ad1a17e9ed38275e8b305db8190f82b62da25ac6f070a3e1759c6192ccf419a3"
)
BK_PARTITION = (
    "788818dec7d3df8d584b919e443a51ae8e5142000c644c6518dfc920f0c722bf"
    "8027aa322d68f2dc5ccb6d81a2c6912b775af8c178b183ad1b86e54fafcc61fde2cc7e608ef37c3a61bb471b39be8912"
)
MK = (
    "2f4ddac46123bba03b8db3e2a17faf96195cf5468f5b90ccdbe551361de3ec93"
    "cdcffe9956e0adc797604b3182bdf6dd34b09c9c6544424bc7a19a4cc018b59f890325afefb79ef0ebc83d1f6ef64a47"
)
BK_SESSION = (
    "8ad837831367e90ede86523d8db2834be6bc2fd80e31bf2acab12a9fcb3215cc"
    "92aa2dce644779fa5fde23dc319556ce0394a017ceb7e46b84e13b04420615262a325d32b9f07cd6ede863a36f41c651"
)
CHANNELS = {
    0x11: "cbf53487626eb53711a88b1c21fdcbbe58b4b1f29da1dbca5618db5a35251da3"
    "ff9e1af6eaaed82519ba698078d4959cd4e5e023d65050a5594fb87ec8031ecf76482735bb9b28ec6c9961d8c1722a95",
    0x44: "baf0eb7e5c033029444a0c4bae8e690088edadf957ec66c7ece080b5df0157a7"
    "16ea5b735fab11b1e4ec6506a83c74c521761ea94e63acfd1785095f9f0fcba36536b706eead3164308502e384b17cb4",
}


def device_key(store: KeyStore, byte: int) -> Handle:
    return store.ec_import_scalar(Curve.P384, store.import_secret(bytes([byte]) * 48, OWNER), OWNER)


def channel_of(store: KeyStore, byte: int) -> Handle:
    return store.credential_channel(device_key(store, byte), CLIENT_POINT, NONCE, OWNER)


@pytest.mark.parametrize("byte", CHANNELS)
def test_channel(store: KeyStore, byte: int) -> None:
    assert store.hook_reveal(channel_of(store, byte)).hex() == CHANNELS[byte]


def test_establishing_a_credential(store: KeyStore) -> None:
    channel = channel_of(store, 0x11)
    cipher = bytes.fromhex("e7146700cbdb4956f7c2d8766f5907d2" + "43caa65cf71924a783256a9ca32be256")
    tag = bytes.fromhex(
        "cacd0875b57c0838cf67f6ec7461936f45338def0bf315df8f14da3e682881ddfe2d808991a54a54b4661089c3903961"
    )
    assert store.credential_verify(channel, cipher + IV + NONCE, tag)
    credential = store.credential_decrypt(channel, IV, cipher, OWNER)
    assert credential.id is not None
    assert credential.seed is None
    assert store.credential_id(credential.id) == ID
    assert store.hook_reveal(credential.pin) == PIN
    with pytest.raises(WrongKindError):
        store.credential_id(credential.pin)
    with pytest.raises(WrongKindError):
        store.credential_id(store.import_secret(ID, OWNER))


def test_opening_a_session(store: KeyStore) -> None:
    channel = channel_of(store, 0x44)
    cipher = bytes.fromhex(
        "5efb4e200f6810279f944305f06b8486" + "60b6cd3239b89f29ba95a84539d75709"
        "0e1e9652f0623d4ecad2405f377547af0d12cb099b6c3be07e285882f76195b3b4f141244e9a17d1753b9ce230d3b4f5"
    )
    tag = bytes.fromhex(
        "06ad76078a261bc91ff6fed2747bb492a7863714eccf7f594a4de4f0ba1c054a38faeb3b50279c2a410f8d5f67f15f5f"
    )
    assert store.credential_verify(channel, cipher + IV + NONCE, tag)
    credential = store.credential_decrypt(channel, IV, cipher, OWNER)
    assert credential.seed is not None
    assert store.hook_reveal(credential.seed) == SEED
    bk_partition = store.import_secret(bytes.fromhex(BK_PARTITION), OWNER)
    context = [credential.seed]
    bk_session = store.kbkdf(bk_partition, Hash.SHA384, b"SESSION_BK", context, 80, OWNER, key_offset=32)
    assert store.hook_reveal(bk_session).hex() == BK_SESSION


def test_changing_a_pin(store: KeyStore) -> None:
    channel = channel_of(store, 0x44)
    cipher = bytes.fromhex("187a637b7f10c3e7301b1b54508ba289")
    tag = bytes.fromhex(
        "5a3a5731bf703f05607ce0466323cc0b6b1d135861190fafd719d7f15d649507c1164e7892e29e93eda2d51d07c475b2"
    )
    assert store.credential_verify(channel, cipher + IV + NONCE, tag)
    credential = store.credential_decrypt(channel, IV, cipher, OWNER)
    assert (credential.id, credential.seed) == (None, None)
    assert store.hook_reveal(credential.pin) == PIN


def test_hierarchy(store: KeyStore) -> None:
    bk3 = store.import_secret(bytes(range(48)), OWNER)
    bks = store.import_secret(BKS, OWNER)
    seed = store.import_secret(SEED, OWNER)
    label = (b"PARTITION_BK" + POTA_SPKI).ljust(256, b"\0")
    assert store.hook_reveal(store.kbkdf(bk3, Hash.SHA384, label, [bks], 80, OWNER)).hex() == BK_PARTITION
    mk_seed = store.import_secret(bytes(range(0x60, 0x90)), OWNER)
    assert store.hook_reveal(store.kbkdf(mk_seed, Hash.SHA384, b"MK_DEFAULT", [], 80, OWNER)).hex() == MK
    # The firmware's forms: raw little-endian owner key, BK3_session, seeds in the session's context.
    raw = POTA_SPKI[24:72][::-1] + POTA_SPKI[72:][::-1]
    label = (b"PARTITION_BK" + raw).ljust(256, b"\0")
    assert store.hook_reveal(store.kbkdf(bk3, Hash.SHA384, label, [bks], 80, OWNER)).hex() == (
        "47b56aa95cbd67d1a0f2debf442fabef6dbc6d96a44a0166ead3c538075843bbda19a51e83cb9ec642e9425ecd69a448"
        "16f2add784f0a5c85da17907237a1bb6846cf1aaf56f8d5c3e9d992149186d30"
    )
    bk3_session = store.kbkdf(bk3, Hash.SHA384, b"SESSION_BK3", [], 48, OWNER)
    assert store.hook_reveal(bk3_session).hex() == (
        "097449162ffb7216999ec7b33d0609e437ec32acb177dd0a2d2eb317d6a512a0000346caf0b8eb8a7be35fd49a7d58ef"
    )
    bk_session = store.kbkdf(bk3_session, Hash.SHA384, b"SESSION_BK", [bks, seed], 80, OWNER)
    assert store.hook_reveal(bk_session).hex() == (
        "c8b2338229acbbc2dcfeea0b6c61b30a8b297cb3a603f546132ae19515352466af0c49a3cec30926e1fef78eae00e4cc"
        "f2baed5042c64c7d2b6d3782cd86080023c81af970f77635ffdc2a1979ab82b0"
    )


def test_masked_bk3_of_the_golden_path(store: KeyStore) -> None:
    bk_boot = store.import_secret(
        bytes.fromhex(
            "05111068eb100ab979053d7618691bc75950225f973f11a3696080cb5a9cfb44"
            "5663530558f711528eaf404853e3011f8dc16223a9d1a368cb7f5f7c29058c8e72a72adaa58efa00e3545e91b855e909"
        ),
        OWNER,
    )
    metadata = bytes.fromhex(
        "a518011b000000000000000018021a000000111803a11801800020" + 32 * "00" + "1806800003424b331807190030"
    )
    prefix = bytes.fromhex("010001001000000048000000300000003000") + bytes(34) + IV + metadata
    blob = store.mask(store.import_secret(bytes(range(48)), OWNER), bk_boot, prefix, IV, 48)
    assert len(blob) == 236
    assert blob[140:].hex() == (
        "80b5eb1805158cd6a27ddeaa766e1b20f5e8c50548141ac86f612f71a6aec1eee8cc6a943410a297e739da45fc76eea1"
        "9bf2b9fccdc0edde51dad8213131f763c954fc81b2350ada75944dcd69e8f3a44f534aa5daf9f3fafb3682daf1e6c089"
    )


def test_tampering_fails_verification(store: KeyStore) -> None:
    channel = channel_of(store, 0x11)
    message = bytes(80)
    key = bytes.fromhex(CHANNELS[0x11])[32:]
    tag = store.hmac(store.import_secret(key, OWNER), Hash.SHA384, message)
    assert store.credential_verify(channel, message, tag)
    for bad in (b"", tag[:-1], tag + b"\0", bytes(48), tag[:-1] + bytes([tag[-1] ^ 1])):
        assert not store.credential_verify(channel, message, bad)
    assert not store.credential_verify(channel, message + b"\0", tag)
    assert not store.credential_verify(channel_of(store, 0x44), message, tag)


def encrypted(fields: bytes) -> bytes:
    encryptor = Cipher(algorithms.AES(bytes.fromhex(CHANNELS[0x11])[:32]), modes.CBC(IV)).encryptor()
    return encryptor.update(fields)


def test_verdicts(store: KeyStore) -> None:
    channel = channel_of(store, 0x11)

    def credential(id_: bytes, pin: bytes):  # type: ignore[no-untyped-def]
        return store.credential_decrypt(channel, IV, encrypted(id_ + pin), OWNER)

    stored = credential(ID, PIN)
    last = bytes([PIN[0]]) + PIN[1:15] + bytes([PIN[15] ^ 0x80])
    expected = {
        (ID, PIN): CredentialCheck.MATCH,
        (ID, last): CredentialCheck.MISMATCH,
        (last, PIN): CredentialCheck.MISMATCH,
        (PIN, ID): CredentialCheck.MISMATCH,
        (bytes(16), PIN): CredentialCheck.NULL,
        (ID, bytes(16)): CredentialCheck.NULL,
        (bytes(16), bytes(16)): CredentialCheck.NULL,
    }
    for (id_, pin), verdict in expected.items():
        assert store.credential_check(stored, credential(id_, pin)) == verdict
    assert store.is_zero(credential(bytes(16), PIN).id)
    assert not store.is_zero(stored.pin)


def test_bad_input(store: KeyStore) -> None:
    channel = channel_of(store, 0x11)
    for length in (0, 15, 17, 48, 64, 96):
        with pytest.raises(ArgumentError):
            store.credential_decrypt(channel, IV, bytes(length), OWNER)
    with pytest.raises(ArgumentError):
        store.credential_decrypt(channel, IV[:-1], bytes(16), OWNER)
    with pytest.raises(WrongKindError):
        store.credential_decrypt(store.generate_secret(48, OWNER), IV, bytes(16), OWNER)
    with pytest.raises(PointNotOnCurveError):
        store.credential_channel(device_key(store, 0x11), CLIENT_POINT[:-1] + b"\0", NONCE, OWNER)
    with pytest.raises(WrongKindError):
        store.credential_channel(store.ec_generate(Curve.P256, OWNER), CLIENT_POINT, NONCE, OWNER)
