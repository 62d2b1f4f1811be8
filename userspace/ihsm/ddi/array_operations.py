# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Operations of a session on arrays: the same one for each row, with many outstanding at a time."""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING, Any, Final, TypeVar

from ihsm.arguments import checked
from ihsm.ddi.channel import InSession
from ihsm.ddi.keys import Key
from ihsm.ddi.wrapping import HASHES
from ihsm.errors import ArgumentError
from ihsm.procedures import operation
from ihsm_abi.aes_queue import AES_BLOCK_BYTES
from ihsm_abi.ddi import (
    AesEncryptDecryptReq,
    AesEncryptDecryptResp,
    AesOp,
    EccSignReq,
    EccSignResp,
    HashAlgorithm,
    HmacReq,
    HmacResp,
    RsaModExpReq,
    RsaModExpResp,
    RsaOpType,
)
from ihsm_abi.mbor import MborMap

T = TypeVar("T")

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from ihsm.ddi.call_arrays import ArrayCaller, Columns
    from ihsm.procedures import Step

    OctetArray = NDArray[np.uint8]
    Procedure = Generator[Step[ArrayCaller], Any, T]
else:  # numpy takes longer to load than the rest, and its arrays are looked at by their shape, too
    OctetArray = Any
    Procedure = Generator[Any, Any, T]

_DIGEST_BYTES: Final[dict[HashAlgorithm | None, int]] = {
    algorithm: kind().digest_size for algorithm, kind in HASHES.items()
}


class ArrayOperations(InSession):
    """The same operation for each row of an array.

    Arrays are numpy arrays of bytes (uint8) with a row for each command; so all byte strings of one have one length. Up
    to 256 commands are with the device together, as far as the driver's rings have room: for one queue that needs
    `DriverOptions(hsm_entries=257)`.

    Every method raises BatchError if some of the commands failed, which says for each what became of it and has the
    results of the others. The errors that stand for all of them are raised as they are, and nothing was sent then:
    ArgumentError, ArgumentTypeError, RequestError, SessionClosedError.
    """

    @operation
    @checked
    def ecc_sign_many(
        self, key: Key, digests: OctetArray, hash_algorithm: HashAlgorithm | None = None
    ) -> Procedure[OctetArray]:
        """ECDSA over many digests, see `ecc_sign`.

        Args:
            key: EC private key.
            digests: Shape (n, size).
            hash_algorithm: What made them; None: the hash whose digests have this size.

        Returns:
            Signatures, shape (n, 2 * coordinate): r then s, big-endian.
        """
        from ihsm.ddi.call_arrays import octet_matrix

        name = "ecc_sign_many"
        rows = octet_matrix(name, "digests", digests, _DIGEST_BYTES.get(hash_algorithm))
        size = rows.shape[1]
        if hash_algorithm is None:
            hash_algorithm = next((each for each, length in _DIGEST_BYTES.items() if length == size), None)
            if hash_algorithm is None:
                raise ArgumentError(name, "digests", f"{size} bytes a row, a digest has {[*_DIGEST_BYTES.values()]}")
        request = EccSignReq(key_id=key.key_id, digest=bytes(size), digest_algo=hash_algorithm)
        return _single(request, {"digest": rows}, EccSignResp, "signature")

    @operation
    @checked
    def rsa_mod_exp_many(self, key: Key, ys: OctetArray, op_type: RsaOpType) -> Procedure[OctetArray]:
        """Many raw RSA private operations, see `rsa_mod_exp`.

        Args:
            key: RSA private key.
            ys: Shape (n, modulus): big-endian, each as long as the modulus.
            op_type: What for.

        Returns:
            y^d mod n of each, of the same shape.
        """
        from ihsm.ddi.call_arrays import octet_matrix

        rows = octet_matrix("rsa_mod_exp_many", "ys", ys)
        request = RsaModExpReq(key_id=key.key_id, y=bytes(rows.shape[1]), op_type=op_type)
        return _single(request, {"y": rows}, RsaModExpResp, "x")

    @operation
    @checked
    def hmac_many(self, key: Key, messages: OctetArray) -> Procedure[OctetArray]:
        """HMAC of many messages, see `hmac`.

        Args:
            key: HMAC key, whose type is the hash.
            messages: Shape (n, size), up to 1024 bytes each.

        Returns:
            Tags, shape (n, 32), (n, 48) or (n, 64).
        """
        from ihsm.ddi.call_arrays import octet_matrix

        rows = octet_matrix("hmac_many", "messages", messages)
        return _single(HmacReq(key_id=key.key_id, msg=bytes(rows.shape[1])), {"msg": rows}, HmacResp, "tag")

    @operation
    @checked
    def aes_cbc_many(
        self, key: Key, op: AesOp, data: OctetArray, ivs: OctetArray
    ) -> Procedure[tuple[OctetArray, OctetArray]]:
        """AES-CBC without padding over many texts, each a chain of its own, see `aes_cbc`.

        Args:
            key: AES-128, -192 or -256 key.
            op: Direction.
            data: Shape (n, size), a multiple of 16 bytes up to 1024 each.
            ivs: Shape (n, 16).

        Returns:
            The results, of the shape of `data`, and the IVs that continue the chains, shape (n, 16).
        """
        from ihsm.ddi.call_arrays import CallMany, octet_matrix

        name = "aes_cbc_many"
        rows, starts = octet_matrix(name, "data", data), octet_matrix(name, "ivs", ivs, AES_BLOCK_BYTES)
        if len(rows) != len(starts):
            raise ArgumentError(name, "ivs", f"{len(starts)} rows, {len(rows)} needed")
        request = AesEncryptDecryptReq(key_id=key.key_id, op=op, msg=bytes(rows.shape[1]), iv=bytes(AES_BLOCK_BYTES))
        results = yield CallMany(request, {"msg": rows, "iv": starts}, AesEncryptDecryptResp, ("msg", "iv"))
        texts, following = results
        return texts, following


def _single(request: MborMap, columns: Columns, response: type[MborMap], result: str) -> Procedure[OctetArray]:
    """An operation with one result."""
    from ihsm.ddi.call_arrays import CallMany

    results = yield CallMany(request, columns, response, (result,))
    found: OctetArray = results[0]
    return found
