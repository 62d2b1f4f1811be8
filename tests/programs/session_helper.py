# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Co-process of chardev_user: opens and closes sessions by commands that the program carries out (helper.h).

Reads orders from standard input and writes frames to standard output.
"""

from __future__ import annotations

import os
import struct
import sys
from dataclasses import dataclass
from typing import BinaryIO, Final

from cryptography.hazmat.primitives.asymmetric import ec

from ihsm.ddi import Credential, KeyRequest, Partition, Session, SoftwareTrustAnchor
from ihsm.errors import IhsmError
from ihsm_abi.ddi import AesKeySize, KeyUsage
from ihsm_abi.ddi.limits import BK3_BYTES
from ihsm_abi.hsm_queue import ControlKind

FRAME: Final = struct.Struct("<cBHI")
ANSWER: Final = struct.Struct("<III")
SESSION: Final = struct.Struct("<HBxIII")
NO_SESSION: Final = 0xFFFF
COMMAND, DONE = b"C", b"D"
OPEN, CLOSE = b"o", b"c"
CREDENTIAL: Final = Credential(b"a program's name", b"personal number.")


@dataclass(frozen=True)
class Answer:
    """Response to a command. What else a transport tells is in the response, and not to be had from the ioctl."""

    message: bytes
    session_id: int | None = None
    short_app_id: int | None = None
    session_closed: bool = False


@dataclass(frozen=True)
class PipeTransport:
    """Has the program at the other end carry out commands."""

    orders: BinaryIO
    frames: BinaryIO

    def exchange(self, message: bytes, kind: ControlKind, session_id: int | None) -> Answer:
        """As `ihsm.ddi.transport.Transport`.

        Raises:
            IhsmError: the ioctl failed, or the device had no response.
        """
        self.send(COMMAND, message, kind, NO_SESSION if session_id is None else session_id)
        error, status, length = ANSWER.unpack(self.orders.read(ANSWER.size))
        if error or status:
            raise IhsmError(f"{os.strerror(error)}, status {status:#x}")
        return Answer(self.orders.read(length))

    def send(self, kind: bytes, payload: bytes, control: int = 0, session_id: int = NO_SESSION) -> None:
        """One frame."""
        self.frames.write(FRAME.pack(kind, control, session_id, len(payload)) + payload)
        self.frames.flush()


def opened(partition: Partition) -> Session:
    """A session, after the device has been given its credential where it has none."""
    if not partition.is_provisioned():
        anchor = SoftwareTrustAnchor(ec.generate_private_key(ec.SECP384R1()))
        masked = partition.init_bk3(os.urandom(BK3_BYTES)).masked_bk3
        partition.establish_credential(CREDENTIAL, masked, anchor)
    return partition.open_session(CREDENTIAL)


def bulk_key(session: Session, size: AesKeySize) -> int:
    """Number of a new key that lives with the session."""
    key = session.generate_aes_key(size, KeyRequest(KeyUsage.EncryptDecrypt, session=True))
    assert key.bulk_key_id is not None
    return key.bulk_key_id


def described(session: Session) -> bytes:
    """The session and new keys of it, as the program wants them."""
    gcm = bulk_key(session, AesKeySize.AesGcmBulk256Unapproved)
    xts = [bulk_key(session, AesKeySize.AesXtsBulk256) for _ in range(2)]
    return SESSION.pack(session.session_id, session.short_app_id, gcm, *xts)


def main() -> None:
    """Carry out orders, until there are no more."""
    transport = PipeTransport(sys.stdin.buffer, sys.stdout.buffer)
    session: Session | None = None
    while order := transport.orders.read(1):
        if order == OPEN:
            session = opened(Partition(transport))
            transport.send(DONE, described(session))
        elif order == CLOSE and session is not None:
            session.close()
            transport.send(DONE, bytes(SESSION.size))


if __name__ == "__main__":
    main()
