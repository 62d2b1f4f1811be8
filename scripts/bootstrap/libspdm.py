# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""DMTF's libspdm as a shared library, for the tests of attestation: from Debian's source package of edk2.

Set-up does not need it; the tests that do provide it on first use. OpenSSL of the machine is its cryptography.
"""

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

from bootstrap import apt, source_archives
from bootstrap.layout import CHECKOUT, cache_root, locked, published
from bootstrap.process import run, step

PACKAGE: Final = "edk2"
SUITE: Final = "trixie"
PIN: Final = CHECKOUT / "requirements" / "libspdm.txt"
LIBRARY: Final = "libspdm.so"
HEADERS_OF_OPENSSL: Final = "libssl-dev"
SOURCES: Final = (
    "library/spdm_common_lib/*.c",
    "library/spdm_crypt_lib/*.c",
    "library/spdm_requester_lib/*.c",
    "library/spdm_responder_lib/*.c",
    "library/spdm_secured_message_lib/*.c",
    "library/spdm_transport_pcidoe_lib/*.c",
    "os_stub/cryptlib_openssl/[!ps]*/*.c",
    "os_stub/cryptlib_openssl/p[ek]*/[!e]*.c",
    "os_stub/cryptlib_openssl/pk/ec.c",
    # EdDSA, which needs internal headers of OpenSSL.
    "os_stub/cryptlib_null/pk/ecd.c",
    "os_stub/debuglib_null/*.c",
    "os_stub/malloclib/*.c",
    "os_stub/memlib/*.c",
    "os_stub/platform_lib/time_linux.c",
    "os_stub/platform_lib/watchdog.c",
    "os_stub/rnglib/rng_linux.c",
    "os_stub/spdm_crypt_ext_lib/*.c",
    # What a responder of its own would prove with; a requester has nothing to sign.
    "os_stub/spdm_device_secret_lib_null/*.c",
)
FLAGS: Final = (
    "-O1", "-g", "-fPIC", "-w", "-DLIBSPDM_DEBUG_ENABLE=0", "-DLIBSPDM_CPU_X64",
    "-Iinclude", "-Iinclude/hal", "-Ios_stub", "-Ios_stub/include", "-Ios_stub/cryptlib_openssl", "-Iihsm",
)  # fmt: skip
CRT_SUPPORT: Final = """\
#include <ctype.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#define LIBSPDM_VA_LIST va_list
#define LIBSPDM_VA_START va_start
#define LIBSPDM_VA_ARG va_arg
#define LIBSPDM_VA_END va_end
"""
"""In place of a header that stands for a C library where there is none."""


def provide() -> Path:
    """Path of the shared library.

    Raises:
        SetupError: it cannot be fetched or built.
    """
    recipe = "\n".join((PIN.read_text(), *SOURCES, *FLAGS, CRT_SUPPORT))
    folder = cache_root() / "libspdm" / hashlib.sha256(recipe.encode()).hexdigest()[:12]
    with locked(cache_root() / "libspdm.lock"):
        if not (folder / LIBRARY).exists():
            if missing := apt.missing([HEADERS_OF_OPENSSL]):
                apt.install(missing)
            with step("libspdm: fetching and building it"), published(folder) as root:
                _build(_fetch(root), root)
    return folder / LIBRARY


def _fetch(root: Path) -> Path:
    """The source tree, below `root`."""
    member = "*/SecurityPkg/DeviceSecurity/SpdmLib/libspdm/*"
    source = root / "source"
    source_archives.unpack(PACKAGE, SUITE, PIN, source, "--strip-components=5", "--wildcards", member)
    return source


def _build(source: Path, root: Path) -> None:
    support = source / "ihsm"
    (support / "crypto").mkdir(parents=True)
    (support / "crt_support.h").write_text(CRT_SUPPORT)
    files = sorted({path for pattern in SOURCES for path in source.glob(pattern)})
    objects = root / "objects"
    objects.mkdir()

    def compiled(file: Path) -> Path:
        target = objects / f"{file.relative_to(source).as_posix().replace('/', '-')}.o"
        run(["cc", *FLAGS, "-c", file.relative_to(source), "-o", target], cwd=source)
        return target

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        made = list(pool.map(compiled, files))
    run(["cc", "-shared", "-o", root / LIBRARY, *made, "-lcrypto", "-Wl,--no-undefined"])
