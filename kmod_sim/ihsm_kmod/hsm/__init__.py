# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""The HSM driver, a file per concern.

A reader begins at `module`, whose PCI driver (`pci`) makes a `controller` of each function. A command goes from an
ioctl through `execute` and `queue` to the device and comes back through `irq` and `rings`; what goes wrong ends in
`abort`.
"""
