# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""What a driver tells of its device: GET_DEV_INFO (spec 02 G)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np

from ihsm.chardev.node_file import NodeFile
from ihsm_abi.uapi import DEVICE_INFO, Ioctl


@dataclass(frozen=True, slots=True)
class NodeInformation:
    """Device information; text fields without their padding."""

    driver_version: str
    firmware_revision: str
    serial_number: str
    pci_address: str
    controller_id: int
    entropy: bytes = field(repr=False)
    """32 bytes that the driver draws whenever it brings the controller up, the same for all programs until then."""

    @classmethod
    def ask(cls, file: NodeFile) -> Self:
        """Ask the driver; OSError, and errors as `NodeFile.ioctl`."""
        record = np.zeros(1, DEVICE_INFO)
        record["argsz"] = DEVICE_INFO.itemsize
        file.ioctl(Ioctl.GET_DEV_INFO, record.view(np.uint8).data)
        answer = record[0]
        return cls(
            _text(answer["driver_rev"]),
            _text(answer["firmware_rev"]),
            _text(answer["serial_num"]),
            _text(answer["pci_info"]),
            int(answer["id"]),
            answer["device_entropy"].tobytes(),
        )


def _text(value: Any) -> str:
    """Characters up to the NUL."""
    return bytes(value).partition(b"\0")[0].decode("ascii", "replace").rstrip()
