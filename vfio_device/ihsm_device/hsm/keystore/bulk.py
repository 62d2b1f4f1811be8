# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Fast-path keys of one function, published to the C workers (native/keystore/bulk.h)."""

from __future__ import annotations

from ihsm_device import _native
from ihsm_device._native import ffi, lib
from ihsm_device.hsm.keystore.native import check
from ihsm_device.hsm.keystore.types import BulkType, Handle, KeyStoreMemoryError


class BulkTable:
    """Fast-path keys of one function: published by key number, read by C workers without a lock (spec 02 E.1)."""

    def __init__(self, function: int) -> None:
        """An empty table; `KeyStore.bulk_table` makes them."""
        self._table = lib.ks_bulk_table_new(function)
        if self._table == ffi.NULL:
            raise KeyStoreMemoryError("no memory for a table of fast-path keys")

    @property
    def native(self) -> _native.Pointer[_native.ks_bulk_table]:
        """The `ks_bulk_table *`, for the engine of the same function."""
        return self._table

    def publish(
        self, key_id: int, key: Handle, bulk_type: BulkType, *, session_id: int, app_id: int, session_only: bool
    ) -> None:
        """Make a 32-byte secret usable on the fast path as `key_id` (u16), replacing nothing.

        AES key schedules are prepared here, once. Destroying `key` withdraws it too.
        Raises `ArgumentError` if `key_id` is published already or `key` is published elsewhere, `KeySizeError` for a
        secret of another size.
        """
        check(lib.ks_bulk_publish(self._table, key_id, key, bulk_type, session_id, app_id, session_only))

    def withdraw(self, key_id: int) -> bool:
        """Take a key away; False if there is none.

        Commands in flight finish and may report "key deleted in flight"; the last of them wipes the schedules.
        """
        return bool(lib.ks_bulk_withdraw(self._table, key_id) == lib.KS_OK)

    def close(self) -> None:
        """Withdraw all keys and free the table once no command uses it any more. The table cannot be used again."""
        table, self._table = self._table, ffi.NULL
        lib.ks_bulk_table_free(table)
