# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""AES commands as their ioctls take them, and the answers as completions (spec 02 A.7, C).

A driver makes a queue entry of the structure: lists of the pages, a tail where the text does not fill a block. So a
prepared entry (`ihsm.driver.aes_batch`), whose addresses are our own memory's, is taken back to what it was made of.
"""

from __future__ import annotations

import ctypes
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ihsm.chardev.failures import NOT_TOLD
from ihsm.driver.aes_commands import GcmArguments, XtsArguments, pad_aad
from ihsm.errors import ArgumentError
from ihsm.fast_path import FastPathSession
from ihsm_abi.admin import Psf
from ihsm_abi.aes_queue import (
    AES_CQE,
    FRAME_TYPE_AES,
    GCM_AAD_ALIGNMENT_BYTES,
    GCM_SQE,
    XTS_SQE,
    AesAttr,
    Cipher,
    SglType,
)
from ihsm_abi.uapi import GCM_IOCTL, XTS_IOCTL, Ioctl

_LAYOUTS: Final = {Cipher.GCM: GCM_IOCTL, Cipher.XTS: XTS_IOCTL}
_SHARED: Final = ("session_id", "short_app_id", "frame_type")


class Commands(NamedTuple):
    """Some AES commands of one cipher."""

    cipher: Cipher
    records: NDArray[np.void]
    """`GCM_IOCTL` or `XTS_IOCTL`, which the driver answers into."""
    memory: list[Any]
    """What the records have addresses of, kept until the driver has answered."""

    @property
    def number(self) -> Ioctl:
        """Of the ioctl."""
        return Ioctl.AES_GCM if self.cipher is Cipher.GCM else Ioctl.AES_XTS

    def completions(self) -> NDArray[np.void]:
        """The answers of the device."""
        done = np.zeros(len(self.records), AES_CQE)
        done["tag"], done["iv"] = self.records["cmd_spec"], self.records["iv_from_fw"]
        for name, source in (("fips_approved", "fips_approved"), ("len", "byte_count"), ("err", "extended_status")):
            done[name] = self.records[source]
        done["psf"] = self.records["result"].astype(np.uint16) << Psf.status.low
        return done


class Completion(NamedTuple):
    """What one command's answer says besides its text, as bytes."""

    psf: int
    err: int
    tag: bytes
    iv: bytes
    fips_approved: bool

    @classmethod
    def of(cls, commands: Commands) -> Completion:
        """The answer of a single command."""
        entry = commands.completions()[0]
        return cls(
            int(entry["psf"]),
            int(entry["err"]),
            entry["tag"].tobytes(),
            entry["iv"].tobytes(),
            bool(entry["fips_approved"]),
        )


def _blank(cipher: Cipher, count: int) -> NDArray[np.void]:
    records = np.zeros(count, _LAYOUTS[cipher])
    records["hdr"]["szioctldata"] = records.itemsize
    records["cipher"] = cipher
    records["result"] = NOT_TOLD  # what comes back where the device did not answer
    if cipher is Cipher.GCM:
        records["enable_gcm_workaround"] = 1  # the driver ignores it where the firmware cannot
    return records


def _one(
    cipher: Cipher, session: FastPathSession, head: bytes, text: bytes | memoryview, decrypt: bool
) -> tuple[Commands, Any, NDArray[np.uint8]]:
    """A single command with memory of its own: what has its fields, and where the device writes."""
    source = np.empty(len(head) + len(text), np.uint8)
    source[: len(head)] = np.frombuffer(head, np.uint8)
    source[len(head) :] = np.frombuffer(text, np.uint8)
    target = np.zeros(len(source), np.uint8)
    records = _blank(cipher, 1)
    record: Any = records[0]
    record["op_code"] = decrypt
    record["session_id"], record["short_app_id"] = session.ids
    record["frame_type"] = FRAME_TYPE_AES
    record["src_ptr"], record["dst_ptr"] = source.ctypes.data, target.ctypes.data
    record["src_len"] = record["dst_len"] = len(source)
    return Commands(cipher, records, [source, target]), record, target


