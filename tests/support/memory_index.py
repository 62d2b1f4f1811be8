# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Searches memory of other processes, and files, for thousands of secrets at once.

Every window of 8 bytes of every form of a secret is a needle, and what is searched is looked at word by word: a run of
15 bytes of a secret is found wherever it begins (23 of one in text or in limbs). Windows with few different bytes,
which memory is full of, are no needles.
"""

from __future__ import annotations

import base64
import os
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

WORD: Final = 8
_WINDOW: Final = 1 << 22
_FILTER_BITS: Final = 24
_SPREAD: Final = np.uint64(0x9E3779B97F4A7C15)
_FEWEST_DIFFERENT: Final = 5
"""Of the 8 bytes of a needle; a random one has fewer once in half a million."""
_LIMBS: Final = ((30, 4), (29, 8), (52, 8))
"""Bits and bytes: numbers as Python keeps them, and as the crypto library has RSA primes for AVX2 and for AVX-512."""

Words = npt.NDArray[np.uint64]
Numbers = npt.NDArray[np.int64]


class Place(Enum):
    """Where in a process."""

    ARENA = "arena"
    """Left out of core dumps and of children: where keys belong."""
    OUTSIDE = "outside"
    SHARED = "shared"
    """Shared with other processes: memory of guests, which is a guest's business."""


@dataclass(frozen=True)
class Found:
    """A piece of a secret."""

    secret: str
    place: Place
    where: str

    def __str__(self) -> str:
        return f"{self.secret} {self.place.value} ({self.where})"


