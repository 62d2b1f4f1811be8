# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""In a guest: attest every function of the device over sysfs, twice each; a line for each function."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from ihsm.bus import SysfsConfig
from ihsm.bus.doe import Mailbox
from ihsm_abi.pci import VENDOR_ID
from support.spdm_mailbox import attest, requester_of

DEVICES: Final = Path("/sys/bus/pci/devices")


def main() -> None:
    """Attest."""
    for folder in sorted(DEVICES.iterdir()):
        if int((folder / "vendor").read_text(), 16) == VENDOR_ID:
            with SysfsConfig.open(folder.name) as function:
                requester = requester_of(Mailbox(function))
                attest(requester)
                requester.end_session()
                attest(requester)
            print("attested", requester.hash(requester.chain).hex())


if __name__ == "__main__":
    main()
