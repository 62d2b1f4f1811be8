# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Standard streams that are closed, full, without a reader or of another encoding; names that are no text."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from ihsm.cli.streams import bytes_or_escapes
from support.commands import run, run_process
from support.process import serve
from support.waiting import HANG_S

CLOSED = 'exec "$0" -P -m ihsm "$@" {redirections}'
ODD = b"odd-\xff\xfe"
"""Bytes of a name that are no UTF-8."""


@contextmanager
def unwritable(kind: str) -> Iterator[int]:
    """A descriptor to write to that takes nothing."""
    if kind == "pipe":
        reader, descriptor = os.pipe()
        os.close(reader)
    else:
        descriptor = os.open(*{"full": ("/dev/full", os.O_WRONLY), "for reading": ("/dev/null", os.O_RDONLY)}[kind])
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def run_closed(redirections: str, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    command = ["sh", "-c", CLOSED.format(redirections=redirections), sys.executable, *arguments]
    return subprocess.run(command, capture_output=True, check=False, timeout=HANG_S)


@pytest.mark.parametrize(
    ("kind", "reason"),
    [("full", b"No space left on device"), ("pipe", b"Broken pipe"), ("for reading", b"Bad file descriptor")],
)
@pytest.mark.parametrize(
    "arguments", [("--help",), ("list", "--json"), ("bench", "--json"), ("guest", "--exec", "true"), ("info",)]
)
def test_an_output_that_takes_nothing_is_found_before_the_work(
    arguments: tuple[str, ...], kind: str, reason: bytes
) -> None:
    with unwritable(kind) as stdout:
        done = run_process(*arguments, stdout=stdout)
    assert (done.returncode, done.stderr) == (2, b"Error: standard output: " + reason + b"\n")


@pytest.mark.parametrize("kind", ["full", "pipe"])
def test_a_server_that_cannot_say_ready_leaves_nothing(kind: str, tmp_path: Path) -> None:
    folder = tmp_path / "sockets"
    folder.mkdir()
    with unwritable(kind) as stdout:
        done = run_process("serve", "--socket", str(folder / "0.sock"), stdout=stdout)
    assert done.returncode == 2
    assert list(folder.iterdir()) == []


def test_a_closed_output_is_found_and_closed_others_are_none() -> None:
    done = run_closed(">&-", "list")
    assert (done.returncode, done.stderr) == (2, b"Error: standard output: closed\n")
    done = run_closed("<&- 2>&-", "qemu-args", "--socket", "/x", "--json")
    assert done.returncode == 0
    assert "-device" in json.loads(done.stdout)


def test_a_closed_input_is_no_empty_one() -> None:
    """Nobody gets a key, or a signature, of what was not given."""
    done = run_closed("<&-", "key", "import", "web", "--kind", "aes256")
    assert (done.returncode, done.stderr) == (2, b"Error: standard input: Bad file descriptor\n")


def test_an_output_that_fills_up_is_one_line(tmp_path: Path) -> None:
    """Found by no test before the work: a file with a limit. `ulimit -f 0` ends even the first byte."""
    command = f'ulimit -f 0; exec "$0" -P -m ihsm list > "{tmp_path}/out"'
    done = subprocess.run(["sh", "-c", command, sys.executable], capture_output=True, check=False, timeout=HANG_S)
    assert (done.returncode, done.stderr) == (2, b"Error: standard output: File too large\n")


def test_a_reader_that_leaves_is_one_line() -> None:
    command = '"$0" -P -m ihsm list --watch | true; :'
    done = subprocess.run(["sh", "-c", command, sys.executable], capture_output=True, check=False, timeout=HANG_S)
    assert done.stderr in (b"Error: standard output: Broken pipe\n", b"")


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        (("info", "--device", b"vfio-user:/" + ODD), 3),
        (("status", "--device", b"vfio-user:/" + ODD), 3),
        (("selftest", "--device", b"vfio-user:/" + ODD), 3),
        (("init", "--device", b"usb:" + ODD), 2),
        (("init", "--bk3-file", b"/" + ODD), 2),
        (("serve", "--socket", b"/" + ODD + b"/0.sock"), 1),
        (("serve", "--socket", b"/tmp/" + ODD * 30), 1),
        (("serve", "--state", b"/dev/null/" + ODD), 1),
        (("guest", "--kernel", b"/" + ODD), 2),
        (("guest", "--module", b"/" + ODD + b".ko", "--exec", "true"), 125),
        (("qemu-args", "--socket", b"/" + ODD), 2),
        (("verify-report", b"/" + ODD, "--chain", b"/" + ODD), 2),
        (("bench", "--compare", b"/" + ODD), 2),
        ((b"dance" + ODD,), 2),
        (("info", "--chain", b"/nowhere/" + ODD), 2),
    ],
)
@pytest.mark.parametrize("locale", ["C.UTF-8", "C"])
def test_arguments_that_are_no_text(arguments: tuple[str | bytes, ...], status: int, locale: str) -> None:
    done = run_process(*arguments, env={**os.environ, "LC_ALL": locale})
    assert done.returncode == status, done.stderr
    assert b"Traceback" not in done.stderr
    line = done.stderr.splitlines()[-1]
    assert line.startswith(b"Error: ")
    assert b"unexpected" not in line


