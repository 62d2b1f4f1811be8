# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Finding functions: PCI devices in sysfs, sockets of served functions in the default folder, nodes of a driver."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from ihsm.bus.holder import Holder, find_holder
from ihsm_abi import sockets
from ihsm_abi.pci import DEVICE_ID, VENDOR_ID
from ihsm_abi.uapi_names import DRIVER_NAME, HSM_NODE_PREFIX

PCI_SUBSYSTEM: Final = "pci"
SYSFS_DEVICES: Final = Path("/sys/bus/pci/devices")
NODES: Final = Path("/dev")
_IDS: Final = (VENDOR_ID, DEVICE_ID)
_NODE: Final = re.compile(rf"{HSM_NODE_PREFIX}(\d+)")


@dataclass(frozen=True, slots=True)
class FoundFunction:
    """A function that can be opened."""

    uri: str
    driver: str | None = None
    """Kernel driver bound to a PCI function."""
    iommu_group: int | None = None
    nodes: tuple[str, ...] = ()
    """Character devices below it."""
    listening: bool = True
    """Whether somebody listens on the socket; a left-over file has nobody."""
    holder: Holder | None = None
    """The client of a served function."""

    @property
    def hsm_nodes(self) -> list[str]:
        """Those of its nodes that HSM and AES commands go through."""
        return [node for node in self.nodes if _NODE.fullmatch(Path(node).name)]

    def record(self) -> dict[str, Any]:
        """The fields as JSON has them."""
        holder = None if self.holder is None else self.holder.record()
        return {**asdict(self), "nodes": list(self.nodes), "holder": holder}


def find_pci(devices: Path = SYSFS_DEVICES) -> list[FoundFunction]:
    """PCI functions of this machine that have the HSM's ids, in the order of their addresses.

    Read from sysfs, as udev reads them: to load its library takes longer than all else that `auto` does.
    """
    try:
        paths = sorted(devices.iterdir())
    except OSError:
        return []
    return [_describe(path) for path in paths if (_number(path / "vendor"), _number(path / "device")) == _IDS]


def _number(file: Path) -> int | None:
    """An id as sysfs has it, such as 0x1414; None of a function that is gone meanwhile."""
    try:
        return int(file.read_text(), 16)
    except (OSError, ValueError):
        return None


def _describe(path: Path) -> FoundFunction:
    driver, group = path / "driver", path / "iommu_group"
    return FoundFunction(
        f"pci:{path.name}",
        driver=driver.resolve().name if driver.exists() else None,
        iommu_group=int(group.resolve().name) if group.exists() else None,
        nodes=tuple(sorted(_nodes_below(path))),
    )


def _nodes_below(path: Path) -> Iterator[str]:
    """Device nodes of what is below a function, by the name that the kernel gives them (`DEVNAME` of their uevent)."""
    for folder, _, files in os.walk(path.resolve()):
        if "uevent" in files:
            try:
                text = Path(folder, "uevent").read_text()
            except OSError:
                continue
            for line in text.splitlines():
                name, _, value = line.partition("=")
                if name == "DEVNAME":
                    yield f"/dev/{value}"


def find_sockets(folder: Path | None = None) -> list[FoundFunction]:
    """Sockets in the default folder (or another one), left-over files included."""
    folder = folder or sockets.default_folder()
    try:
        paths = sorted(
            path for path in folder.iterdir() if path.suffix == sockets.SOCKET_SUFFIX and _is(stat.S_ISSOCK, path)
        )
    except OSError:
        return []
    return [_describe_socket(path) for path in paths]


def _describe_socket(path: Path) -> FoundFunction:
    listening = _is_listening(path)
    return FoundFunction(f"vfio-user:{path}", listening=listening, holder=find_holder(path) if listening else None)


def find_nodes(folder: Path = NODES) -> list[FoundFunction]:
    """Nodes of the driver, in the order of their numbers; what has the function behind one is not looked at."""
    try:
        found = [(int(match[1]), path) for path in folder.iterdir() if (match := _NODE.fullmatch(path.name))]
    except OSError:
        return []
    return [
        FoundFunction(f"chardev:{path}", driver=DRIVER_NAME, nodes=(str(path),))
        for _, path in sorted(found)
        if _is(stat.S_ISCHR, path)
    ]


def find_all() -> list[FoundFunction]:
    """Everything that `auto` chooses from, left-over sockets, and nodes of functions that are not there themselves."""
    return _with_others(find_pci())


def _with_others(functions: list[FoundFunction]) -> list[FoundFunction]:
    """PCI functions, and what else there is now."""
    shown = {node for function in functions for node in function.nodes}
    return [*functions, *find_sockets(), *(node for node in find_nodes() if node.nodes[0] not in shown)]


def _is_listening(path: Path) -> bool:
    try:
        return sockets.is_listening(path)
    except OSError:  # somebody else's, which we could not use either
        return False


def _is(kind: Callable[[int], bool], path: Path) -> bool:
    """Whether a file is there and is of a kind, such as `stat.S_ISSOCK`."""
    try:
        return kind(path.stat().st_mode)
    except OSError:
        return False


def watch(interval_s: float = 1.0) -> Iterator[list[FoundFunction]]:
    """Everything found, at once and whenever it changes; never ends.

    PCI functions are watched through udev; sockets and nodes are looked for every `interval_s` seconds.
    """
    import pyudev

    context = pyudev.Context()
    monitor = pyudev.Monitor.from_netlink(context)
    monitor.filter_by(PCI_SUBSYSTEM)
    monitor.start()
    before: list[FoundFunction] | None = None
    functions = find_pci()
    while True:
        found = _with_others(functions)
        if found != before:
            before = found
            yield found
        if monitor.poll(interval_s) is not None:
            functions = find_pci()
