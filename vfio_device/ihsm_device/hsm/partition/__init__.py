# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""The state of one partition: sessions, vault, credential, what it keeps."""

from ihsm_device.hsm.partition.partition import EncryptionKey, EncryptionPurpose, Kept, Partition, Provisioned, Volatile
from ihsm_device.hsm.partition.published import ExpressKey, Published
from ihsm_device.hsm.partition.session_table import Session, SessionTable
from ihsm_device.hsm.partition.vault import BULK_KEYS_PER_TABLE, Entry, NewEntry

__all__ = [
    "BULK_KEYS_PER_TABLE",
    "EncryptionKey",
    "EncryptionPurpose",
    "Entry",
    "ExpressKey",
    "Kept",
    "NewEntry",
    "Partition",
    "Provisioned",
    "Published",
    "Session",
    "SessionTable",
    "Volatile",
]
