# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""`ihsm encrypt` and `ihsm decrypt`: files, pipes, versions, and what is left behind when something goes wrong.

The format is tested in tests/userspace/api/test_files.py.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ihsm.cli import inputs
from support.commands import refused, run, run_process, succeed
from support.process import blocks_on, interruptible
from support.waiting import HANG_S, until

pytestmark = pytest.mark.usefixtures("archive")
IHSM = [sys.executable, "-P", "-m", "ihsm"]
TEXT = os.urandom((3 << 20) + 77)


@pytest.fixture
def archive(keys: Path) -> str:
    if run("key", "show", "archive", "--json").exit_code:
        succeed("key", "generate", "archive", "--kind", "aes256-gcm")
    return "archive"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An empty one: other things lie in tmp_path."""
    path = tmp_path / "folder"
    path.mkdir()
    return path


def test_files_there_and_back(folder: Path) -> None:
    text, sealed, back = folder / "text", folder / "sealed", folder / "back"
    text.write_bytes(TEXT)
    assert succeed("encrypt", "archive", text, "-o", sealed) == b""
    assert TEXT[:64] not in sealed.read_bytes()
    assert succeed("decrypt", "archive", sealed, "-o", back) == b""
    assert back.read_bytes() == TEXT
    assert len(list(folder.iterdir())) == 3


@pytest.mark.parametrize("size", [0, 100, len(TEXT)])
def test_standard_input_and_output(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """In memory as well as in a temporary file."""
    monkeypatch.setattr(inputs, "SPOOL_BYTES", 1 << 20)
    sealed = succeed("encrypt", "archive", stdin=TEXT[:size])
    assert succeed("decrypt", "archive", "-", stdin=sealed) == TEXT[:size]


def test_the_program_in_the_documentation_reads_what_is_written() -> None:
    page = (Path(__file__).parents[3] / "docs/shell.md").read_text()
    program = next(block for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "def decrypt" in block)
    names: dict[str, Any] = {}
    exec(program, names)
    key = bytes(range(32))
    succeed("key", "import", "known", "--kind", "aes256-gcm", stdin=key)
    for size in (0, 1, 65536, len(TEXT)):
        assert names["decrypt"](key, succeed("encrypt", "known", stdin=TEXT[:size])) == TEXT[:size]


def test_three_in_a_pipe(folder: Path) -> None:
    """The device takes one program at a time: each has read its input before it opens the device."""
    sealed = folder / "sealed"
    sealed.write_bytes(succeed("encrypt", "archive", stdin=TEXT))
    wait = ["--wait", str(HANG_S)]
    first = subprocess.Popen([*IHSM, "decrypt", "archive", sealed, *wait], stdout=subprocess.PIPE)
    second = subprocess.Popen([*IHSM, "encrypt", "archive", *wait], stdin=first.stdout, stdout=subprocess.PIPE)
    third = subprocess.Popen([*IHSM, "decrypt", "archive", *wait], stdin=second.stdout, stdout=subprocess.PIPE)
    assert first.stdout is not None
    assert second.stdout is not None
    first.stdout.close()
    second.stdout.close()
    assert third.communicate(timeout=HANG_S)[0] == TEXT
    assert [each.wait(HANG_S) for each in (first, second, third)] == [0, 0, 0]


def test_what_was_encrypted_before_a_rotation() -> None:
    succeed("key", "generate", "turns", "--kind", "aes256-gcm")
    first = succeed("encrypt", "turns", stdin=b"first")
    succeed("key", "rotate", "turns")
    second = succeed("encrypt", "turns", stdin=b"second")
    assert succeed("decrypt", "turns", stdin=first) == b"first"
    assert succeed("decrypt", "turns", stdin=second) == b"second"
    assert succeed("decrypt", "turns@1", stdin=first) == b"first"
    assert "another key" in refused(6, "decrypt", "turns@2", stdin=first)
    assert "another key" in refused(6, "decrypt", "archive", stdin=first)


@pytest.mark.parametrize("change", ["cut", "flipped", "appended", "not encrypted"])
def test_what_does_not_verify_leaves_nothing(change: str, folder: Path) -> None:
    sealed = succeed("encrypt", "archive", stdin=TEXT)
    middle = len(sealed) // 2
    changed = {
        "cut": sealed[:middle],
        "flipped": sealed[:middle] + bytes([sealed[middle] ^ 1]) + sealed[middle + 1 :],
        "appended": sealed + b".",
        "not encrypted": TEXT,
    }[change]
    there = folder / "there"
    there.write_text("before")
    refused(6, "decrypt", "archive", "-o", there, stdin=changed)
    refused(6, "decrypt", "archive", "-o", folder / "new", stdin=changed)
    assert there.read_text() == "before"
    assert list(folder.iterdir()) == [there]
    result = run("decrypt", "archive", stdin=changed)
    assert result.exit_code == 6
    assert TEXT.startswith(result.stdout_bytes), "what does not verify is not written"


def test_rsa_keys_and_openssl(folder: Path) -> None:
    """OpenSSL decrypts for a key that it knows, and encrypts for one that only the device has."""
    succeed("key", "generate", "box", "--kind", "rsa2048", "--usage", "decrypt")
    pem, text, sealed = folder / "pem", folder / "text", folder / "sealed"
    pem.write_bytes(succeed("key", "show", "box"))
    text.write_bytes(b"short text")
    oaep = ["-pkeyopt", "rsa_padding_mode:oaep", "-pkeyopt", "rsa_oaep_md:sha256"]
    command = ["openssl", "pkeyutl", "-encrypt", "-pubin", "-inkey", pem, *oaep, "-in", text, "-out", sealed]
    subprocess.run(command, check=True)
    assert succeed("decrypt", "box", sealed) == b"short text"
    assert succeed("decrypt", "box", stdin=succeed("encrypt", "box", text)) == b"short text"
    refused(6, "decrypt", "box", sealed, "--hash", "sha384")
    refused(6, "decrypt", "box", stdin=bytes(256))
    assert "longer than 190" in refused(2, "encrypt", "box", stdin=bytes(191))
    succeed("encrypt", "box", "--hash", "sha512", stdin=bytes(126))


@pytest.mark.parametrize(
    ("status", "arguments", "text"),
    [
        (2, ("encrypt", "p256"), "is p256: files are encrypted with aes256-gcm keys"),
        (2, ("decrypt", "p256"), "is p256"),
        (2, ("decrypt", "rsa2048"), "was made for sign"),
        (7, ("encrypt", "nobody"), "no key 'nobody'"),
        (7, ("decrypt", "archive@2"), "no version 2"),
        (2, ("encrypt", "archive", "none"), "does not exist"),
        (2, ("encrypt", "archive", "/"), "is a directory"),
        (2, ("encrypt", "archive", "-o", "/none/file"), "No such file"),
        (2, ("encrypt", "archive", "-o", "/dev/full"), "No space left"),
        (2, ("encrypt", "archive", "/proc/self/mem"), "/proc/self/mem: Invalid argument"),
        (3, ("encrypt", "archive", "--device", "vfio-user:/nowhere.sock"), "No such file"),
        (2, ("encrypt", "archive", "--wait", "-1"), "--wait"),
    ],
)
def test_what_is_refused(status: int, arguments: tuple[str, ...], text: str) -> None:
    assert text in refused(status, *arguments, stdin=bytes(256))


def test_a_full_disk_behind_standard_output() -> None:
    with open("/dev/full", "wb") as full:
        done = run_process("encrypt", "archive", stdin=None, input=TEXT, stdout=full)
    assert (done.returncode, done.stderr) == (2, b"Error: standard output: No space left on device\n")


def test_a_reader_that_goes_away(folder: Path) -> None:
    sealed = folder / "sealed"
    sealed.write_bytes(succeed("encrypt", "archive", stdin=TEXT))
    process = subprocess.Popen([*IHSM, "decrypt", "archive", sealed], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stderr is not None
    assert process.stdout.read(100) == TEXT[:100]
    process.stdout.close()
    assert process.wait(HANG_S) == 2
    assert process.stderr.read() == b"Error: standard output: Broken pipe\n"
    process.stderr.close()


def test_an_interrupt_leaves_nothing(folder: Path) -> None:
    """While the input is read, and while the output is written, into a pipe that nobody reads."""
    output = folder / "output"
    command = [*IHSM, "encrypt", "archive", "-o", output]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE, preexec_fn=interruptible)
    assert process.stdin is not None
    process.stdin.write(TEXT)  # more than a pipe holds: it reads
    end = os.readlink(f"/proc/self/fd/{process.stdin.fileno()}")
    until(lambda: blocks_on(process.pid, end), "reading more")
    process.send_signal(signal.SIGINT)
    assert process.wait(HANG_S) == 130
    assert process.communicate()[1].strip() == b""
    pipe = folder / "pipe"
    os.mkfifo(pipe)
    sealed = folder / "sealed"
    sealed.write_bytes(succeed("encrypt", "archive", stdin=TEXT))
    command = [*IHSM, "decrypt", "archive", sealed, "-o", pipe]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, preexec_fn=interruptible)
    with pipe.open("rb") as reader:
        assert reader.read(1) == TEXT[:1]
        until(lambda: blocks_on(process.pid, os.fspath(pipe)), "writing more")
        process.send_signal(signal.SIGINT)
        assert process.wait(HANG_S) == 130
    process.communicate()
    assert sorted(path.name for path in folder.iterdir()) == ["pipe", "sealed"]
    succeed("decrypt", "archive", sealed)  # nothing holds the device


def test_a_disk_that_has_no_room_for_what_comes_through_a_pipe(monkeypatch: pytest.MonkeyPatch) -> None:
    class Full:
        def __init__(self, max_size: int) -> None:
            self.max_size = max_size

        def __enter__(self) -> Full:
            return self

        def __exit__(self, *failure: object) -> None:
            return

        def write(self, data: bytes) -> None:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(inputs.tempfile, "SpooledTemporaryFile", Full)
    line = refused(2, "encrypt", "archive", stdin=TEXT)
    assert "No space left on device: standard input is kept there until its end; TMPDIR" in line


def test_a_large_input_through_a_pipe_is_kept_in_a_file_without_a_name(folder: Path) -> None:
    process = subprocess.Popen(
        [*IHSM, "encrypt", "archive", "-o", os.devnull], stdin=subprocess.PIPE, env=os.environ | {"TMPDIR": str(folder)}
    )
    assert process.stdin is not None
    process.stdin.write(bytes(inputs.SPOOL_BYTES + 3 * inputs.BLOCK_BYTES))

    def open_files() -> list[str]:
        names = []
        for link in Path(f"/proc/{process.pid}/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):  # closed meanwhile
                names.append(os.readlink(link))
        return names

    until(lambda: any(name.startswith(str(folder)) for name in open_files()), "a temporary file is open")
    assert list(folder.iterdir()) == []
    process.stdin.close()
    assert process.wait(HANG_S) == 0


def test_the_pty_gets_no_binary() -> None:
    """A terminal takes text, and other bytes only if told so."""
    main, side = os.openpty()
    try:
        for command, status in (
            (("encrypt", "archive"), 2),
            (("sign", "p256"), 2),
            (("sign", "p256", "--jws"), 0),
            (("sign", "p256", "--raw", "-o", "-"), 0),
            (("key", "show", "p256", "--der"), 2),
            (("key", "show", "p256"), 0),
        ):
            done = run_process(*command, stdin=None, input=b"data", stdout=side)
            assert done.returncode == status, done.stderr
            assert (b"go to the terminal" in done.stderr) == (status == 2)
            os.write(side, b"\n.\n")
            while not os.read(main, 10000).endswith(b".\r\n"):
                pass
        text = succeed("encrypt", "archive", stdin="text, in Zürich\n".encode())
        assert run_process("decrypt", "archive", stdin=None, input=text, stdout=side).returncode == 0
        assert os.read(main, 1000) == "text, in Zürich\r\n".encode()
        binary = succeed("encrypt", "archive", stdin=bytes(range(256)))
        done = run_process("decrypt", "archive", stdin=None, input=binary, stdout=side)
        assert (done.returncode, b"go to the terminal" in done.stderr) == (2, True)
    finally:
        os.close(main)
        os.close(side)
