# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Taking over a state directory of version 0.1, whose files have no HMAC.

What those files hold is proved by other means: certificates by their signatures and keys, BK_BOOT by its own tag. They
are written anew only when all of them hold, that of the device last: as long as it has no HMAC the work is not done,
and from then on no file without one is accepted.
"""

import logging

from ihsm_device.errors import StateError
from ihsm_device.hsm.device.records import PartitionRecord, RecordFile
from ihsm_device.hsm.device.state import StateDirectory
from ihsm_device.hsm.identity import DeviceIdentity, PartitionIdentity, certificates, masking
from ihsm_device.hsm.keystore import KeyStore, Owner, Scope

_log = logging.getLogger(__name__)


def take_over(directory: StateDirectory, store: KeyStore, identity: DeviceIdentity) -> None:
    """Give the files of an older directory their HMACs; nothing happens in another.

    Raises:
        StateError: a file is damaged, and then none has changed; or one cannot be written.
    """
    device_file = directory.device_file()
    device = device_file.read_unprotected()
    if device is None:
        return
    try:
        certificates.verify_device_chain(identity, device.certificates)
    except ValueError as error:
        raise StateError(f"{device_file.path}: damaged, or of another device ({error})") from error
    found: list[tuple[RecordFile[PartitionRecord], PartitionRecord]] = []
    for index in directory.partition_indices():
        file = directory.partition_file(index)
        record = file.read_unprotected()
        if record is None:
            file.read()  # written anew before a take-over that was cut short
            continue
        _verify(file, record, index, store, identity, device.certificates)
        found.append((file, record))
    for file, record in found:
        file.write(record)
    device_file.write(device)
    _log.warning("%s: taken over from a version without checksums, %d files", directory.path, len(found) + 1)


def _verify(
    file: RecordFile[PartitionRecord],
    record: PartitionRecord,
    index: int,
    store: KeyStore,
    device: DeviceIdentity,
    chain: tuple[bytes, ...],
) -> None:
    partition = PartitionIdentity.derive(store, device, record.partition_id, index)
    try:
        if record.leaf is not None:
            certificates.verify_leaf(partition, record.leaf, chain)
        if record.bk_boot is not None:
            store.destroy(masking.unmask_boot_key(store, device.seeds, record.bk_boot, Owner(index, Scope.IDENTITY)))
    except (ValueError, masking.UnmaskError) as error:
        raise StateError(f"{file.path}: damaged, or of another device ({error})") from error
    finally:
        store.destroy(partition.key)
