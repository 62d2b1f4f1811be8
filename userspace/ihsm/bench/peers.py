# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Whom the device is compared with: crypto libraries called directly, and a PKCS#11 soft token."""

from __future__ import annotations

import ctypes.util
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any, Final

from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from numpy.typing import NDArray

from ihsm.bench import _native
from ihsm.bench._native import ffi, lib
from ihsm.bench.rings import check, sample_of
from ihsm.bench.sample import Sample, timed
from ihsm.errors import IhsmError
from ihsm.kept import Kept

SOFTHSM_MODULES: Final = ("/usr/lib/softhsm/libsofthsm2.so", "/usr/lib64/softhsm/libsofthsm.so")
TOKEN_LABEL: Final = "bench"
TOKEN_PIN: Final = "1234"


class PeerError(IhsmError):
    """A peer that is installed cannot be used."""


class Buffers:
    """Sources and destinations in DMA memory, `stride` bytes apart, shared by the device and its peers."""

    def __init__(self, source: NDArray[Any], target: NDArray[Any], count: int, stride: int) -> None:
        """Both arrays have `count * stride` bytes."""
        self.source, self.target, self.count, self.stride = source, target, count, stride

    @property
    def native(self) -> tuple[_native.Pointer[_native.uint8_t], _native.Pointer[_native.uint8_t], int, int]:
        """As the C loops take them."""
        return (
            ffi.cast("uint8_t *", self.source.ctypes.data),
            ffi.cast("uint8_t *", self.target.ctypes.data),
            self.count,
            self.stride,
        )


class Library:
    """A crypto library called from C."""

    def __init__(self, handle: _native.Pointer[_native.ihsm_bench_library]) -> None:
        """Made by the functions below."""
        self._handle = handle

    @property
    def version(self) -> str:
        """As the library gives it."""
        text = ffi.string(lib.ihsm_bench_version(self._handle))
        assert isinstance(text, bytes)
        return text.decode()

    def gcm(self, buffers: Buffers, aad_bytes: int, text_bytes: int, seconds: float) -> Sample:
        """AES-256-GCM encryption out of place, new IV each time."""
        result = ffi.new("struct ihsm_bench_result *")
        status = lib.ihsm_bench_gcm(
            self._handle, os.urandom(32), *buffers.native, aad_bytes, text_bytes, int(seconds * 1e9), result
        )
        check(status, "AES-GCM")
        return sample_of(result)

    def xts(self, buffers: Buffers, data_bytes: int, seconds: float) -> Sample:
        """AES-256-XTS encryption out of place, new tweak each time."""
        result = ffi.new("struct ihsm_bench_result *")
        status = lib.ihsm_bench_xts(
            self._handle, os.urandom(64), *buffers.native, data_bytes, int(seconds * 1e9), result
        )
        check(status, "AES-XTS")
        return sample_of(result)

    def cbc(self, buffers: Buffers, data_bytes: int, seconds: float) -> Sample:
        """AES-256-CBC encryption of whole blocks out of place, new IV each time."""
        result = ffi.new("struct ihsm_bench_result *")
        status = lib.ihsm_bench_cbc(
            self._handle, os.urandom(32), *buffers.native, data_bytes, int(seconds * 1e9), result
        )
        check(status, "AES-CBC")
        return sample_of(result)

    def hmac(self, message: bytes, seconds: float) -> Sample:
        """HMAC-SHA-256 of a message, keyed once."""
        result = ffi.new("struct ihsm_bench_result *")
        status = lib.ihsm_bench_hmac(self._handle, os.urandom(32), message, len(message), int(seconds * 1e9), result)
        check(status, "HMAC")
        return sample_of(result)

    def sign(self, private_key_der: bytes, digest: bytes, seconds: float) -> Sample:
        """Signatures over a digest with an EC or RSA key."""
        result = ffi.new("struct ihsm_bench_result *")
        status = lib.ihsm_bench_sign(
            self._handle, private_key_der, len(private_key_der), digest, len(digest), int(seconds * 1e9), result
        )
        check(status, "signature")
        return sample_of(result)


