# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""The key store's hashes, as another library has them."""

from __future__ import annotations

from typing import Final

from cryptography.hazmat.primitives import hashes

from ihsm_device.hsm.keystore import Hash

PYCA: Final = {
    Hash.SHA1: hashes.SHA1(),
    Hash.SHA256: hashes.SHA256(),
    Hash.SHA384: hashes.SHA384(),
    Hash.SHA512: hashes.SHA512(),
}
