# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Named profiles: where simulator (S) and firmware (F) differ and both are legitimate (spec README §3).

An attribute is a row of that table which a profile may choose. Most rows have one implementation, the firmware's;
docs/hsm.md lists both kinds.
"""

from dataclasses import dataclass, fields, replace
from enum import Enum
from typing import Final

from ihsm_abi.ddi import KeyAttributeFlags, KeyType


class BulkNumbers(Enum):
    """What `bulk_key_id` and the key fields of the fast path hold (spec 02 E.1)."""

    KEY_ID = "key-id"
    SLOT_AND_GROUP = "slot-and-group"


class LeafForm(Enum):
    """Form of the partition certificate (spec 06 §1.8, §10.2)."""

    COMPATIBLE = "compatible"
    REAL = "real"


class AttestationClaims(Enum):
    """How the claim bits of an attestation report follow from the key (spec 05 §14.3)."""

    CLIENT_TABLE = "client-table"
    STORED_FLAGS = "stored-flags"


@dataclass(frozen=True, slots=True)
class UnwrappingKeyMetadata:
    """Type and flags in the masked form of the unwrapping key (spec 05 §12.3)."""

    key_type: KeyType
    flags: KeyAttributeFlags


@dataclass(frozen=True, slots=True)
class Profile:
    """One named choice for every row that has one, in the table's order."""

    name: str

    init_bk3_repeatable: bool = True
    """S: InitBk3 may be repeated and checks the length of BK3. F: once, Bk3AlreadyInitialized, length not checked."""
    pota_key_kind_checked: bool = True
    """S: a POTA key_kind other than Ecc384Public is an InvalidArg. F: it is ignored."""
    bmk_echoed: bool = True
    """S: EstablishCredential answers with the BMK it was sent. F: with one re-created under the current SVN."""
    leaf_form: LeafForm = LeafForm.COMPATIBLE
    lost_client_frees_sessions: bool = True
    """Ours: session ids that nobody can close any more are freed. F has no such event; they stay flagged."""
    restart_keeps_identity: bool = True
    """Ours: a restart with a state directory keeps identity, BK_BOOT and sealed BK3. F: a power cycle keeps nothing."""
    unwrapping_key_may_be_pending: bool = False
    """F: PendingKeyGeneration while the key is being made. S: provisioning waits for it."""
    unwrapping_key_metadata: UnwrappingKeyMetadata = UnwrappingKeyMetadata(
        KeyType.Rsa2kPrivate, KeyAttributeFlags.LOCAL | KeyAttributeFlags.WRAP | KeyAttributeFlags.UNWRAP
    )
    bulk_numbers: BulkNumbers = BulkNumbers.KEY_ID
    hkdf_absent_salt_is_empty: bool = True
    """S: RFC 5869. F: an absent salt is 256 zero bytes."""
    kbkdf_direct: bool = True
    """S: SP 800-108 on the secret itself. F: on an HKDF of it."""
    short_report_data_padded: bool = True
    """S: AttestKey fills report data up with zeros. F: any length but 128 is an InvalidArg."""
    attestation_claims: AttestationClaims = AttestationClaims.CLIENT_TABLE
    approved_gcm_iv_from_caller: bool = True
    """S: encryption with an approved GCM key uses the caller's IV. F: the device makes it."""

    reported_addresses_whole: bool = True
    """Ours: reports of TDISP have whole addresses. F: bits 32 to 35 are 0."""

    def describe(self) -> dict[str, str | bool]:
        """The name and every choice as plain values; for the status of the device."""
        plain: dict[str, str | bool] = {}
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, Enum):
                value = value.value
            elif isinstance(value, UnwrappingKeyMetadata):
                value = f"type {int(value.key_type):#x}, flags {int(value.flags):#x}"
            plain[field.name] = value
        return plain


DEFAULT: Final = Profile(name="default")
FIRMWARE: Final = replace(
    DEFAULT,
    name="firmware",
    init_bk3_repeatable=False,
    pota_key_kind_checked=False,
    bmk_echoed=False,
    leaf_form=LeafForm.REAL,
    lost_client_frees_sessions=False,
    restart_keeps_identity=False,
    unwrapping_key_may_be_pending=True,
    unwrapping_key_metadata=UnwrappingKeyMetadata(
        KeyType.RsaUnwrap, KeyAttributeFlags.LOCAL | KeyAttributeFlags.UNWRAP
    ),
    bulk_numbers=BulkNumbers.SLOT_AND_GROUP,
    hkdf_absent_salt_is_empty=False,
    kbkdf_direct=False,
    short_report_data_padded=False,
    attestation_claims=AttestationClaims.STORED_FLAGS,
    approved_gcm_iv_from_caller=False,
    reported_addresses_whole=False,
)
PROFILES: Final = {profile.name: profile for profile in (DEFAULT, FIRMWARE)}
