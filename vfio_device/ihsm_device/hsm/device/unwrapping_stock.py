# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""RSA unwrapping keys made ahead of demand.

Making one takes a fraction of a second and EstablishCredential needs one at once, so a thread keeps a key in stock.
"""

import threading
from collections.abc import Callable
from typing import Final

from ihsm_device.hsm.keystore import Handle, KeyStore, KeyStoreError, KeyStoreMemoryError, Owner, PairwiseTest, Scope

UNWRAPPING_KEY_BITS: Final = 2048


class UnwrappingKeyStock:
    """One tested RSA-2048 key in stock, replaced in the background when it is taken.

    Without memory for it who waits is told so, and who asks next has it tried again.
    """

    def __init__(self, store: KeyStore, failed: Callable[[str], None]) -> None:
        """Start making the first key; `failed` is told why if making one fails or one does not pass its test."""
        self._store = store
        self._failed = failed
        self._condition = threading.Condition()
        self._key: Handle | None = None
        self._error: KeyStoreError | None = None
        """Why there is no key; want of memory until somebody asks again, else for good."""
        self._closed = False
        self._thread = threading.Thread(target=self._refill, name="unwrapping-keys", daemon=True)
        self._thread.start()

    def take(self, owner: Owner) -> Handle:
        """A key for `owner`; waits while it is being made. Raises the KeyStoreError that making it ended with."""
        with self._condition:
            self._try_again()
            self._condition.wait_for(lambda: self._key is not None or self._error is not None or self._closed)
            return self._hand_out(owner)

    def try_take(self, owner: Owner) -> Handle | None:
        """A key for `owner` if one is in stock."""
        with self._condition:
            self._try_again()
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

    def _try_again(self) -> None:
        if isinstance(self._error, KeyStoreMemoryError):
            self._error = None
            self._condition.notify_all()

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
                self._condition.wait_for(lambda: (self._key is None and self._error is None) or self._closed)
                if self._closed:
                    return
            key, error = self._make()
            is_final = error is not None and not isinstance(error, KeyStoreMemoryError)
            if is_final:
                self._failed(f"unwrapping key: {error}")
            with self._condition:
                self._key, self._error = key, error
                self._condition.notify_all()
            if is_final:
                return

    def _make(self) -> tuple[Handle | None, KeyStoreError | None]:
        """A key that has passed its test, or why there is none."""
        key = None
        try:
            key = self._store.rsa_generate(UNWRAPPING_KEY_BITS, Owner(scope=Scope.DEVICE))
            self._store.rsa_pairwise_test(key, PairwiseTest.ENCRYPT)
            return key, None
        except (KeyStoreError, MemoryError) as error:
            if key is not None:
                self._store.destroy(key)
            return None, error if isinstance(error, KeyStoreError) else KeyStoreMemoryError("out of memory")
