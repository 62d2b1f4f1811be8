# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""RSA unwrapping keys made ahead of demand.

Making one takes a fraction of a second and EstablishCredential needs one at once, so a thread keeps a key in stock.
"""

import threading
from collections.abc import Callable
from typing import Final

from ihsm_device.hsm.keystore import Handle, KeyStore, KeyStoreError, Owner, PairwiseTest, Scope

UNWRAPPING_KEY_BITS: Final = 2048


class UnwrappingKeyStock:
    """One tested RSA-2048 key in stock, replaced in the background when it is taken."""

    def __init__(self, store: KeyStore, failed: Callable[[str], None]) -> None:
        """Start making the first key; `failed` is told why if one cannot be made or does not pass its test."""
        self._store = store
        self._failed = failed
        self._condition = threading.Condition()
        self._key: Handle | None = None
        self._error: KeyStoreError | None = None
        self._closed = False
        self._thread = threading.Thread(target=self._refill, name="unwrapping-keys", daemon=True)
        self._thread.start()

    def take(self, owner: Owner) -> Handle:
        """A key for `owner`; waits while it is being made. Raises the KeyStoreError that making it ended with."""
        with self._condition:
            self._condition.wait_for(lambda: self._key is not None or self._error is not None or self._closed)
            return self._hand_out(owner)

    def try_take(self, owner: Owner) -> Handle | None:
        """A key for `owner` if one is in stock."""
        with self._condition:
            return None if self._key is None else self._hand_out(owner)

    @property
    def full(self) -> bool:
        """Whether a key is in stock, so that none is being made."""
        with self._condition:
            return self._key is not None

    def close(self) -> None:
        """Stop making keys; waits for the one at work."""
        with self._condition:
            self._closed = True
            self._condition.notify_all()
        self._thread.join()
        if self._key is not None:
            self._store.destroy(self._key)
            self._key = None

    def _hand_out(self, owner: Owner) -> Handle:
        if self._key is None:
            raise self._error or KeyStoreError("the key store is closing")
        key, self._key = self._key, None
        self._condition.notify_all()
        self._store.set_owner(key, owner)
        return key

    def _refill(self) -> None:
        while True:
            with self._condition:
                self._condition.wait_for(lambda: self._key is None or self._closed)
                if self._closed:
                    return
            try:
                key = self._store.rsa_generate(UNWRAPPING_KEY_BITS, Owner(scope=Scope.DEVICE))
                self._store.rsa_pairwise_test(key, PairwiseTest.ENCRYPT)
            except KeyStoreError as error:
                self._failed(f"unwrapping key: {error}")
                with self._condition:
                    self._error = error
                    self._condition.notify_all()
                return
            with self._condition:
                self._key = key
                self._condition.notify_all()