def test_a_served_socket_keeps_its_bytes(tmp_path: Path) -> None:
    """ready: has the name's own bytes, JSON has them as Python's surrogates, a table for people as escapes."""
    strict = {**os.environ, "PYTHONIOENCODING": "utf-8:strict"}  # as most locales have it
    folder = os.fsencode(tmp_path) + b"/" + ODD
    os.mkdir(folder)
    path = folder + b"/0.sock"
    ready, uri = b"ready: vfio-user:" + path + b"\n", b"vfio-user:" + path
    command = [sys.executable, "-P", "-m", "ihsm", "serve", "--socket", path]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=strict) as server:
        try:
            assert server.stdout is not None
            assert server.stdout.readline() == ready
            done = run_process("info", "--device", uri, env=strict)
            assert done.returncode == 0, done.stderr
            assert uri.decode(errors="backslashreplace").encode() in done.stdout
            done = run_process("info", "--device", uri, "--json", env=strict)
            assert os.fsencode(json.loads(done.stdout)["uri"]) == uri
            done = run_process("status", "--device", uri, "--json", env=strict)
            assert os.fsencode(json.loads(done.stdout)["socket"]) == path
        finally:
            server.terminate()
            server.wait()


@pytest.mark.parametrize(("file", "reason"), [("/dev/zero", "longer than"), ("/proc/self/mem", "Input/output error")])
@pytest.mark.parametrize(
    "arguments",
    [
        ("init", "--pin-file", "{}"),
        ("init", "--bk3-file", "{}"),
        ("init", "--owner-key", "{}"),
        ("selftest", "--id", "00" * 16, "--pin-file", "{}"),
        ("verify-report", "{}", "--chain", "{}"),
    ],
)
def test_a_file_without_end_or_that_cannot_be_read_is_wrong_usage(
    arguments: tuple[str, ...], file: str, reason: str
) -> None:
    result = run(*(word.format(file) for word in arguments))
    assert result.exit_code == 2, result.output
    assert reason in result.output.splitlines()[-1]


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_any_encoding_of_the_output_will_do(encoding: str) -> None:
    done = run_process("bench", "--help", env={**os.environ, "PYTHONIOENCODING": encoding})
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("text", "encoding", "data"),
    [
        ("a\udcffb", "utf-8", b"a\xffb"),
        ("µ\udc80", "ascii", b"\\xb5\x80"),
        ("\ud800", "utf-8", b"\\ud800"),
        ("µ", "latin-1", b"\xb5"),
    ],
)
def test_bytes_stay_bytes_and_the_rest_is_an_escape(text: str, encoding: str, data: bytes) -> None:
    import codecs

    codecs.register_error("test-bytes-or-escapes", bytes_or_escapes)
    assert text.encode(encoding, "test-bytes-or-escapes") == data


def test_the_device_starts_where_the_folder_is_no_text(tmp_path: Path) -> None:
    folder: Any = os.fsencode(tmp_path) + b"/" + ODD
    os.mkdir(folder)
    done = run_process("info", cwd=folder, env={**os.environ, "TMPDIR": os.fsdecode(folder)})
    assert done.returncode == 0, done.stderr


def test_serve_still_says_ready(tmp_path: Path) -> None:
    with serve("--socket", str(tmp_path / "0.sock")) as server:
        assert server.paths == [tmp_path / "0.sock"]
