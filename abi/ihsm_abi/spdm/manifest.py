# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""The device's code as it is measured: files of the installed packages, and the image that each belongs to.

An image's digest is SHA-384 over the digests of its files in the order of their paths, as spec 06 §1.3 has it of the
components of a core. Both sides measure with this module: the device itself, and who makes a reference of a package
that he trusts. A short form of all digests is in a block of its own, so that requesters can name the files that differ.
"""

from __future__ import annotations

import hashlib
import importlib.machinery
import importlib.util
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple

PACKAGES: Final = ("ihsm_abi", "ihsm_device")
"""What runs in the device."""
SHORT_BYTES: Final = 8
"""Of a file's digest in the block of all files."""
DIGEST_BYTES: Final = 48
FILES_BLOCK: Final = 29
TRUST_BLOCK: Final = 16
"""Image of what proves: the responder, certificates, keys."""
CONTROL_BLOCK: Final = 24
"""Image of the rest of the device's Python."""
FAST_BLOCK: Final = 25
"""Image of native code."""
_SOURCE: Final = ".py"
_BYTE_CODE: Final = "__pycache__"
_NATIVE: Final = importlib.machinery.EXTENSION_SUFFIXES[0]
_NATIVE_MODULE: Final = "ihsm_device/_native"
_TRUST: Final = ("ihsm_abi/spdm/", "ihsm_device/trust/", "ihsm_device/hsm/identity/", "ihsm_device/hsm/keystore/")


class MeasuredFile(NamedTuple):
    """One file."""

    path: str
    """Below the folder that the packages are in."""
    digest: bytes
    """SHA-384."""

    @property
    def block(self) -> int:
        """The block of its image."""
        if self.path.startswith(_NATIVE_MODULE):
            return FAST_BLOCK
        return TRUST_BLOCK if self.path.startswith(_TRUST) else CONTROL_BLOCK


def installed() -> dict[str, Path]:
    """Folder of each package, none of which is imported; raises ModuleNotFoundError."""
    folders = {}
    for package in PACKAGES:
        spec = importlib.util.find_spec(package)
        if spec is None or spec.origin is None:
            raise ModuleNotFoundError(f"{package} is not installed", name=package)
        folders[package] = Path(spec.origin).parent
    return folders


def measure(folders: Mapping[str, Path], native: Path | None = None) -> tuple[MeasuredFile, ...]:
    """Every file of code below the folders, in the order of paths; `native`: the native module, if it lies elsewhere.

    Raises:
        OSError: a file cannot be read.
    """
    found = dict(_code(folders))
    if native is not None:
        found = {path: file for path, file in found.items() if not path.startswith(_NATIVE_MODULE)}
        found[_NATIVE_MODULE + _NATIVE] = native
    return tuple(MeasuredFile(path, hashlib.sha384(found[path].read_bytes()).digest()) for path in sorted(found))


def _code(folders: Mapping[str, Path]) -> Iterator[tuple[str, Path]]:
    for package, top in folders.items():
        for folder, below, names in os.walk(top):
            below[:] = (name for name in below if name != _BYTE_CODE)
            inside = Path(package, os.path.relpath(folder, top))
            for name in names:
                if name.endswith((_SOURCE, _NATIVE)):
                    yield (inside / name).as_posix(), Path(folder, name)


def image_digest(files: Iterable[MeasuredFile], block: int) -> bytes:
    """Digest of an image; zeros for one without files."""
    digests = [file.digest for file in files if file.block == block]
    return hashlib.sha384(b"".join(digests)).digest() if digests else bytes(DIGEST_BYTES)


def short_digests(files: Iterable[MeasuredFile]) -> bytes:
    """Data of the block of all files."""
    return b"".join(file.digest[:SHORT_BYTES] for file in files)


def changed(reference: Sequence[MeasuredFile], shorts: bytes) -> tuple[list[str], int]:
    """Paths of the reference whose file is another or missing, and how many files it does not have."""
    found = [shorts[at : at + SHORT_BYTES] for at in range(0, len(shorts), SHORT_BYTES)]
    known = {file.digest[:SHORT_BYTES] for file in reference}
    present = set(found)
    paths = [file.path for file in reference if file.digest[:SHORT_BYTES] not in present]
    return paths, sum(short not in known for short in found)
