# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""The store: a folder in which a user's keys, masked by the device, are kept, and what brings the device up again.

No device is touched here. `Store` has the operations; a key is a `KeyRecord` of `KeyVersion`s; `OwnerSecrets` are what
a PIN protects. docs/store.md says what is in the folder and what protects it.
"""

from ihsm.store.header import StoreDevice
from ihsm.store.labels import LONGEST_LABEL, check_label, check_name, split_label
from ihsm.store.places import DEFAULT_NAME, NAME_VARIABLE, default_name, default_root
from ihsm.store.records import ORIGINS, KeyRecord, KeyVersion
from ihsm.store.sealing import LONGEST_PIN, OwnerSecrets, prepare_pin
from ihsm.store.staging import staging
from ihsm.store.store import DEVICE, Store

__all__ = [
    "DEFAULT_NAME",
    "DEVICE",
    "LONGEST_LABEL",
    "LONGEST_PIN",
    "NAME_VARIABLE",
    "ORIGINS",
    "KeyRecord",
    "KeyVersion",
    "OwnerSecrets",
    "Store",
    "StoreDevice",
    "check_label",
    "check_name",
    "default_name",
    "default_root",
    "prepare_pin",
    "split_label",
    "staging",
]
