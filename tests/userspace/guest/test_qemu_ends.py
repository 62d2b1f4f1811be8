# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""QEMU that ends before the command did: its own last words are shown, and how it ended."""

from __future__ import annotations

import io
import os
import re
import socket
import threading
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import pytest

from ihsm.guest import Accelerator, GuestConfig, Streams
from ihsm.guest.errors import GuestEndedError, GuestTimeoutError
from ihsm.guest.machine import device_arguments
from ihsm.guest.runner import QEMU_LINES, _named_in_utf8
from ihsm.guest.session import Session
from ihsm.guest.toolchain import Qemu
from support.commands import run, run_process
from support.waiting import ended


def run_with(qemu: Path | None, extra: Sequence[str] = (), boot_limit_s: float | None = None) -> None:
    """A guest that does not come to its command."""
    program = {} if qemu is None else {"qemu": Qemu(qemu, (11, 1))}
    config = GuestConfig(accelerator=Accelerator.TCG, extra=tuple(extra), boot_limit_s=boot_limit_s, **program)
    Session(config=config, shell="true", devices=0).run(Streams(None, io.BytesIO(), io.BytesIO()))


def stand_in(folder: Path, script: str) -> Path:
    """A program in the place of QEMU."""
    path = folder / "qemu"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


def test_an_argument_that_qemu_refuses() -> None:
    with pytest.raises(GuestEndedError, match="QEMU ended with status 1 before the command did") as caught:
        run_with(None, ["-device", "no-such-device"])
    assert any("'no-such-device' is not a valid device model name" in line for line in caught.value.qemu)
    assert "the last lines of QEMU:\n  | " in str(caught.value)


def test_an_abort_is_named_with_what_was_said_before(tmp_path: Path) -> None:
    script = (
        "i=0; while [ $i -lt 40 ]; do i=$((i + 1)); echo line $i >&2; done; echo 'Assertion failed.' >&2; kill -ABRT $$"
    )
    with pytest.raises(GuestEndedError, match="QEMU was ended by SIGABRT before the command did") as caught:
        run_with(stand_in(tmp_path, script))
    assert caught.value.qemu[-1] == "Assertion failed."
    assert caught.value.qemu[0] == f"line {40 - QEMU_LINES + 2}"


def test_what_qemu_prints_on_standard_output_counts_as_well(tmp_path: Path) -> None:
    with pytest.raises(GuestEndedError, match="QEMU ended with status 0 before the command did") as caught:
        run_with(None, ["-device", "help"])
    assert any("vfio-user-pci" in line or "name " in line for line in caught.value.qemu)


def test_words_that_are_no_text(tmp_path: Path) -> None:
    with pytest.raises(GuestEndedError) as caught:
        run_with(stand_in(tmp_path, r"printf 'bad \377\n' >&2; exit 3"))
    assert caught.value.qemu == ("bad \ufffd",)


def test_a_guest_that_is_not_ready_in_time_shows_them_too(tmp_path: Path) -> None:
    """The limit is short because it is what is looked at: the stand-in never becomes ready."""
    said = tmp_path / "said"
    os.mkfifo(said)
    script = f"echo 'waiting for a disk' >&2; echo > {said}; exec sleep 1000"
    reader = threading.Thread(target=said.read_bytes)
    reader.start()
    with pytest.raises(GuestTimeoutError, match="not ready within 1 s") as caught:
        run_with(stand_in(tmp_path, script), boot_limit_s=1.0)
    ended(reader)
    assert caught.value.qemu in (("waiting for a disk",), ())


def test_the_command_shows_them() -> None:
    done = run_process("guest", "--accel", "tcg", "--devices", "0", "--qemu-args", "-bogus", "--exec", "true")
    assert done.returncode == 125
    assert done.stderr.startswith(b"Error: QEMU ended with status 1 before the command did\n")
    assert re.search(rb"^  \| .*-bogus: invalid option$", done.stderr, re.MULTILINE)


def test_a_socket_whose_name_is_no_text_has_another_for_qemu(tmp_path: Path) -> None:
    odd = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.sock"))
    plain = tmp_path / "1.sock"
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as client:
        listener.bind(os.fspath(odd))
        listener.listen()
        with ExitStack() as stack:
            named = list(_named_in_utf8([odd, plain], stack))
            assert named[1] == plain
            client.connect(os.fspath(named[0]))
            "".join(device_arguments(named)).encode()
        assert not named[0].parent.exists()


def test_qemu_args_refuses_such_a_name() -> None:
    result = run("qemu-args", "--socket", os.fsdecode(b"/\xff.sock"))
    assert result.exit_code == 2
    assert "not UTF-8, which QEMU's device options must be" in result.output
