# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Batches of AES commands on data that already lie in DMA memory: nothing is copied, entries are written by column.

The functions here prepare entries; `AesQueue.submit` copies them into the ring at memory speed and gives an array of
completions (`ihsm_abi.aes_queue.AES_CQE`) in their order. Source and destination of a command may be the same bytes.

Prepared entries may be submitted many times, but an IV serves one GCM encryption under a key: give the entries new ones
before each further submission, `entries["iv"] = draw_ivs(len(entries))`. The session's ids are in the entries, too: its
end goes unnoticed there, so prepare entries anew for another session.
"""

from __future__ import annotations

import os

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ihsm.driver.aes_commands import (
    check_session,
    gcm_operation,
    key_pair,
    padded_aad_bytes,
    unit_code,
    xts_operation,
)
from ihsm.driver.aes_queue import aes_attr
from ihsm.driver.aes_status import check_status
from ihsm.driver.columns import octet_rows, whole_numbers
from ihsm.driver.sgl import data_blocks
from ihsm.errors import ArgumentError
from ihsm.fast_path import FastPathSession
from ihsm_abi.aes_queue import (
    AES_BLOCK_BYTES,
    FRAME_TYPE_AES,
    GCM_IV_BYTES,
    GCM_SQE,
    GCM_TAG_BYTES,
    XTS_SQE,
    AesAttr,
    Cipher,
)


def draw_ivs(count: int) -> NDArray[np.uint8]:
    """Random IVs for `count` AES-GCM encryptions, shape (count, 12); see `ihsm.driver.aes_commands.draw_iv`."""
    return np.frombuffer(os.urandom(count * GCM_IV_BYTES), np.uint8).reshape(count, GCM_IV_BYTES)


def gcm_entries(
    session: FastPathSession,
    key_ids: ArrayLike,
    sources: ArrayLike,
    targets: ArrayLike,
    text_bytes: ArrayLike,
    *,
    decrypt: bool,
    aad_bytes: int = 0,
    ivs: ArrayLike | None = None,
    tags: ArrayLike | None = None,
) -> NDArray[np.void]:
    """Prepare n AES-256-GCM commands (spec 02 C.1, C.6). Scalars apply to all of them.

    Args:
        session: `Session.fast_path` of an open session.
        key_ids: fast-path key ids, shape (n,) or scalar.
        sources: I/O addresses of padded AAD followed by text, shape (n,).
        targets: I/O addresses of destinations with the same layout, shape (n,).
        text_bytes: bytes of text, shape (n,) or scalar; the last `text_bytes % 16` travel as the tail.
        decrypt: direction.
        aad_bytes: bytes of AAD before padding, the same for all.
        ivs: 12 bytes each, uint8 array of shape (n, 12); new ones for an encryption, which draws them at random for
            None. The completion's `iv` is the one used.
        tags: 16 bytes each, shape (n, 16), for decryption only.

    Raises:
        SessionClosedError: the session has ended.
        ArgumentError, ArgumentTypeError: a decryption without IVs or tags, one IV for several encryptions under a key,
            or numbers or shapes that do not fit.
    """
    operation = gcm_operation(decrypt)
    source, target = _addresses(operation, sources, targets)
    aad = int(whole_numbers(operation, "aad_bytes", aad_bytes, np.uint32, 1))
    padded = padded_aad_bytes(aad)
    texts = whole_numbers(operation, "text_bytes", text_bytes, np.uint32, len(source))
    total = whole_numbers(operation, "text_bytes with AAD", texts.astype(np.uint64) + np.uint64(padded), np.uint32)
    total = np.broadcast_to(total, source.shape)
    tail = total % AES_BLOCK_BYTES
    mapped = total - tail
    entries = _common(np.zeros(len(source), GCM_SQE), aes_attr(Cipher.GCM, decrypt), session, source, target, mapped)
    entries["key_id"] = whole_numbers(operation, "key_ids", key_ids, np.uint32, len(source))
    entries["actual_aad_len"] = aad
    entries["aligned_aad_len"] = padded
    entries["tail_src_len"] = entries["tail_dst_len"] = tail
    some = tail > 0
    entries["tail_src_addr"] = np.where(some, source + mapped, 0)
    entries["tail_dst_addr"] = np.where(some, target + mapped, 0)
    _fill_ivs_and_tags(operation, entries, ivs, tags, decrypt=decrypt)
    return entries


def _fill_ivs_and_tags(
    operation: str, entries: NDArray[np.void], ivs: ArrayLike | None, tags: ArrayLike | None, *, decrypt: bool
) -> None:
    count = len(entries)
    if decrypt and (ivs is None or tags is None):
        raise ArgumentError(operation, "ivs" if ivs is None else "tags", "a decryption needs them")
    if not decrypt and tags is not None:
        raise ArgumentError(operation, "tags", "only a decryption takes them")
    entries["iv"] = draw_ivs(count) if ivs is None else octet_rows(operation, "ivs", ivs, count, GCM_IV_BYTES)
    if tags is not None:
        entries["tag"] = octet_rows(operation, "tags", tags, count, GCM_TAG_BYTES)
    elif ivs is not None and len(np.unique(_nonces(entries))) < count:
        raise ArgumentError(operation, "ivs", "one IV for several encryptions under a key")


def _nonces(entries: NDArray[np.void]) -> NDArray[np.void]:
    """Key id and IV of each entry, as one item each."""
    pairs = np.empty((len(entries), 4 + GCM_IV_BYTES), np.uint8)
    pairs[:, :4] = np.ascontiguousarray(entries["key_id"], "<u4").view(np.uint8).reshape(-1, 4)
    pairs[:, 4:] = entries["iv"]
    return pairs.view(f"V{pairs.shape[1]}").reshape(-1)


def xts_entries(
    session: FastPathSession,
    key_ids: tuple[int, int],
    sources: ArrayLike,
    targets: ArrayLike,
    data_bytes: ArrayLike,
    tweaks: ArrayLike,
    *,
    decrypt: bool,
    data_unit_bytes: int = 0,
) -> NDArray[np.void]:
    """Prepare n AES-256-XTS commands (spec 02 C.7). Scalars apply to all of them.

    Args:
        session: `Session.fast_path` of an open session.
        key_ids: data key and tweak key.
        sources: I/O addresses, shape (n,).
        targets: I/O addresses, shape (n,).
        data_bytes: bytes of each, a multiple of 16, shape (n,) or scalar.
        tweaks: 16 bytes each, uint8 array of shape (n, 16) or (16,).
        decrypt: direction.
        data_unit_bytes: 512, 4096 or 8192; 0: each command is one data unit.

    Raises:
        SessionClosedError: the session has ended.
        ArgumentError, ArgumentTypeError: numbers or shapes that do not fit.
    """
    operation = xts_operation(decrypt)
    source, target = _addresses(operation, sources, targets)
    attr = aes_attr(Cipher.XTS, decrypt, unit_code(operation, data_unit_bytes))
    sizes = np.broadcast_to(whole_numbers(operation, "data_bytes", data_bytes, np.uint32, len(source)), source.shape)
    entries = _common(np.zeros(len(source), XTS_SQE), attr, session, source, target, sizes)
    entries["key_id1"], entries["key_id2"] = key_pair(operation, key_ids)
    entries["tweak"] = octet_rows(operation, "tweaks", tweaks, len(source), AES_BLOCK_BYTES)
    return entries


def _addresses(operation: str, sources: ArrayLike, targets: ArrayLike) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    source = whole_numbers(operation, "sources", sources, np.uint64)
    target = whole_numbers(operation, "targets", targets, np.uint64)
    if source.ndim != 1:
        raise ArgumentError(operation, "sources", f"shape {source.shape}, one dimension needed")
    if target.shape != source.shape:
        raise ArgumentError(operation, "targets", f"shape {target.shape}, sources have {source.shape}")
    return source, target


def _common(
    entries: NDArray[np.void],
    attr: AesAttr,
    session: FastPathSession,
    source: NDArray[np.uint64],
    target: NDArray[np.uint64],
    sizes: NDArray[np.uint32],
) -> NDArray[np.void]:
    check_session("AES batch", session)
    entries["attr"] = attr
    entries["session_id"], entries["short_app_id"] = session.ids
    entries["src_len"] = entries["dst_len"] = sizes
    entries["src"], entries["dst"] = data_blocks(source, sizes), data_blocks(target, sizes)
    entries["frame_type"] = FRAME_TYPE_AES
    return entries


def failed(completions: NDArray[np.void]) -> NDArray[np.intp]:
    """Positions of the commands of a batch that did not succeed (`sts` or `err` not 0)."""
    return np.flatnonzero((completions["psf"] > 1) | (completions["err"] != 0))


def check(completions: NDArray[np.void], position: int) -> None:
    """See whether one command of a batch succeeded; errors as `ihsm.driver.aes_status.check_status`."""
    check_status(int(completions["psf"][position]), int(completions["err"][position]))
