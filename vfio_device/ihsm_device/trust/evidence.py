# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""What the device can prove: its certificate chain, the key that signs, and the measurement blocks."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from ihsm_abi.spdm.algorithms import HASHLIB_NAMES, BaseHash
from ihsm_abi.spdm.chain import encode_chain
from ihsm_abi.spdm.codes import SummaryType
from ihsm_abi.spdm.measurements import LAST_TCB_BLOCK, MeasurementBlock, MeasurementType, encode_record
from ihsm_abi.spdm.signing import SigningContext, signed_message
from ihsm_device.hsm.keystore import Curve, Handle, Hash, KeyStore

MEASUREMENT_HASH_NAME: Final = "sha384"
SIGNATURE_BYTES: Final = 2 * Curve.P384.size_bytes


@dataclass(frozen=True, slots=True)
class Measured:
    """One thing that was measured."""

    index: int
    type: MeasurementType
    data: bytes

    def block(self, *, raw: bool) -> MeasurementBlock:
        """Its block: the data, or their hash."""
        value = self.data if raw else hashlib.new(MEASUREMENT_HASH_NAME, self.data).digest()
        return MeasurementBlock.of(self.index, self.type, value, raw=raw)


class Identity(Protocol):
    """Who proves."""

    @property
    def key(self) -> Handle:
        """The P-384 key that signs."""

    @property
    def certificates(self) -> Sequence[bytes]:
        """In DER, root first; the last is that of `key`."""


class Evidence:
    """Chain, signatures and measurements of one device; the same for all its functions."""

    def __init__(self, store: KeyStore, identity: Callable[[], Identity], measured: Sequence[Measured]) -> None:
        """`identity` is asked when it is needed first."""
        self.store = store
        self.measured = tuple(measured)
        self._ask = identity
        self._known: Identity | None = None
        self._lock = threading.Lock()
        self._chains: dict[BaseHash, bytes] = {}

    def chain(self, base_hash: BaseHash) -> bytes:
        """The chain of slot 0, whose root is told by its hash."""
        chain = self._chains.get(base_hash)
        if chain is None:
            certificates = self._identity().certificates
            root_hash = hashlib.new(HASHLIB_NAMES[base_hash], certificates[0]).digest()
            chain = self._chains[base_hash] = encode_chain(root_hash, certificates)
        return chain

    def sign(self, digest: Hash, context: SigningContext, transcript_hash: bytes) -> bytes:
        """A signature over the hash of a transcript."""
        signed = self.store.digest(digest, signed_message(context, transcript_hash))
        return self.store.ec_sign(self._identity().key, signed)

    def summary(self, base_hash: BaseHash, kind: SummaryType) -> bytes:
        """Hash over the blocks, each as its hash: of all, or of the trusted computing base alone (spec 06 §1.3)."""
        if kind is SummaryType.NONE:
            return b""
        last = LAST_TCB_BLOCK if kind is SummaryType.TCB else len(self.measured)
        blocks = (each.block(raw=False) for each in self.measured if each.index <= last)
        return hashlib.new(HASHLIB_NAMES[base_hash], encode_record(blocks)).digest()

    def _identity(self) -> Identity:
        with self._lock:
            if self._known is None:
                self._known = self._ask()
            return self._known
