# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Sizes and counts that no field declaration says (spec 04 §1, 05 §9-§14); lengths in bytes."""

from typing import Final

MAX_SESSIONS: Final = 8
"""Sessions of one partition; their ids are 0 to 7."""
CREDENTIAL_ID_BYTES: Final = 16
PIN_BYTES: Final = 16
SESSION_SEED_BYTES: Final = 48
NONCE_BYTES: Final = 32
CREDENTIAL_IV_BYTES: Final = 16
BK3_BYTES: Final = 48
SEALED_BK3_MAX_BYTES: Final = 512
POTA_SIGNATURE_BYTES: Final = 96
DIGEST_MAX_BYTES: Final = 96
AES_CBC_MAX_BYTES: Final = 1024
HMAC_MESSAGE_MAX_BYTES: Final = 1024
WRAPPED_BLOB_MAX_BYTES: Final = 3072
INTERNAL_APP_ID: Final = bytes.fromhex("E01D5EA36451439DA55C23DED856EFA3")
"""Owner of the device's own keys."""
