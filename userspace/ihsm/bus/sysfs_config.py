# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Configuration space of a PCI function of this machine through sysfs, whichever driver has the function."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final, Self

from ihsm.arguments import integer
from ihsm.bus.discovery import SYSFS_DEVICES
from ihsm.bus.holder import find_user
from ihsm.closing import Closing
from ihsm.errors import HOW_TO_WAIT, BusError, ConfigRefusedError, DeviceBusyError, DeviceNotFoundError
from ihsm.locks import try_lock, unlock

CONFIG_FILE: Final = "config"


class SysfsConfig(Closing):
    """Configuration space and nothing else of a function; each access is one of the kernel's, of at most 4 bytes.

    One object has it at a time, among all that are made by this class in whichever process (flock(2)): what is done
    through a mailbox takes many accesses, and a second requester would spoil it. Programs that take no such lock, and
    the kernel, are not kept out.
    """

    def __init__(self, path: Path, uri: str) -> None:
        """Open the file `config` of a device's folder in sysfs; `uri` names the function in messages.

        Raises:
            DeviceNotFoundError: there is no such function.
            ConfigRefusedError: only root may do so.
            DeviceBusyError: another process has it.
            BusError: the file cannot be opened for another reason.
        """
        self.uri = uri
        try:
            self._fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            raise DeviceNotFoundError(f"{uri}: this machine has no such PCI function") from None
        except PermissionError as error:
            raise ConfigRefusedError(f"{uri}: {path} is not for this user: {error.strerror}; root is needed") from None
        except OSError as error:
            raise BusError(f"{uri}: {path}: {error.strerror}") from error
        if not try_lock(self._fd):
            os.close(self._fd)
            raise DeviceBusyError(
                f"configuration space of {uri} is in use by {find_user(path.resolve())}; {HOW_TO_WAIT}"
            )

    @classmethod
    def open(cls, bdf: str) -> Self:
        """Configuration space of the function at a PCI address such as 0000:00:04.0; errors as the constructor."""
        return cls(SYSFS_DEVICES / bdf / CONFIG_FILE, f"pci:{bdf}")

    @property
    def config_bytes(self) -> int:
        """Size of config space: 256 or 4096."""
        return os.fstat(self._fd).st_size

    def read_config(self, offset: int, size_bytes: int) -> bytes:
        """Bytes of config space.

        Raises:
            ConfigRefusedError: the kernel gives less, as it does to who is not root.
            BusError: the function cannot be read.
        """
        integer("read_config", "offset", offset, 0, self.config_bytes)
        integer("read_config", "size_bytes", size_bytes, 0, self.config_bytes - offset)
        try:
            data = os.pread(self._fd, size_bytes, offset)
        except OSError as error:
            raise BusError(f"{self.uri}: reading configuration space: {error.strerror}") from error
        if len(data) != size_bytes:
            raise ConfigRefusedError(f"{self.uri}: the kernel shows {offset + len(data)} bytes of configuration space")
        return data

    def write_config(self, offset: int, data: bytes) -> None:
        """Write bytes of config space.

        Raises:
            ConfigRefusedError: the kernel refuses, as one in lockdown does (kernel_lockdown(7)).
            BusError: the function cannot be written.
        """
        integer("write_config", "offset", offset, 0, self.config_bytes - len(data))
        try:
            os.pwrite(self._fd, data, offset)
        except PermissionError:
            raise ConfigRefusedError(
                f"{self.uri}: the kernel refuses writes to configuration space through sysfs; it is in lockdown "
                "(/sys/kernel/security/lockdown)"
            ) from None
        except OSError as error:
            raise BusError(f"{self.uri}: writing configuration space: {error.strerror}") from error

    def close(self) -> None:
        """Let go of the file; harmless the second time."""
        if self._fd >= 0:
            unlock(self._fd)
            os.close(self._fd)
            self._fd = -1
