# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Batches of AES commands on data that already lie in DMA memory: nothing is copied, entries are written by column.

The functions here prepare entries; `AesQueue.submit` copies them into the ring at memory speed and gives an array of
completions (`ihsm_abi.aes_queue.AES_CQE`) in their order. Prepared entries may be submitted many times. Source and
destination of a command may be the same bytes.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ihsm.driver.aes_queue import DATA_UNIT_CODE, FastPathSession, aes_attr
from ihsm.driver.sgl import data_blocks
from ihsm_abi.aes_queue import (
    AES_BLOCK_BYTES,
    FRAME_TYPE_AES,
    GCM_AAD_ALIGNMENT_BYTES,
    GCM_IV_BYTES,
    GCM_SQE,
    GCM_TAG_BYTES,
    XTS_SQE,
    AesAttr,
    Cipher,
)


def padded_aad_bytes(aad_bytes: int) -> int:
    """Room that AAD takes at the start of source and destination, see `ihsm.driver.aes_queue.pad_aad`."""
    return -(-aad_bytes // GCM_AAD_ALIGNMENT_BYTES) * GCM_AAD_ALIGNMENT_BYTES


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
        session: ids of the session.
        key_ids: fast-path key ids, shape (n,) or scalar.
        sources: I/O addresses of padded AAD followed by text, shape (n,).
        targets: I/O addresses of destinations with the same layout, shape (n,).
        text_bytes: bytes of text, shape (n,) or scalar; the last `text_bytes % 16` travel as the tail.
        decrypt: direction.
        aad_bytes: bytes of AAD before padding, the same for all.
        ivs: 12 bytes each, uint8 array of shape (n, 12) or (12,); None: zero.
        tags: 16 bytes each, shape (n, 16); needed for decryption only.
    """
    padded = padded_aad_bytes(aad_bytes)
    source = np.asarray(sources, np.uint64)
    target = np.asarray(targets, np.uint64)
    total = np.broadcast_to(np.asarray(text_bytes, np.uint32) + np.uint32(padded), source.shape)
    tail = total % AES_BLOCK_BYTES
    mapped = total - tail
    attr = aes_attr(Cipher.GCM, decrypt)
    entries = _common(np.zeros(len(source), GCM_SQE), attr, session, source, target, mapped)
    entries["key_id"] = key_ids
    entries["actual_aad_len"] = aad_bytes
    entries["aligned_aad_len"] = padded
    entries["tail_src_len"] = entries["tail_dst_len"] = tail
    some = tail > 0
    entries["tail_src_addr"] = np.where(some, source + mapped, 0)
    entries["tail_dst_addr"] = np.where(some, target + mapped, 0)
    entries["iv"] = np.zeros(GCM_IV_BYTES, np.uint8) if ivs is None else ivs
    entries["tag"] = np.zeros(GCM_TAG_BYTES, np.uint8) if tags is None else tags
    return entries


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
        session: ids of the session.
        key_ids: data key and tweak key.
        sources: I/O addresses, shape (n,).
        targets: I/O addresses, shape (n,).
        data_bytes: bytes of each, a multiple of 16, shape (n,) or scalar.
        tweaks: 16 bytes each, uint8 array of shape (n, 16) or (16,).
        decrypt: direction.
        data_unit_bytes: 512, 4096 or 8192; 0: each command is one data unit.
    """
    source = np.asarray(sources, np.uint64)
    attr = aes_attr(Cipher.XTS, decrypt, DATA_UNIT_CODE[data_unit_bytes])
    sizes = np.broadcast_to(np.asarray(data_bytes, np.uint32), source.shape)
    target = np.asarray(targets, np.uint64)
    entries = _common(np.zeros(len(source), XTS_SQE), attr, session, source, target, sizes)
    entries["key_id1"], entries["key_id2"] = key_ids
    entries["tweak"] = tweaks
    return entries


def _common(
    entries: NDArray[np.void],
    attr: AesAttr,
    session: FastPathSession,
    source: NDArray[np.uint64],
    target: NDArray[np.uint64],
    sizes: NDArray[np.uint32],
) -> NDArray[np.void]:
    if target.shape != source.shape or source.ndim != 1:
        raise ValueError(f"sources have shape {source.shape}, targets {target.shape}: one dimension, the same, needed")
    entries["attr"] = attr
    entries["session_id"], entries["short_app_id"] = session
    entries["src_len"] = entries["dst_len"] = sizes
    entries["src"], entries["dst"] = data_blocks(source, sizes), data_blocks(target, sizes)
    entries["frame_type"] = FRAME_TYPE_AES
    return entries


def failed(completions: NDArray[np.void]) -> NDArray[np.intp]:
    """Positions of the commands of a batch that did not succeed (`sts` or `err` not 0)."""
    return np.flatnonzero((completions["psf"] > 1) | (completions["err"] != 0))
