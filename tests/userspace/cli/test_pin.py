# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""The store's PIN on the command line: by terminal, file and descriptor, never as an argument."""

from __future__ import annotations

import functools
import os
import pty
import re
import select
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from ihsm.cli import main
from ihsm.cli.pin import pin_options, read_pin_of, read_user_pin
from ihsm.errors import PinRequiredError, WrongPinError
from ihsm.store import Store
from ihsm.store.sealing import Scrypt
from support.commands import run
from support.stores import SECRETS, new_store
from support.waiting import HANG_S, HangError

PIN = "ge heim é"


@pytest.fixture(autouse=True)
def stores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of all stores, and no terminal."""
    monkeypatch.setattr("ihsm.store.unlocking.Scrypt", functools.partial(Scrypt, n=16))
    monkeypatch.setattr("ihsm.cli.pin._TERMINAL", "/nowhere/tty")
    monkeypatch.setenv("XDG_DATA_HOME", os.fspath(tmp_path / "data"))
    monkeypatch.delenv("IHSM_STORE", raising=False)
    return tmp_path / "data" / "ihsm"


@pytest.fixture
def pin_file(tmp_path: Path) -> Callable[..., str]:
    def make(content: str | bytes, name: str = "pin") -> str:
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return os.fspath(path)

    return make


def descriptor(content: bytes) -> int:
    """A descriptor from which something can be read."""
    readable, writable = os.pipe()
    os.write(writable, content)
    os.close(writable)
    return readable


def open_store(name: str | None, pin_file: Path | None, pin_fd: int | None) -> Store:
    """A store opened as commands open it."""
    return Store.open(name, pin=read_pin_of(Store.open(name, unlock=False), pin_file, pin_fd))


def opens(stores: Path, pin: str | None) -> bool:
    try:
        return Store.open("default", pin=pin, root=stores).secrets == SECRETS
    except (WrongPinError, PinRequiredError):
        return False


@pytest.mark.parametrize("content", [PIN, PIN + "\n", PIN + "\r\n", "ge heim e\u0301\n"])
def test_by_file_and_descriptor(stores: Path, pin_file: Callable[..., str], content: str) -> None:
    new_store(stores, pin=PIN)
    assert open_store(None, Path(pin_file(content)), None).secrets == SECRETS
    readable = descriptor(content.encode())
    assert open_store("default", None, readable).secrets == SECRETS
    os.close(readable)


@pytest.mark.parametrize("content", [PIN + "\n\n", " " + PIN, PIN + " \n"])
def test_only_one_newline_is_dropped(stores: Path, pin_file: Callable[..., str], content: str) -> None:
    new_store(stores, pin=PIN)
    with pytest.raises(ValueError, match="PIN"):
        open_store(None, Path(pin_file(content)), None)


def test_a_descriptor_gives_a_line_at_a_time() -> None:
    readable = descriptor(b"one\ntwo\nrest")
    assert [read_user_pin(True, None, readable) for _ in range(3)] == ["one", "two", "rest"]
    assert read_user_pin(True, None, readable) == ""
    os.close(readable)


def test_without_terminal_file_or_descriptor_there_is_none(stores: Path) -> None:
    assert read_user_pin(True, None, None) is None
    new_store(stores, pin=PIN)
    with pytest.raises(PinRequiredError, match="--pin-file or --pin-fd"):
        open_store(None, None, None)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("--pin-file", "FILE", "--pin-fd", "0"), "together"),
        (("--new-pin-file", "FILE", "--new-pin-fd", "0"), "together"),
        (("--remove", "--new-pin-file", "FILE"), "together"),
        (("--pin-file", "FILE"), "--new-pin-file"),
        (("--pin-file", "/nowhere", "--remove"), "/nowhere"),
        (("--pin-fd", "999", "--remove"), "Bad file descriptor"),
        (("--pin-fd", "-1", "--remove"), "--pin-fd"),
        (("--pin-fd", str(1 << 31), "--remove"), "no such number"),
        (("--pin-file", "LATIN", "--remove"), "not UTF-8"),
        (("--pin-file", "LONG", "--remove"), "longer than"),
        (("--pin-file", "EMPTY", "--remove"), "empty"),
        (("--pin-file", "LINES", "--remove"), "line break"),
        (("--pin-file", "FILE", "--new-pin-file", "EMPTY"), "empty"),
        (("--pin", "1234"), "No such option"),
        (("1234",), "unexpected extra argument"),
    ],
)
def test_wrong_usage(stores: Path, pin_file: Callable[..., str], arguments: tuple[str, ...], text: str) -> None:
    new_store(stores, pin=PIN)
    before = (stores / "default" / "store.json").read_bytes()
    contents = {"FILE": PIN.encode(), "LATIN": PIN.encode("latin-1"), "LONG": b"x" * 2000, "EMPTY": b"\n"}
    contents["LINES"] = b"one\ntwo\n"
    words = [pin_file(contents[word], word) if word in contents else word for word in arguments]
    result = run("pin", "change", *words)
    assert result.exit_code == 2, result.output
    assert text in result.output
    assert "Traceback" not in result.output
    assert (stores / "default" / "store.json").read_bytes() == before


def test_changing_it(stores: Path, pin_file: Callable[..., str]) -> None:
    new_store(stores)
    new = pin_file(PIN + "\n", "new")
    assert run("pin", "change", "--new-pin-file", new).exit_code == 0
    assert opens(stores, PIN)
    readable = descriptor(f"{PIN}\nother\n".encode())
    result = run("pin", "change", "--store", "default", "--pin-fd", f"{readable}", "--new-pin-fd", f"{readable}")
    os.close(readable)
    assert (result.exit_code, result.output) == (0, "")
    assert opens(stores, "other")
    result = run("pin", "change", "--pin-file", pin_file("other"), "--remove")
    assert result.exit_code == 0
    assert "permissions of its files are all that protects it" in result.stderr
    assert opens(stores, None)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("--pin-file", "WRONG"), "wrong PIN"),
        ((), "needs its PIN"),
        (("--store", "other", "--pin-file", "WRONG"), "ihsm init"),
    ],
)
def test_what_the_store_refuses(
    stores: Path, pin_file: Callable[..., str], arguments: tuple[str, ...], text: str
) -> None:
    new_store(stores, pin=PIN)
    words = [pin_file("wrong") if word == "WRONG" else word for word in arguments]
    result = run("pin", "change", *words, "--remove")
    assert result.exit_code == 7
    assert text in result.stderr
    assert opens(stores, PIN)


def test_a_pin_for_a_store_without_one(stores: Path, pin_file: Callable[..., str]) -> None:
    new_store(stores)
    result = run("pin", "change", "--pin-file", pin_file("1234"), "--remove")
    assert (result.exit_code, "has no PIN" in result.stderr) == (7, True)


class Terminal:
    """A command in a process whose terminal is ours."""

    def __init__(self, *arguments: str, stdin: bytes | None = None) -> None:
        self.shown = b""
        readable = None if stdin is None else descriptor(stdin)
        self.process, self.descriptor = pty.fork()
        if self.process == 0:
            if readable is not None:
                os.dup2(readable, 0)
            os.execv(sys.executable, [sys.executable, "-P", "-m", "ihsm", *arguments])

    def answer(self, prompt: str, text: str) -> None:
        """Type a line once something is asked for."""
        while not re.search(prompt.encode(), self.shown):
            assert self._read(), f"ended instead of asking {prompt!r}: {self.shown!r}"
        self.shown = b""
        os.write(self.descriptor, text.encode() + b"\n")

    def end(self) -> int:
        """The exit status; what was shown last is in `shown`."""
        while self._read():
            pass
        os.close(self.descriptor)
        return os.waitstatus_to_exitcode(os.waitpid(self.process, 0)[1])

    def _read(self) -> bool:
        if not select.select([self.descriptor], [], [], HANG_S)[0]:
            os.kill(self.process, signal.SIGKILL)
            raise HangError(f"nothing follows {self.shown!r}")
        try:
            data = os.read(self.descriptor, 4096)
        except OSError:
            return False
        self.shown += data
        return bool(data)


@pytest.mark.parametrize("stdin", [None, b"the command's own input"], ids=["terminal", "redirected"])
def test_by_prompt(stores: Path, stdin: bytes | None) -> None:
    """Also where standard input is something else."""
    new_store(stores, pin=PIN)
    terminal = Terminal("pin", "change", stdin=stdin)
    terminal.answer("PIN of store 'default': ", PIN)
    terminal.answer("New PIN of store 'default': ", "new secret")
    assert b"new secret" not in terminal.shown
    terminal.answer("Repeat for confirmation: ", "new secret")
    assert terminal.end() == 0
    assert b"secret" not in terminal.shown
    assert opens(stores, "new secret")


def test_a_wrong_one_is_told_before_a_new_one_is_asked_for(stores: Path) -> None:
    new_store(stores, pin=PIN)
    terminal = Terminal("pin", "change")
    terminal.answer("PIN of store 'default': ", "wrong")
    assert terminal.end() == 7
    assert b"wrong PIN" in terminal.shown
    assert b"New PIN" not in terminal.shown


def test_a_store_without_one_is_not_asked_for_it(stores: Path) -> None:
    new_store(stores)
    terminal = Terminal("pin", "change")
    terminal.answer("New PIN of store 'default': ", "1234")
    terminal.answer("Repeat for confirmation: ", "1234")
    assert terminal.end() == 0
    assert opens(stores, "1234")


def test_an_interrupt_at_the_prompt_changes_nothing(stores: Path) -> None:
    new_store(stores, pin=PIN)
    terminal = Terminal("pin", "change")
    terminal.answer("PIN of store 'default': ", "\x03")
    assert terminal.end() == 130
    assert opens(stores, PIN)


def test_the_options_of_other_commands() -> None:
    @click.command
    @pin_options()
    def command(pin_file: Path | None, pin_fd: int | None) -> None:
        click.echo(f"{pin_file} {pin_fd}")

    def invoke(*arguments: str) -> Result:
        return CliRunner().invoke(command, arguments)

    assert invoke().output == "None None\n"
    assert invoke("--pin-fd", "7").output == "None 7\n"
    assert invoke("--pin-file", "/etc/hostname").output == "/etc/hostname None\n"


def test_no_command_takes_a_pin_as_argument() -> None:
    context = click.Context(main)
    found: list[str] = []

    def look(command: click.Command, path: str) -> None:
        for parameter in command.params:
            found.extend(f"{path} {name}" for name in parameter.opts if re.fullmatch(r"-*(\w+-)*pin", name))
        if isinstance(command, click.Group):
            for name in command.list_commands(context):
                inner = command.get_command(context, name)
                assert inner is not None
                look(inner, f"{path} {name}")

    look(main, "ihsm")
    assert found == []
