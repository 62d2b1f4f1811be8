# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""BAR0: controller registers, their bit fields and what a write does to them (spec 01 §2, §14.1)."""

from enum import Enum, IntEnum
from typing import Final, Self

from ihsm_abi.bits import Bits, Word

NSSR_MAGIC: Final = 0x4E564D65
"""'NVMe': the only value whose write to NSSR has an effect."""
GONE: Final = 0xFFFF_FFFF
"""What a read of any register gives when the device has disappeared."""


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


class Access(Enum):
    """What a write does to a register."""

    READ_ONLY = "nothing"
    READ_WRITE = "changes the bits that are implemented, a write of a part those of that part"
    COMMAND = "gives an order, if all bytes are written; nothing is stored, a read gives 0"


class Register(IntEnum):
    """The registers of BAR0; a member is its offset in bytes. Every other offset reads 0 and ignores writes."""

    width: int
    """Bytes."""
    access: Access
    reset: int
    """Value at power-on."""
    implemented: int
    """Mask of the bits that a write can change."""

    def __new__(cls, offset: int, width: int, access: Access, reset: int = 0, implemented: int | None = None) -> Self:
        """Declare a register; without `implemented` all its bits are."""
        member = int.__new__(cls, offset)
        member._value_ = offset
        member.width, member.access, member.reset = width, access, reset
        member.implemented = (1 << 8 * width) - 1 if implemented is None else implemented
        return member

    CAP = 0x00, 8, Access.READ_ONLY, Cap.of(mqes=1023, cqr=1, ams=1, to=20, nssrs=1, css=1)
    VS = 0x08, 4, Access.READ_ONLY, Vs.of(mjr=1, mnr=4)
    CC = 0x14, 4, Access.READ_WRITE
    FWCAP = 0x18, 4, Access.READ_ONLY, FwCap.of(live_migration=1, svn_in_identify=1)
    CSTS = 0x1C, 4, Access.READ_ONLY
    NSSR = 0x20, 4, Access.COMMAND
    AQA = 0x24, 4, Access.READ_WRITE, 0, Aqa.of(asqs=0xFFF, acqs=0xFFF)
    ASQ = 0x28, 8, Access.READ_WRITE, 0, 0xFFFF_FFFF_FFFF_F000
    ACQ = 0x30, 8, Access.READ_WRITE, 0, 0xFFFF_FFFF_FFFF_F000
