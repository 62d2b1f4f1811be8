# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Program beside a process of ours: it holds a temporary folder and a child, and lets go of both with that process.

`ihsm.kept` starts it as a script of its own, which sees the standard library alone, as

    keeper.py OWNER CHANNEL DESCRIPTORS PREFIX PARENT [PARENT ...]

OWNER is a pidfd of the process, CHANNEL a stream socket to it; DESCRIPTORS, numbers with commas between, are for the
child. PREFIX begins the folder's name, and it lies in the first PARENT that takes it. The kernel ties a child
to the thread that made it, and cleaning up in the process itself needs it alive: this program ends the child and
removes the folder when the process is gone, however it went, or closes the channel.

Lines of JSON from the keeper: {"folder": PATH} and {"pid": N}, or {"error": TEXT}; {"status": N}. Lines to it:
{"arguments": [...], "log": NAME, "logged": [NUMBERS]} starts the child, with the descriptors that the keeper was given
and those of NUMBERS (1, 2) writing to FOLDER/NAME; {"signal": N} sends it a signal. Paths and arguments are bytes, a
character for each.
"""

import contextlib
import ctypes
import json
import os
import select
import shutil
import signal
import socket
import sys
import tempfile
from typing import Any, Final

_PR_SET_PDEATHSIG: Final = 1
_CHUNK: Final = 1 << 16
_CANNOT_EXECUTE: Final = 126


class Keeper:
    """One run of the program."""

    def __init__(
        self, owner: int, channel: socket.socket, descriptors: list[int], prefix: str, parents: list[str]
    ) -> None:
        """Make the folder; raises OSError, of the first parent, if none of them takes it."""
        self._owner = owner
        self._channel = channel
        self._descriptors = descriptors
        self._folder = _made_in_one_of(parents, prefix)
        self._child: int | None = None
        self._child_fd: int | None = None
        self._received = b""

    def run(self) -> None:
        """Keep child and folder until the owner goes or hangs up."""
        try:
            self._tell(folder=os.fsencode(self._folder).decode("latin-1"))
            while self._attend():
                pass
        finally:
            if self._child is not None:
                os.kill(self._child, signal.SIGKILL)
                os.waitpid(self._child, 0)
            shutil.rmtree(self._folder, ignore_errors=True)

    def _attend(self) -> bool:
        """Wait for the next thing to happen; False when it is the end of the owner."""
        poller = select.poll()
        for descriptor in (self._owner, self._child_fd, self._channel.fileno()):
            if descriptor is not None:
                poller.register(descriptor, select.POLLIN)
        ready = {descriptor for descriptor, _ in poller.poll()}
        if self._owner in ready:
            return False
        if self._child_fd in ready:
            self._bury()
        return self._channel.fileno() not in ready or self._hear()

    def _bury(self) -> None:
        assert self._child is not None
        assert self._child_fd is not None
        _, status = os.waitpid(self._child, 0)
        os.close(self._child_fd)
        self._child = self._child_fd = None
        self._tell(status=os.waitstatus_to_exitcode(status))

    def _hear(self) -> bool:
        try:
            data = self._channel.recv(_CHUNK)
        except ConnectionError:
            data = b""
        *lines, self._received = (self._received + data).split(b"\n")
        for line in lines:
            order = json.loads(line)
            if "signal" in order and self._child is not None:
                os.kill(self._child, order["signal"])
            elif "arguments" in order:
                words = [word.encode("latin-1") for word in order["arguments"]]
                self._start(words, order["log"], order["logged"])
        return bool(data)

    def _start(self, arguments: list[bytes], log: str, logged: list[int]) -> None:
        ours = os.getpid()
        try:
            self._child = os.fork()
        except OSError as error:
            self._tell(error=error.strerror)
            return
        if self._child == 0:
            self._become(ours, arguments, log, logged)
        self._child_fd = os.pidfd_open(self._child)
        # The child has its own; as long as a copy is here, its end is none to the other side.
        for descriptor in self._descriptors:
            os.close(descriptor)
        self._descriptors = []
        self._tell(pid=self._child)

    def _become(self, keeper: int, arguments: list[bytes], log: str, logged: list[int]) -> None:
        try:
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() != keeper:
                return  # it was killed before the kernel knew
            for number in (*_IGNORED, signal.SIGPIPE, signal.SIGXFSZ):
                signal.signal(number, signal.SIG_DFL)
            if logged:
                file = os.open(os.path.join(self._folder, log), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
                for stream in logged:
                    os.dup2(file, stream)
            for descriptor in self._descriptors:
                os.set_inheritable(descriptor, True)
            os.execvp(arguments[0], arguments)
        except OSError as error:
            os.write(2, arguments[0] + f": {error.strerror}\n".encode())
        finally:  # whatever came up, this must not go on as a second keeper
            os._exit(_CANNOT_EXECUTE)

    def _tell(self, **message: Any) -> None:
        # An owner that has gone is noticed by the loop.
        with contextlib.suppress(OSError):
            self._channel.sendall(json.dumps(message).encode() + b"\n")


def _made_in_one_of(parents: list[str], prefix: str) -> str:
    reasons = []
    for parent in parents:
        try:
            return tempfile.mkdtemp(prefix=prefix, dir=parent)
        except OSError as error:
            reasons.append(error)
    raise reasons[0]


_IGNORED: Final = (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGTERM)
"""Sent to the whole group of the terminal: the owner decides what they mean."""


def main() -> None:
    """Run the program."""
    for number in _IGNORED:
        signal.signal(number, signal.SIG_IGN)
    owner, channel = map(int, sys.argv[1:3])
    descriptors = [int(word) for word in sys.argv[3].split(",") if word]
    for descriptor in (owner, channel, *descriptors):
        os.set_inheritable(descriptor, False)
    with socket.socket(fileno=channel) as ours:
        try:
            keeper = Keeper(owner, ours, descriptors, sys.argv[4], sys.argv[5:])
        except OSError as error:
            ours.sendall(json.dumps({"error": f"no temporary folder: {error.strerror}"}).encode() + b"\n")
            return
        keeper.run()


if __name__ == "__main__":
    main()