def aws_lc() -> Library:
    """The library that the device itself uses."""
    return Library(lib.ihsm_bench_aws_lc())


def system_openssl() -> Library | None:
    """The distribution's OpenSSL; None if there is none."""
    name = ctypes.util.find_library("crypto")
    handle = lib.ihsm_bench_load(name.encode()) if name else ffi.NULL
    return None if handle == ffi.NULL else Library(handle)


class SoftHsm:
    """SoftHSM2 in this process, with a token of its own in a temporary folder."""

    def __init__(self, module: Path) -> None:
        """Initialise the token; `PeerError` if that fails."""
        self._kept = Kept("ihsm-softhsm-")
        folder = self._kept.folder
        (folder / "tokens").mkdir()
        configuration = folder / "softhsm2.conf"
        configuration.write_text(
            f"directories.tokendir = {folder}/tokens\nobjectstore.backend = file\nlog.level = ERROR\n"
        )
        os.environ["SOFTHSM2_CONF"] = str(configuration)
        try:
            command = ["softhsm2-util", "--init-token", "--free", "--label", TOKEN_LABEL, "--pin", TOKEN_PIN]
            subprocess.run([*command, "--so-pin", TOKEN_PIN], check=True, capture_output=True)
            error = ffi.new("int *")
            self._token = lib.ihsm_bench_token_open(
                os.fsencode(module), TOKEN_LABEL.encode(), TOKEN_PIN.encode(), error
            )
            if self._token == ffi.NULL:
                raise PeerError(f"{module}: PKCS#11 error {error[0]:#x}")
        except (PeerError, OSError, subprocess.CalledProcessError) as problem:
            self._kept.close()
            raise PeerError(f"SoftHSM2 cannot be set up: {problem}") from None

    @property
    def version(self) -> str:
        """Of softhsm2-util, which comes with the module."""
        return subprocess.run(["softhsm2-util", "--version"], check=True, capture_output=True, text=True).stdout.strip()

    def gcm(self, buffers: Buffers, aad_bytes: int, text_bytes: int, seconds: float) -> Sample:
        """C_EncryptInit and C_Encrypt with CKM_AES_GCM, new IV each time."""
        result = ffi.new("struct ihsm_bench_result *")
        status = lib.ihsm_bench_token_gcm(
            self._token, *buffers.native, aad_bytes, text_bytes, int(seconds * 1e9), result
        )
        check(status, "CKM_AES_GCM")
        return sample_of(result)

    def ecdsa_p256(self, digest: bytes, seconds: float) -> Sample:
        """C_SignInit and C_Sign with CKM_ECDSA."""
        result = ffi.new("struct ihsm_bench_result *")
        check(lib.ihsm_bench_token_ecdsa_p256(self._token, digest, int(seconds * 1e9), result), "CKM_ECDSA")
        return sample_of(result)

    def close(self) -> None:
        """Log out and remove the token."""
        lib.ihsm_bench_token_close(self._token)
        self._kept.close()


def soft_hsm() -> SoftHsm | None:
    """SoftHSM2 if its module and tools are installed."""
    found = next((Path(path) for path in SOFTHSM_MODULES if Path(path).exists()), None)
    if found is None or shutil.which("softhsm2-util") is None:
        return None
    return SoftHsm(found)


def pyca_gcm(aad_bytes: int, text_bytes: int, seconds: float) -> Sample:
    """One pyca/cryptography AESGCM.encrypt per operation, from Python."""
    cipher = AESGCM(os.urandom(32))
    text, aad, iv = os.urandom(text_bytes), os.urandom(aad_bytes), bytes(12)
    return timed(lambda: cipher.encrypt(iv, text, aad), seconds)
