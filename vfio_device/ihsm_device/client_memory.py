# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Whether a client writes to the files it gave as memory, or to private copies of their pages.

With QEMU's share=off the client passes the file of its memory all the same, but has mapped it privately: what it writes
never reaches the file, and the device sees zeros. The file's contents prove nothing (rings are zeros at first in any
case); the client's own mappings do (proc(5), maps).
"""

from __future__ import annotations

import os
import socket
import threading
from collections import Counter
from typing import Final

from ihsm_device.sandbox.lookout import ReadMaps, read_maps
from ihsm_device.vfu import DmaRegion

LOOK_TIMEOUT_S: Final = 1.0
"""How long a client's mappings are waited for: the kernel may need a lock that the client holds."""

File = tuple[int, int]
"""Device number and inode."""


def private_files(maps: bytes) -> set[File]:
    """Files that a process, whose /proc/PID/maps this is, has mapped writable and private, and nowhere shared."""
    private: set[File] = set()
    shared: set[File] = set()
    for line in maps.splitlines():
        fields = line.split(None, 5)
        if len(fields) < 5 or fields[4] == b"0":
            continue
        major, _, minor = fields[3].partition(b":")
        file = (os.makedev(int(major, 16), int(minor, 16)), int(fields[4]))
        if fields[1].endswith(b"s"):
            shared.add(file)
        elif fields[1][1:2] == b"w":
            private.add(file)
    return private - shared


class ClientMemory:
    """The files behind the guest memory of one function; used by the thread that owns it."""

    def __init__(self, read_maps: ReadMaps = read_maps) -> None:
        """No client yet; `read_maps` gives the mappings of one."""
        self._read_maps = read_maps
        self._files: dict[int, File] = {}
        self._regions: Counter[File] = Counter()
        self._looking: threading.Thread | None = None

    def mapped(self, region: DmaRegion) -> bool:
        """The client has mapped memory; True if it is of a file that none of its other memory is of."""
        if region.file is None:
            return False
        self._files[region.iova] = region.file
        self._regions[region.file] += 1
        return self._regions[region.file] == 1

    def unmapped(self, region: DmaRegion) -> None:
        """The client has removed it."""
        file = self._files.pop(region.iova, None)
        if file is not None:
            self._regions[file] -= 1
            if self._regions[file] == 0:
                del self._regions[file]

    def private_address(self, client: socket.socket | None) -> int | None:
        """Lowest address of memory that a client, by its connection, sees private copies of; None: none, or unknown."""
        private = self._look(client) if client is not None and self._files else set()
        return min((iova for iova, file in self._files.items() if file in private), default=None)

    def _look(self, client: socket.socket) -> set[File]:
        """Look at the mappings of a process, on a thread that may be left behind, with a connection of its own."""
        found: set[File] = set()

        def read(connection: socket.socket) -> None:
            with connection:
                try:
                    found.update(private_files(self._read_maps(connection)))
                except OSError:
                    return  # another user's, or gone

        if self._looking is not None and self._looking.is_alive():
            return set()
        connection = client.dup()
        looking = threading.Thread(target=read, args=(connection,), name="client-memory", daemon=True)
        try:
            looking.start()
        except RuntimeError:
            connection.close()
            return set()  # no more threads: nobody knows, which is no reason to refuse the client
        self._looking = looking
        self._looking.join(LOOK_TIMEOUT_S)
        return set() if self._looking.is_alive() else found
