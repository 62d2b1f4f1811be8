# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Messages that differ in some byte arrays alone, written and read as rows of a matrix.

Where those bytes lie, and in which order, is asked of the codec and the dialect themselves: they are given byte arrays
whose bytes are numbered, and what comes out says where each of them went. So nothing of the wire is known here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

_NOWHERE: Final = -1


class NoTemplateError(ValueError):
    """A function that does more with bytes than to put them somewhere else."""


def origins(move: Callable[[bytes], bytes], size: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Where the bytes of what a function returns come from.

    Args:
        move: takes `size` bytes and puts them into what it returns, which is the same otherwise.
        size: bytes.

    Returns:
        What it returns for zeros, and for each byte of that the position in what it was given, or -1.

    Raises:
        NoTemplateError: it does something else with them.
    """
    numbers = np.arange(1, size + 1)
    zeros, low, high = (
        np.frombuffer(move(probe.astype(np.uint8).tobytes()), np.uint8)
        for probe in (np.zeros(size), numbers & 0xFF, numbers >> 8)
    )
    if not len(zeros) == len(low) == len(high):
        raise NoTemplateError("the length depends on the bytes")
    found = (low ^ zeros).astype(np.int64) + ((high ^ zeros).astype(np.int64) << 8) - 1
    # Once more, with every byte another than before.
    probe = ((numbers * 151) ^ 0x5A).astype(np.uint8)
    expected = zeros.copy()
    if found.max(initial=_NOWHERE) < size and not zeros[found >= 0].any():
        expected[found >= 0] = probe[found[found >= 0]]
        if move(probe.tobytes()) == expected.tobytes():
            return zeros, found
    raise NoTemplateError("bytes are changed, and not only moved")


@dataclass(frozen=True, slots=True)
class _Run:
    """Neighbouring bytes that go to neighbouring places, in the same order or in reverse."""

    source: slice
    target: slice


def _runs(sources: NDArray[np.int64], targets: NDArray[np.int64]) -> tuple[_Run, ...]:
    """The bytes at `sources`, which go to `targets`, an ascending list, in as few runs as possible."""
    found, start, count = [], 0, len(sources)
    while start < count:
        step = 1 if start + 1 == count else int(sources[start + 1] - sources[start])
        end = start + 1
        if step in (1, -1):
            while end < count and sources[end] - sources[end - 1] == step and targets[end] - targets[end - 1] == 1:
                end += 1
        first, last = int(sources[start]), int(sources[end - 1])
        # A slice that runs backward to the very first byte has no number for its end.
        source = slice(first, last + 1) if last >= first else slice(first, last - 1 if last else None, -1)
        found.append(_Run(source, slice(int(targets[start]), int(targets[end - 1]) + 1)))
        start = end
    return tuple(found)


class RequestTemplate:
    """Requests that differ in byte arrays of fixed sizes."""

    def __init__(self, encode: Callable[[Mapping[str, bytes]], bytes], sizes: Mapping[str, int]) -> None:
        """`encode` makes a message of the byte arrays, by name, of `sizes` bytes.

        Raises:
            NoTemplateError: it does more than to put them somewhere.
            RequestError: what `encode` raises.
        """
        zeros = {name: bytes(size) for name, size in sizes.items()}
        self._image = np.frombuffer(encode(zeros), np.uint8)
        self._moves: dict[str, tuple[_Run, ...]] = {}
        for name, size in sizes.items():
            _, found = origins(lambda data, name=name: encode({**zeros, name: data}), size)  # type: ignore[misc]
            targets = np.flatnonzero(found >= 0)
            self._moves[name] = _runs(found[targets], targets)

    def fill(self, columns: Mapping[str, NDArray[np.uint8]]) -> NDArray[np.uint8]:
        """The messages, shape (n, length), with the byte arrays given as rows, shape (n, size)."""
        count = len(next(iter(columns.values())))
        rows = np.empty((count, len(self._image)), np.uint8)
        rows[:] = self._image
        for name, column in columns.items():
            for run in self._moves[name]:
                rows[:, run.target] = column[:, run.source]
        return rows


class ResponseTemplate:
    """Responses that differ in byte arrays of fixed sizes, and in nothing else but what has several forms."""

    def __init__(
        self,
        encodings: tuple[Callable[[Mapping[str, bytes]], bytes], ...],
        sizes: Mapping[str, int],
        convert: Callable[[str, bytes], bytes],
    ) -> None:
        """Learn the form.

        Args:
            encodings: each makes a message of the byte arrays, by name; the forms have the same length.
            sizes: bytes of each array in the message.
            convert: makes what a caller is given of an array.

        Raises:
            NoTemplateError: they do more than to put bytes somewhere.
        """
        zeros = {name: bytes(size) for name, size in sizes.items()}
        images = [np.frombuffer(encode(zeros), np.uint8) for encode in encodings]
        fixed = np.ones(len(images[0]), np.bool_)
        self._moves: dict[str, tuple[int, tuple[_Run, ...]]] = {}
        for name, size in sizes.items():
            _, place = origins(lambda data, name=name: encodings[0]({**zeros, name: data}), size)  # type: ignore[misc]
            fixed[place >= 0] = False
            positions = np.zeros(size, np.int64)
            positions[place[place >= 0]] = np.flatnonzero(place >= 0)
            given, taken = origins(lambda data, name=name: convert(name, data), size)  # type: ignore[misc]
            if (taken < 0).any():
                raise NoTemplateError(f"{name}: not all of it comes from the message")
            self._moves[name] = len(given), _runs(positions[taken], np.arange(len(given)))
        self._fixed = np.flatnonzero(fixed)
        self._forms = [image[self._fixed] for image in images]
        self._length = len(images[0])

    def matching(self, messages: NDArray[np.uint8], lengths: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which of the messages, shape (n, room), with their lengths, shape (n,), have the form; shape (n,)."""
        if messages.shape[1] < self._length:
            return np.zeros(len(messages), np.bool_)
        found = messages[:, self._fixed]
        alike: NDArray[np.bool_] = lengths == self._length
        of_a_form = np.zeros(len(messages), np.bool_)
        for form in self._forms:
            of_a_form |= (found == form).all(axis=1)
        return alike & of_a_form

    def read(self, messages: NDArray[np.uint8]) -> dict[str, NDArray[np.uint8]]:
        """The byte arrays of messages that have the form, as rows of a caller's bytes."""
        columns = {}
        for name, (size, runs) in self._moves.items():
            column = columns[name] = np.empty((len(messages), size), np.uint8)
            for run in runs:
                column[:, run.target] = messages[:, run.source]
        return columns
