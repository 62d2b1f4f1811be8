# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""QEMU guests that have the device: `ihsm guest`."""

from ihsm.guest.initramfs import GuestCommand, GuestModule
from ihsm.guest.machine import Accelerator, Iommu
from ihsm.guest.runner import Guest, GuestConfig
from ihsm.guest.streams import Streams

__all__ = ["Accelerator", "Guest", "GuestCommand", "GuestConfig", "GuestModule", "Iommu", "Streams"]
