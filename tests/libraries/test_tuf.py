# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""tuf signs a repository's metadata with the keys as they are; OpenSSL verifies, and so does tuf's own client side."""

from __future__ import annotations

from pathlib import Path

import pytest
from securesystemslib.signer import CryptoSigner
from tuf.api.exceptions import UnsignedMetadataError
from tuf.api.metadata import Metadata, Root, Snapshot, Targets, Timestamp

from libraries.judges import openssl_verifies
from libraries.rig import DAY, NOW, DeviceKey, Signs

PSS = ("-sha256", "-sigopt", "rsa_padding_mode:pss", "-sigopt", "rsa_pss_saltlen:32")


def test_the_metadata_of_each_role_is_signed_in_the_device(key: DeviceKey, signs: Signs, tmp_path: Path) -> None:
    signer = CryptoSigner(key)
    expires = NOW + DAY
    root = Root(expires=expires)
    for role in ("root", "snapshot", "targets", "timestamp"):
        root.add_key(signer.public_key, role)
    roles = [Metadata(each) for each in (root, *(kind(expires=expires) for kind in (Snapshot, Targets, Timestamp)))]
    with signs(key, 4):
        for metadata in roles:
            metadata.sign(signer)
    options = () if hasattr(key, "curve") else PSS
    for metadata in roles:
        (signature,) = metadata.signatures.values()
        raw = bytes.fromhex(signature.signature)
        openssl_verifies(tmp_path, key.public_key(), raw, metadata.signed_bytes, *options)
        root.verify_delegate(metadata.signed.type, metadata.signed_bytes, metadata.signatures)
    with pytest.raises(UnsignedMetadataError, match="signed by 0/1"):
        root.verify_delegate("root", roles[1].signed_bytes, roles[0].signatures)
