# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""A kernel that discovers mailboxes when it starts lists what this one takes (sysfs, doe_features; Linux 6.15)."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from bootstrap import new_kernel
from ihsm.guest.kernel import find_kernel
from ihsm_abi.doe import OBJECT_TYPES, PCI_SIG
from ihsm_abi.pci import DEVICE_ID, VENDOR_ID
from support.guests import run_guest

pytestmark = [pytest.mark.guest, pytest.mark.long]
DISCOVERY = "doe_discovery"
"""The kernel's name for object 0."""


def test_a_new_kernel_lists_the_objects() -> None:
    ids = f"{VENDOR_ID:x}:{DEVICE_ID:x}"
    shell = f"for f in $(lspci -Dnd {ids} | cut -d' ' -f1); do ls /sys/bus/pci/devices/$f/doe_features; done"
    attest = f"PATH={Path(sys.executable).parent}:$PATH ihsm attest --device pci:$f --json >/dev/null && echo attested"
    done = run_guest(f"{shell}; {attest}", devices=2, kernel=find_kernel(new_kernel.provide()))
    assert done.status == 0, done.err
    expected = {DISCOVERY, *(f"{PCI_SIG:04x}:{kind:02x}" for kind in OBJECT_TYPES[1:])}
    *listed, attested = done.out.splitlines()
    assert (len(listed), set(listed), attested) == (2 * len(expected), expected, "attested")
