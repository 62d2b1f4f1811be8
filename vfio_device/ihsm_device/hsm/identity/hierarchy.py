# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""The key hierarchy and its derivations (spec 04 §6, firmware's forms; 06 §1.9).

Every derivation is SP 800-108 counter mode with HMAC-SHA-384.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from ihsm_abi.ddi.limits import BK3_BYTES
from ihsm_abi.ddi.masked_key import MASKING_KEY_BYTES
from ihsm_device.hsm.keystore import Handle, Hash, KeyStore, Owner, Part, Scope
from ihsm_device.hsm.wire import Point

CURRENT_SVN: Final = 1
"""Security version number of this device, thermometer-coded: 0…01…1."""
SEED_BYTES: Final = 48
_SVN_BITS: Final = 64
_BKS_BYTES: Final = 32
_PARTITION_LABEL: Final = b"PARTITION_BK"
_PARTITION_LABEL_BYTES: Final = 256
BKX_CONSTANT: Final = b"ihsm: the key that masks BK_BOOT, version 1.0   "
"""48 constant bytes; what makes BKX secret and device-unique are the seeds in its context."""


def derive(store: KeyStore, key: Handle, label: bytes, context: Sequence[Part], length: int, owner: Owner) -> Handle:
    """The key derivation function of the whole hierarchy (spec 04 §6.1)."""
    return store.kbkdf(key, Hash.SHA384, label, context, length, owner)


@dataclass(frozen=True, slots=True)
class BackupSeeds:
    """BKS1 for the current and every older security version, and BKS2."""

    bks1: dict[int, Handle]
    bks2: Handle

    @classmethod
    def from_device_secret(cls, store: KeyStore, secret: Handle) -> "BackupSeeds":
        """Derive the seeds.

        BKS1 is a hash stick: one more derivation for every leading zero bit of the version, so that newer firmware can
        compute the seeds of older, and not the reverse.
        """
        owner = Owner(scope=Scope.DEVICE)
        bks1: dict[int, Handle] = {}
        stick = derive(store, secret, b"BKS1Key", [], SEED_BYTES, owner)
        versions = {CURRENT_SVN >> shift for shift in range(CURRENT_SVN.bit_length() + 1)}
        for leading_zeros in range(1, _SVN_BITS + 1):
            longer = derive(store, stick, b"BKS1Key", [bytes(SEED_BYTES)], SEED_BYTES, owner)
            store.destroy(stick)
            stick = longer
            version = (1 << (_SVN_BITS - leading_zeros)) - 1
            if version in versions:
                bks1[version] = derive(store, stick, b"BKS", [], _BKS_BYTES, owner)
        store.destroy(stick)
        return cls(bks1, derive(store, secret, b"BKS2Key", [], _BKS_BYTES, owner))

    def context(self, svn: int) -> list[Part]:
        """BKS1 ‖ BKS2, the context of every derivation that binds to this device; KeyError for an unknown version."""
        return [self.bks1[svn], self.bks2]


def boot_key(store: KeyStore, owner: Owner) -> Handle:
    """A fresh BK_BOOT, which masks BK3."""
    return _from_fresh_seed(store, b"BK_BOOT_KEY_DEFAULT", owner)


def masking_key(store: KeyStore, owner: Owner) -> Handle:
    """A fresh masking key of a partition or a session."""
    return _from_fresh_seed(store, b"MK_DEFAULT", owner)


def boot_masking_key(store: KeyStore, seeds: BackupSeeds, svn: int, owner: Owner) -> Handle:
    """BKX, under which BK_BOOT is kept at rest."""
    constant = store.import_secret(BKX_CONSTANT, owner)
    try:
        return derive(store, constant, b"BK_BOOT_MK_DEFAULT", seeds.context(svn), MASKING_KEY_BYTES, owner)
    finally:
        store.destroy(constant)


def partition_backup_key(
    store: KeyStore, bk3: Handle, pota: Point, seeds: BackupSeeds, svn: int, owner: Owner
) -> Handle:
    """BK_partition, which masks the partition's masking key: bound to BK3, the POTA key and this device."""
    label = (_PARTITION_LABEL + pota.raw()).ljust(_PARTITION_LABEL_BYTES, b"\0")
    return derive(store, bk3, label, seeds.context(svn), MASKING_KEY_BYTES, owner)


def session_root(store: KeyStore, bk3: Handle, owner: Owner) -> Handle:
    """BK3_session, from which the backup keys of all sessions follow."""
    return derive(store, bk3, b"SESSION_BK3", [], BK3_BYTES, owner)


def session_backup_key(
    store: KeyStore, root: Handle, seed: Handle, seeds: BackupSeeds, svn: int, owner: Owner
) -> Handle:
    """BK_session, which masks a session's masking key: bound to BK3, the client's seed and this device."""
    return derive(store, root, b"SESSION_BK", [*seeds.context(svn), seed], MASKING_KEY_BYTES, owner)


def _from_fresh_seed(store: KeyStore, label: bytes, owner: Owner) -> Handle:
    seed = store.generate_secret(SEED_BYTES, owner)
    try:
        return derive(store, seed, label, [], MASKING_KEY_BYTES, owner)
    finally:
        store.destroy(seed)
