# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""A guest with our terminal."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import termios

import pytest

from support.waiting import GUEST_HANG_S

pytestmark = pytest.mark.guest


def read_until(terminal: int, text: str, seen: str) -> str:
    """Everything read from the terminal so far, once it holds `text`."""
    while text not in seen:
        assert select.select([terminal], [], [], GUEST_HANG_S)[0], seen
        try:
            seen += os.read(terminal, 4096).decode(errors="replace")
        except OSError as error:
            raise AssertionError(seen) from error  # nobody is left at the other end
    return seen


def set_size(terminal: int, rows: int, columns: int) -> None:
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))


def test_a_shell_with_job_control_and_its_status() -> None:
    ours, theirs = pty.openpty()
    set_size(theirs, 33, 101)
    guest = subprocess.Popen(
        [sys.executable, "-m", "ihsm", "guest", "--devices", "0", "--accel", "tcg"],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
    )
    os.close(theirs)
    try:
        seen = read_until(ours, "guest: ready", "")
        os.write(ours, b"stty -echo; tty; sh -c 'echo sle''eps; exec sleep 300'\n")
        seen = read_until(ours, "/dev/hvc0", seen)
        seen = read_until(ours, "sleeps", seen)
        os.write(ours, b"\x03")  # ends the sleep, not the guest
        os.write(ours, b"stty size; until stty size | grep '44 122'; do sleep 0.1; done\n")
        seen = read_until(ours, "33 101", seen)
        set_size(ours, 44, 122)
        guest.send_signal(signal.SIGWINCH)  # the kernel's goes to whoever has the terminal, and here that is nobody
        seen = read_until(ours, "44 122", seen)
        os.write(ours, b"echo answer $((6*7)); exit 5\n")
        seen = read_until(ours, "answer 42", seen)
        assert "no job control" not in seen
        assert guest.wait(GUEST_HANG_S) == 5
    finally:
        guest.kill()
        guest.wait()
        os.close(ours)