def limbs(value: bytes, bits: int, size: int) -> bytes:
    """A big-endian number in limbs of so many bits, in words of `size` bytes, the lowest first."""
    number, count = int.from_bytes(value), -(-8 * len(value) // bits)
    return b"".join((number >> bits * at & (1 << bits) - 1).to_bytes(size, "little") for at in range(count))


def plain_forms(value: bytes) -> list[bytes]:
    """A secret as it is, and the other way round."""
    return [value, value[::-1]]


def thin_forms(value: bytes) -> list[bytes]:
    """As limbs of a number or as text (hexadecimal in both cases, base64 wherever in a longer text it begins).

    Eight bytes of these have less than eight of the secret.
    """
    forms = [limbs(number, *form) for number in plain_forms(value) for form in _LIMBS]
    for number in plain_forms(value):
        forms += [number.hex().encode(), number.hex().upper().encode()]
        forms += [base64.b64encode(number[skip:]) for skip in range(3)]
    return forms


class Index:
    """What is looked for."""

    def __init__(self, secrets: Mapping[str, Iterable[bytes]]) -> None:
        """Secrets by name; all forms of all values of a name stand for it."""
        self._names: list[str] = []
        self._forms: list[bytes] = []
        is_thin: list[bool] = []
        for name, values in secrets.items():
            for value in set(values):
                plain, thin = plain_forms(value), thin_forms(value)
                self._forms += plain + thin
                self._names += [name] * len(plain + thin)
                is_thin += [False] * len(plain) + [True] * len(thin)
        self._is_thin = np.array(is_thin)
        words, owners, offsets = _needles(self._forms)
        order = np.argsort(words, kind="stable")
        self._words: Words = words[order]
        self._owners, self._offsets = owners[order], offsets[order]
        self._filter = np.zeros(1 << _FILTER_BITS, bool)
        self._filter[_hashed(self._words)] = True

    def hits(self, data: bytes | bytearray | memoryview) -> Iterator[tuple[str, int]]:
        """Names of secrets in data, and at which offset; the data begins at a multiple of 8 of an address."""
        usable = len(data) // WORD * WORD
        view: Words = np.frombuffer(data, np.uint64, usable // WORD)
        if not view.any():
            return
        positions = np.flatnonzero(self._filter[_hashed(view)])
        first = np.searchsorted(self._words, view[positions])
        is_needle = self._words[np.minimum(first, len(self._words) - 1)] == view[positions]
        for position, at in zip(positions[is_needle].tolist(), first[is_needle].tolist(), strict=True):
            yield from self._hits_of_word(data, position * WORD, at)

    def _hits_of_word(self, data: bytes | bytearray | memoryview, position: int, at: int) -> Iterator[tuple[str, int]]:
        word = self._words[at]
        while at < len(self._words) and self._words[at] == word:
            owner, offset = int(self._owners[at]), int(self._offsets[at])
            if not self._is_thin[owner] or self._goes_on(data, position, owner, offset):
                yield self._names[owner], position
            at += 1

    def _goes_on(self, data: bytes | bytearray | memoryview, position: int, form: int, offset: int) -> bool:
        """Whether the 16 bytes from a hit on, or up to its end, are those of a thin form."""
        text = self._forms[form]
        after = bytes(data[position : position + 2 * WORD])
        before = bytes(data[max(0, position - WORD) : position + WORD])
        return (len(after) == 2 * WORD and text[offset : offset + 2 * WORD] == after) or (
            len(before) == 2 * WORD and offset >= WORD and text[offset - WORD : offset + WORD] == before
        )

    def in_bytes(self, data: bytes) -> set[str]:
        """Secrets in a text or file, at any offset."""
        return {name for skip in range(WORD) for name, _ in self.hits(data[skip:])}

    def in_files(self, folders: Iterable[Path]) -> set[tuple[str, str]]:
        """Secrets in what lies in folders: pairs of the secret and the file."""
        files = (path for folder in folders for path in sorted(folder.rglob("*")) if path.is_file())
        return {(secret, path.name) for path in files for secret in self.in_bytes(path.read_bytes())}

    def in_process(self, pid: int) -> list[Found]:
        """Secrets in all readable memory of a process, which the caller may trace."""
        counted: dict[tuple[str, Place, str], int] = defaultdict(int)
        with open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
            for mapping in mappings(pid):
                for name, _ in self._in_mapping(memory.fileno(), mapping):
                    counted[name, mapping.place, mapping.name] += 1
        return [Found(name, place, f"{where}, {times} words") for (name, place, where), times in counted.items()]

    def _in_mapping(self, memory: int, mapping: MemoryMapping) -> Iterator[tuple[str, int]]:
        for start in range(mapping.start, mapping.end, _WINDOW):
            try:
                data = os.pread(memory, min(_WINDOW, mapping.end - start), start)
            except OSError:  # pages behind the end of a file, or of a device
                continue
            yield from self.hits(data)


@dataclass(frozen=True)
class MemoryMapping:
    """A readable mapping of a process."""

    start: int
    end: int
    place: Place
    name: str
    locked: bool
    swapped_kib: int


def mappings(pid: int) -> list[MemoryMapping]:
    """What can be read of a process's memory."""
    found: list[MemoryMapping] = []
    head: re.Match[str] | None = None
    swapped = 0
    for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
        if match := re.match(r"([0-9a-f]+)-([0-9a-f]+) (\S{4}) \S+ \S+ \S+ *(.*)", line):
            head, swapped = match, 0
        elif line.startswith("Swap:"):
            swapped = int(line.split()[1])
        elif head is not None and line.startswith("VmFlags:") and head[3][0] == "r" and head[4] not in _UNREADABLE:
            flags = set(line.split())
            shared = head[3][3] == "s"
            place = Place.ARENA if {"dd", "dc"} <= flags else Place.SHARED if shared else Place.OUTSIDE
            name = head[4] or "anonymous"
            found.append(MemoryMapping(int(head[1], 16), int(head[2], 16), place, name, "lo" in flags, swapped))
    return found


_UNREADABLE: Final = ("[vvar]", "[vvar_vclock]", "[vsyscall]", "[vdso]")


def _needles(forms: list[bytes]) -> tuple[Words, Numbers, Numbers]:
    """The windows that are needles, as words; whose they are, and where they begin."""
    text = np.frombuffer(b"".join(forms), np.uint8)
    sizes = np.array([len(form) for form in forms])
    owners = np.repeat(np.arange(len(forms)), sizes)
    offsets = np.arange(len(text)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    windows = np.lib.stride_tricks.sliding_window_view(text, WORD)
    starts = np.flatnonzero(owners[: len(windows)] == owners[WORD - 1 :])
    windows = windows[starts]
    different = 1 + np.count_nonzero(np.diff(np.sort(windows, axis=1), axis=1), axis=1)
    kept = different >= _FEWEST_DIFFERENT
    starts = starts[kept]
    return np.ascontiguousarray(windows[kept]).view(np.uint64).reshape(-1), owners[starts], offsets[starts]


def _hashed(words: Words) -> Words:
    hashed: Words = (words * _SPREAD) >> np.uint64(64 - _FILTER_BITS)
    return hashed


def names(found: Sequence[Found], *places: Place) -> set[str]:
    """Secrets found in these places."""
    return {hit.secret for hit in found if hit.place in places}
