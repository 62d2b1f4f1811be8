# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""The programs of `tests/programs`, compiled when a test first asks for one; a later run takes what is there."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from bootstrap import golang
from bootstrap.layout import cache_root
from ihsm_abi import cheader
from programs import headers

ROOT: Final = Path(__file__).parents[2]
SOURCES: Final = ROOT / "tests" / "programs"
HELPER: Final = shlex.join([sys.executable, str(SOURCES / "session_helper.py")])
"""Command for `chardev_user --helper`."""
CFLAGS: Final = ("-std=gnu11", "-D_GNU_SOURCE", "-O1", "-g", "-Wall", "-Wextra", "-Werror", "-pthread")
COMMON: Final = ("user.c",)
CHARDEV_USER: Final = (
    "chardev_user.c", "helper.c", "stages_aes.c", "stages_commands.c", "stages_node.c", "stages_processes.c",
    "stages_session.c",
)  # fmt: skip
MIXED_IOCTLS: Final = ("mixed_ioctls.c",)
GO_PROGRAM: Final = SOURCES / "static_user"
REPORT: Final = ROOT / "tests" / "data" / "chardev-report.txt"
"""What the program with the stages prints where the driver is Linux's."""
_COMMON_DIFFERENCES: Final = {
    # Of ioctls, those of the driver's types alone are taken, for there are many others.
    "numbers: another type (0xc0b04304): EBADRQC": "numbers: another type (0xc0b04304): ENOTTY",
    "numbers: zero (0): EBADRQC": "numbers: zero (0): ENOTTY",
    "numbers: FIOASYNC: ENOTTY": "numbers: FIOASYNC: 0",
    "numbers: FIONREAD: EBADRQC": "numbers: FIONREAD: EINVAL",
    "numbers: a terminal: EBADRQC": "numbers: a terminal: ENOTTY",
    # A socket stands for the device.
    "files: poll: 1, readable: yes, writable: yes": "files: poll: 1, readable: yes, writable: no",
}
DIFFERENCES: Final = {
    "notify": _COMMON_DIFFERENCES,
    "preload": {
        **_COMMON_DIFFERENCES,
        # A library in the program sees what goes through libc.
        "numbers: without libc's function: 0": "numbers: without libc's function: ENOTTY",
        # It does not ask where each path leads that begins elsewhere.
        "paths: a link to it: 0": "paths: a link to it: ENOENT",
        "paths: the kind of what it leads to: a device": "paths: the kind of what it leads to: none",
    },
}
"""For each way, lines of the report by which a program can tell that it runs on the host, and what it prints there."""


def chardev_user(*, static: bool = False) -> Path:
    """The program with the stages."""
    return _compiled("chardev_user", CHARDEV_USER, static)


def mixed_ioctls() -> Path:
    """The program with many threads."""
    return _compiled("mixed_ioctls", MIXED_IOCTLS, False)


def static_go_user() -> Path:
    """The program in Go.

    Raises:
        AssertionError: there is no compiler and none can be fetched, or the program does not compile.
    """
    go = golang.provide()
    sources = [*GO_PROGRAM.glob("*.go")]
    declarations = headers.go_declarations().encode()
    with _made("static_user", [*sources], declarations + str(go).encode()) as (folder, is_new):
        if is_new:
            for source in sources:
                shutil.copy(source, folder)
            (folder / "declarations.go").write_bytes(declarations)
            (folder / "go.mod").write_text("module static_user\n\ngo 1.19\n")
            environment = {"CGO_ENABLED": "0", "GOFLAGS": "-mod=mod", "GOPROXY": "off", "GOTOOLCHAIN": "local"}
            # What it compiles of its library is good for every checkout.
            caches = {"GOCACHE": str(cache_root() / "go-build"), "GOPATH": f"{folder}/path"}
            _run([go, "build", "-o", "static_user", "."], folder, environment | caches)
    return folder / "static_user"


def jumping_clock() -> Path:
    """A library to be preloaded, which has the time of day jump."""
    source, flags = SOURCES / "jumping_clock.c", [*CFLAGS, "-shared", "-fPIC"]
    with _made("jumping_clock", [source], " ".join(flags).encode()) as (folder, is_new):
        if is_new:
            _run(["gcc", *flags, "-o", "jumping_clock", str(source)], folder, {})
    return folder / "jumping_clock"


def on_host(via: str, lines: Sequence[str]) -> list[str]:
    """What the program with the stages prints on the host where it prints these lines on Linux."""
    return [DIFFERENCES[via].get(line, line) for line in lines]


def report(*stages: str) -> list[str]:
    """What it prints on Linux, in these stages or in all."""
    lines = REPORT.read_text().splitlines()
    return [line for line in lines if not stages or line.partition(":")[0] in stages]


def _compiled(name: str, sources: Sequence[str], static: bool) -> Path:
    """One of the C programs."""
    files = [SOURCES / source for source in (*COMMON, *sources)]
    flags = [*CFLAGS, *(["-static"] if static else [])]
    messages = headers.message_header().encode()
    mark = messages + cheader.UAPI.render().encode() + " ".join(flags).encode()
    with _made(f"{name}-static" if static else name, [*files, *SOURCES.glob("*.h")], mark) as (folder, is_new):
        if is_new:
            headers.write(folder)
            _run(["gcc", *flags, f"-I{folder}", "-o", name, *map(str, files)], folder, {})
    return folder / name


@contextmanager
def _made(name: str, sources: Sequence[Path], mark: bytes) -> Iterator[tuple[Path, bool]]:
    """A folder of build/programs for what is made of these sources, and whether that is still to be done.

    It is locked, for other test processes want the same; what fails is tried again the next time.
    """
    folder = ROOT / "build" / "programs" / name
    digest = hashlib.sha256(mark)
    for source in sorted(sources):
        digest.update(source.read_bytes())
    folder.parent.mkdir(parents=True, exist_ok=True)
    with (folder.parent / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        stamp = folder / "stamp"
        is_new = not stamp.exists() or stamp.read_text() != digest.hexdigest()
        if is_new:
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
        yield folder, is_new
        stamp.write_text(digest.hexdigest())


def _run(command: Sequence[str | Path], folder: Path, environment: Mapping[str, str]) -> None:
    done = subprocess.run(command, cwd=folder, env=os.environ | dict(environment), capture_output=True, text=True)
    assert done.returncode == 0, f"{command[0]}: {done.stdout}{done.stderr}"
