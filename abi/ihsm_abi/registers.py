# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""BAR0: controller registers and their bit fields (spec 01 §2, §14.1)."""

from enum import IntEnum
from typing import Final

from ihsm_abi.bits import Bits, Word


class Register(IntEnum):
    """Byte offset of each register in BAR0; every other offset reads 0 and ignores writes."""

    CAP = 0x00
    VS = 0x08
    CC = 0x14
    FWCAP = 0x18
    CSTS = 0x1C
    NSSR = 0x20
    AQA = 0x24
    ASQ = 0x28
    ACQ = 0x30


REGISTER_BYTES: Final = {
    register: 8 if register in (Register.CAP, Register.ASQ, Register.ACQ) else 4 for register in Register
}
"""Width of each register in bytes."""


class Cap(Word):
    """Controller capabilities, 64 bits, read only."""

    mqes = Bits(0, 16)
    cqr = Bits(16)
    ams = Bits(17, 2)
    to = Bits(24, 8)
    dstrd = Bits(32, 4)
    nssrs = Bits(36)
    css = Bits(37, 8)
    mpsmin = Bits(48, 4)
    mpsmax = Bits(52, 4)

    @property
    def ready_timeout_s(self) -> float:
        """Longest time from a change of CC.EN to the matching CSTS.RDY: (TO + 1) x 500 ms."""
        return (self.to + 1) * 0.5


class Vs(Word):
    """Interface version."""

    ter = Bits(0, 8)
    mnr = Bits(8, 8)
    mjr = Bits(16, 16)


class Cc(Word):
    """Controller configuration; bits 31:24 carry the AES entry sizes, which NVMe reserves."""

    en = Bits(0)
    css = Bits(4, 3)
    mps = Bits(7, 4)
    ams = Bits(11, 3)
    shn = Bits(14, 2)
    cp_iosqes = Bits(16, 4)
    cp_iocqes = Bits(20, 4)
    fp_iosqes = Bits(24, 4)
    fp_iocqes = Bits(28, 4)


class Csts(Word):
    """Controller status."""

    rdy = Bits(0)
    cfs = Bits(1)
    shst = Bits(2, 2)
    nssro = Bits(4)


class Aqa(Word):
    """Admin queue attributes: sizes less one; the hardware implements 12 bits of each half."""

    asqs = Bits(0, 12)
    acqs = Bits(16, 12)


class FwCap(Word):
    """Firmware capability word (spec 01 §14.1)."""

    live_migration = Bits(0)
    svn_in_identify = Bits(1)


CAP_VALUE: Final = Cap.of(mqes=1023, cqr=1, ams=1, to=20, nssrs=1, css=1)
VS_VALUE: Final = Vs.of(mjr=1, mnr=4)
FWCAP_VALUE: Final = FwCap.of(live_migration=1, svn_in_identify=1)
AQA_MASK: Final = 0x0FFF_0FFF
NSSR_MAGIC: Final = 0x4E564D65
"""'NVMe': the only value whose write to NSSR has an effect."""
GONE: Final = 0xFFFF_FFFF
"""What a read of any register gives when the device has disappeared."""