def gcm_command(session: FastPathSession, command: GcmArguments, decrypt: bool) -> tuple[Commands, NDArray[np.uint8]]:
    """An AES-GCM command, and where its text will be."""
    key_id, text, aad, iv, tag = command
    padded = pad_aad(aad)
    commands, record, target = _one(Cipher.GCM, session, padded, text, decrypt)
    record["key_id"] = key_id
    record["init_vector"], record["tag"] = np.frombuffer(iv, np.uint8), np.frombuffer(tag, np.uint8)
    record["actual_aad_data_len"], record["aligned_aad_len"] = len(aad), len(padded)
    _lengthen(commands)
    return commands, target[len(padded) :]


def xts_command(session: FastPathSession, command: XtsArguments, decrypt: bool) -> tuple[Commands, NDArray[np.uint8]]:
    """An AES-XTS command, and where its data will be."""
    commands, record, target = _one(Cipher.XTS, session, b"", command.data, decrypt)
    record["key_id1"], record["key_id2"] = command.key_ids
    record["tweak"], record["data_unit_len"] = np.frombuffer(command.tweak, np.uint8), command.unit_code
    return commands, target


def batch(entries: NDArray[np.void], keeper: object) -> Commands:
    """Prepared entries; `keeper` has the memory that they name.

    Raises:
        ArgumentError: entries of another layout, or with lists of their own.
    """
    if entries.ndim != 1 or entries.dtype not in (GCM_SQE, XTS_SQE):
        raise ArgumentError("AES batch", "entries", "neither GCM_SQE nor XTS_SQE, in one dimension")
    cipher = Cipher.GCM if entries.dtype == GCM_SQE else Cipher.XTS
    records = _blank(cipher, len(entries))
    records["op_code"] = entries["attr"] & AesAttr.decrypt.mask
    for name in _SHARED:
        records[name] = entries[name]
    tail = entries["tail_src_len"].astype(np.uint32) if cipher is Cipher.GCM else np.zeros(len(entries), np.uint32)
    for side in ("src", "dst"):
        _undo_list(entries, records, side, tail)
    if cipher is Cipher.GCM:
        for name in ("key_id", "tag"):
            records[name] = entries[name]
        records["init_vector"], records["actual_aad_data_len"] = entries["iv"], entries["actual_aad_len"]
        records["aligned_aad_len"] = entries["aligned_aad_len"]
    else:
        for name in ("key_id1", "key_id2", "tweak"):
            records[name] = entries[name]
        records["data_unit_len"] = entries["attr"] >> AesAttr.dul.low
    commands = Commands(cipher, records, [keeper])
    if cipher is Cipher.GCM:
        _lengthen(commands)
    return commands


def _undo_list(entries: NDArray[np.void], records: NDArray[np.void], side: str, tail: NDArray[np.uint32]) -> None:
    """Source or destination: one block and the tail right behind it, where there are any."""
    block, mapped = entries[side], entries[f"{side}_len"]
    start = block["addr"].copy()
    if tail.any():
        behind = entries[f"tail_{side}_addr"]
        start = np.where(mapped > 0, start, behind)
        if ((tail > 0) & (behind != start + mapped)).any():
            raise ArgumentError("AES batch", "entries", "a tail that does not follow its text: a driver takes none")
    if (block["type"][mapped > 0] != SglType.DATA_BLOCK << 4).any() or (block["len"] != mapped).any():
        raise ArgumentError("AES batch", "entries", "lists of several blocks: a driver makes its own")
    records[f"{side}_ptr"], records[f"{side}_len"] = start, mapped + tail


def _lengthen(commands: Commands) -> None:
    """Have commands without text go through: the driver wants more bytes than the AAD has (A.7, check 12g).

    So where the AAD alone fills its blocks, zeros go before it. They change nothing for a device that reckons with the
    lengths that it is told (E.5); one that takes every AAD for padded as little as possible makes another tag.
    """
    zeros = GCM_AAD_ALIGNMENT_BYTES
    short = np.flatnonzero(commands.records["actual_aad_data_len"] >= commands.records["src_len"])
    for position in short.tolist():
        record: Any = commands.records[position]
        aad = ctypes.string_at(int(record["src_ptr"]), int(record["src_len"])) if record["src_len"] else b""
        source = np.frombuffer(bytes(zeros) + aad, np.uint8)
        target = np.zeros(len(source), np.uint8)
        commands.memory.extend((source, target))
        record["src_ptr"], record["dst_ptr"] = source.ctypes.data, target.ctypes.data
        record["src_len"] = record["dst_len"] = len(source)
        record["aligned_aad_len"] += zeros
