#!/usr/bin/env python3
# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""A whole PCI device: it sums bytes of guest memory and raises an interrupt. Usage: vfu_device.py SOCKET

Registers in BAR0: address (8 bytes at 0), length in bytes (4 at 8; writing it starts the sum), sum (4 at 12).
A guest gets it with QEMU's -device '{"driver":"vfio-user-pci","socket":{"type":"unix","path":"SOCKET"}}'.
"""

import struct
import sys

from ihsm_device import vfu

registers = bytearray(16)
context = vfu.Context(sys.argv[1])


def read(offset: int, size: int) -> bytes:
    """The registers, zeros behind them."""
    return bytes(registers[offset : offset + size]).ljust(size, b"\0")


def write(offset: int, data: bytes) -> None:
    """Store address or length; the length starts a sum, memory that is not there counts as nothing."""
    if offset + len(data) > 12:
        return
    registers[offset : offset + len(data)] = data
    if offset + len(data) == 12:
        address, length = struct.unpack_from("<QI", registers)
        try:
            total = sum(context.dma_read(address, min(length, 1 << 20)))
        except OSError:
            total = 0
        struct.pack_into("<I", registers, 12, total)
        context.trigger(0)


context.set_ids(vendor=0x1B36, device=0x0001, subsystem_vendor=0x1AF4, subsystem=0x0001)
context.set_class(0xFF0000)
# MSI-X with one vector, its table and pending bits in the second page of BAR0
context.add_capability(struct.pack("<BBHII", 0x11, 0, 0, 0x1000, 0x1800))
context.region(0, 0x2000, read=read, write=write)
context.irqs(1)
context.realize()
while context.attach():
    context.run()
