# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Names of keys and of stores: what they may be made of, and the syntax of a key's version."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from typing import Final

from ihsm.errors import ArgumentError, ArgumentTypeError

LONGEST_LABEL: Final = 128
"""Bytes of a label or of a store's name in UTF-8."""
_VERSION: Final = re.compile(r"(.+)@([0-9]+)", re.DOTALL)
_UNSEEN: Final = frozenset({"Cc", "Cs", "Zl", "Zp"})
"""Categories of Unicode that break lines, steer terminals or cannot be encoded."""


def check_label(operation: str, argument: str, label: str) -> str:
    """The label, if it can be one: 1 to 128 bytes of UTF-8, no control characters, no version at its end.

    Labels are compared as they are: what differs in normalisation or case is another label.

    Raises:
        ArgumentTypeError: no text.
        ArgumentError: no label.
    """
    _check_text(operation, argument, label)
    if _VERSION.fullmatch(label):
        raise ArgumentError(operation, argument, f"{label!r} ends like a version, in @ and a number")
    return label


def check_name(operation: str, argument: str, name: str) -> str:
    """The name of a store, which is a folder's: as a label, without / and not beginning with a dot; errors as there."""
    _check_text(operation, argument, name)
    if "/" in name or name.startswith("."):
        raise ArgumentError(operation, argument, f"{name!r} is no store's name: it has a / or begins with a dot")
    return name


def is_name(name: str) -> bool:
    """Whether a folder's name can be a store's."""
    try:
        check_name("store", "name", name)
    except ArgumentError:
        return False
    return True


def split_label(text: str) -> tuple[str, int | None]:
    """Label and version of what a user wrote: "web@1" is ("web", 1), "web" is ("web", None) and means the newest.

    Raises:
        ArgumentTypeError: no text.
        ArgumentError: no label, or a version that is none.
    """
    match = _VERSION.fullmatch(text) if isinstance(text, str) else None
    if match is None:
        return check_label("label", "label", text), None
    digits = match[2]
    if digits.startswith("0") or len(digits) > 9 or not digits.isascii():
        raise ArgumentError("label", "label", f"{text[:200]!r}: versions are numbers from 1 on")
    return check_label("label", "label", match[1]), int(digits)


def file_stem(label: str) -> str:
    """What the file of a label's record is called, before its ending: no label is unfit for a file system."""
    return hashlib.sha256(label.encode()).hexdigest()[:32]


def _check_text(operation: str, argument: str, text: str) -> None:
    if not isinstance(text, str):
        raise ArgumentTypeError(operation, argument, f"{type(text).__name__}, must be str")
    if not text:
        raise ArgumentError(operation, argument, "empty")
    for character in text[: LONGEST_LABEL + 1]:
        if unicodedata.category(character) in _UNSEEN:
            raise ArgumentError(operation, argument, f"has the character U+{ord(character):04X}, which no name has")
    # Looked at first: the longest text of so many characters is short enough to be encoded.
    if len(text) > LONGEST_LABEL or len(text.encode()) > LONGEST_LABEL:
        raise ArgumentError(operation, argument, f"longer than {LONGEST_LABEL} bytes of UTF-8")
