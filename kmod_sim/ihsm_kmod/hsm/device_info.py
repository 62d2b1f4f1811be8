# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Device information, which the HSM node and the management node give (spec 02 G)."""

from __future__ import annotations

import errno
from typing import Any

import numpy as np

from ihsm_abi.uapi import DEVICE_INFO, DEVICE_INFO_COPIED, DRIVER_VERSION, ControllerState
from ihsm_kmod.hsm.controller import Controller
from ihsm_kmod.hsm.user_memory import UserBuffer
from ihsm_kmod.kernel.errors import Errno
from ihsm_kmod.kernel.pci import pci_name


def device_info_ioctl(controller: Controller, argument: int) -> int:
    """GET_DEV_INFO of the HSM node, which looks at the controller first; `Errno` EAGAIN, ENOTTY, EFAULT, EINVAL."""
    if controller.abort_in_progress:
        raise Errno(errno.EAGAIN, "abort in progress")
    if controller.state is not ControllerState.READY:
        raise Errno(errno.ENOTTY, "controller not ready")
    return give_device_info(controller, argument)


def give_device_info(controller: Controller, argument: int) -> int:
    """Fill the `DEVICE_INFO` at user address `argument`.

    Raises:
        Errno: EFAULT; EINVAL, `argsz` is too small; ENOTTY, the controller has never been identified: a PF has its
            management node before.
    """
    buffer = UserBuffer(argument, DEVICE_INFO)
    buffer.read(DEVICE_INFO_COPIED)
    if buffer.fields["argsz"] < DEVICE_INFO.itemsize:
        raise Errno(errno.EINVAL, "argsz too small")
    if controller.identity is None:
        raise Errno(errno.ENOTTY, "controller not identified")
    _fill(controller, buffer, controller.identity)
    buffer.answer(DEVICE_INFO_COPIED)
    return 0


def _fill(controller: Controller, buffer: UserBuffer, identity: np.void) -> None:
    buffer.fields["id"] = identity["ctrl_id"]
    # Behind the NUL, the caller's bytes stay: the driver copies a string, it does not fill a field.
    _put(buffer, "pci_info", pci_name(controller.pdev).encode() + b"\0")
    _put(buffer, "serial_num", identity["sn"].tobytes() + b"\0")
    _put(buffer, "model_num", bytes(DEVICE_INFO["model_num"].itemsize))
    _put(buffer, "firmware_rev", identity["fr"].tobytes() + b"\0")
    _put(buffer, "driver_rev", DRIVER_VERSION.encode().ljust(DEVICE_INFO["driver_rev"].itemsize - 1, b"\0"))
    _put(buffer, "device_entropy", controller.entropy)


def _put(buffer: UserBuffer, name: str, value: bytes) -> None:
    """Write the first bytes of a field."""
    field: Any = buffer.fields[name]
    field[: len(value)] = memoryview(value)
