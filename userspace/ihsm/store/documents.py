# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""The JSON documents that the store's files are: a format number, fields, and a SHA-256 of them all.

The digest finds accidents: a flipped bit, a line cut by an editor. It is no protection from somebody who means to
change a file; docs/store.md says what is.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from ihsm.errors import StoreDamagedError, StoreError
from ihsm.fields import FieldError, field, hexadecimal
from ihsm_abi import json_text

FORMAT: Final = 1
_FORMAT: Final = "format"
_DIGEST: Final = "sha256"


def encode_document(content: Mapping[str, Any]) -> bytes:
    """A document of the present format with these fields, as its file has it."""
    plain = {_FORMAT: FORMAT, **content}
    return json_text.dump({**plain, _DIGEST: _digest(plain).hex()}, indent=1).encode() + b"\n"


def parse_document(data: bytes, path: Path) -> dict[str, Any]:
    """The fields of the document in a file; `path` names it in errors.

    Raises:
        StoreDamagedError: no document, or not as it was written.
        StoreError: made by a newer version.
    """
    plain: Any
    try:
        plain = json_text.parse(data)
    except ValueError:
        plain = None
    # Raised here and below, outside of handlers: an exception of the parser holds the whole text, secrets and all.
    if not isinstance(plain, dict):
        raise damaged(path, "no JSON object")
    form = plain.pop(_FORMAT, None)
    if type(form) is not int or form < 1:
        raise damaged(path, f"{_FORMAT}: must be a number from 1 on")
    if form > FORMAT:
        raise StoreError(
            f"{path}: made by a newer version of ihsm (format {form}, this one knows {FORMAT}): use that version"
        )
    problem = ""
    try:
        digest = field(plain, _DIGEST, hexadecimal(hashlib.sha256().digest_size))
        del plain[_DIGEST]
        if digest == _digest({_FORMAT: form, **plain}):
            return plain
        problem = f"{_DIGEST}: does not fit the rest, which something else than ihsm has changed"
    except FieldError as error:
        problem = str(error)
    raise damaged(path, problem)


def damaged(path: Path, problem: str) -> StoreDamagedError:
    """The error of a file that is not what was written; `problem` names the field."""
    return StoreDamagedError(f"{path}: damaged: {problem}; restore it from a copy of the store")


def _digest(plain: Mapping[str, Any]) -> bytes:
    """Of the content, however it is set out."""
    return hashlib.sha256(json_text.dump(plain).encode()).digest()
