# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""A guest's lspci decodes the capabilities of trusted I/O; Debian 12's knows of the mailbox alone."""

from __future__ import annotations

import pytest

from bootstrap import pciutils
from ihsm_abi.pci import DEVICE_ID, VENDOR_ID
from ihsm_device import pci
from support.guests import run_guest

pytestmark = pytest.mark.guest


def test_lspci_decodes_mailbox_and_streams() -> None:
    lspci = pciutils.provide()
    control = pci.IDE_POSITION + 0x18
    enable = f"setpci -d {VENDOR_ID:x}:{DEVICE_ID:x} {control:x}.l=05000001"
    done = run_guest(f"{enable}; {lspci} -n -vvv -d {VENDOR_ID:x}:{DEVICE_ID:x}", devices=1)
    assert done.status == 0, done.err
    lines = [line.strip() for line in done.out.splitlines()]
    assert f"Capabilities: [{pci.MAILBOX_POSITION:x} v1] Data Object Exchange" in lines
    assert "DOECap: IntSup-" in lines
    assert "DOESta: Busy- IntSta- Error- ObjectReady-" in lines
    assert f"Capabilities: [{pci.IDE_POSITION:x} v1] Integrity & Data Encryption" in lines
    assert any(line.startswith("IDECap: Lnk=1 Sel=1") and "IDE_KM+" in line for line in lines)
    assert any("SelectiveIDE#0 Ctl: En+" in line and line.endswith("TC0 ID5") for line in lines)
    assert any("SelectiveIDE#0 Sta: insecure" in line for line in lines)
    assert any("TEE-IO+" in line for line in lines)
