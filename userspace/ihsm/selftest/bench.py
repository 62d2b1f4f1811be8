# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""What the steps of a self-test share: the partition, its session, the keys to remove."""

from __future__ import annotations

from dataclasses import dataclass, field

from cryptography.hazmat.primitives.asymmetric import ec

from ihsm.ddi import (
    CertificateChain,
    Credential,
    DdiError,
    Key,
    KeyRequest,
    Partition,
    Session,
    SoftwareTrustAnchor,
    StatusError,
)
from ihsm.driver import AesCommands, FastPathSession, OpenDevice, Submitted
from ihsm.errors import IhsmError
from ihsm_abi.ddi import DdiStatus, KeyClass, KeyUsage

SIGN = KeyRequest(KeyUsage.SignVerify)
ENCRYPT = KeyRequest(KeyUsage.EncryptDecrypt)
DERIVE = KeyRequest(KeyUsage.Derive)


class CheckError(IhsmError):
    """The device did something else than it must; the text says what."""


def check(condition: bool, failure: str) -> None:
    """CheckError with this text unless the condition holds."""
    if not condition:
        raise CheckError(failure)


def check_equal(what: str, got: object, expected: object) -> None:
    """CheckError unless both are equal; neither is shown, since they may be secret."""
    check(got == expected, f"{what} is not what it must be")


@dataclass
class Provisioning:
    """What the self-test itself brought to the partition, and needs to bring it back after a reset."""

    masked_bk3: bytes
    anchor: SoftwareTrustAnchor = field(
        default_factory=lambda: SoftwareTrustAnchor(ec.generate_private_key(ec.SECP384R1()))
    )
    bmk: bytes = b""


class Bench:
    """A device under test."""

    def __init__(self, device: OpenDevice, credential: Credential, *, provision: bool) -> None:
        """`provision`: establish the credential, and undo that at the end; else it is established already."""
        self.device = device
        self.partition = Partition(device)
        self.credential = credential
        self.provision = provision
        self.provisioning: Provisioning | None = None
        self.chain: CertificateChain | None = None
        self.report = b""
        self._session: Session | None = None
        self._keys: list[Key] = []

    @property
    def session(self) -> Session:
        """The open session; CheckError if there is none."""
        if self._session is None or self._session.closed:
            raise CheckError("needs a session, which could not be opened")
        return self._session

    @session.setter
    def session(self, session: Session) -> None:
        self._session = session

    @property
    def aes_queue(self) -> AesCommands[Submitted]:
        """An AES queue; CheckError if the function has none."""
        check(bool(self.device.aes_queues), "the function has no AES queues")
        return self.device.aes_queues[0]

    @property
    def fast_path(self) -> FastPathSession:
        """The session as AES commands name it."""
        return self.session.fast_path

    @property
    def timeout_s(self) -> float:
        """Time limit of one command."""
        return self.device.options.timeout_s

    def keep(self, key: Key) -> Key:
        """Note a key for removal at the end of the step."""
        self._keys.append(key)
        return key

    def import_key(self, payload: bytes, key_class: KeyClass, request: KeyRequest) -> Key:
        """Import a key for the duration of the step."""
        return self.keep(self.session.import_key(payload, key_class, request))

    def forget(self, key: Key) -> None:
        """The step has deleted the key itself."""
        self._keys.remove(key)

    def delete_keys(self) -> None:
        """Delete the keys of a step; the first error is raised when all have been tried."""
        keys, self._keys = self._keys, []
        failure: DdiError | None = None
        for key in keys:
            try:
                self.session.delete_key(key)
            except DdiError as error:
                failure = failure or error
        if failure is not None:
            raise failure

    def refuses(self, key: Key) -> None:
        """CheckError unless the device no longer knows the key."""
        try:
            self.session.attest(key, b"")
        except StatusError as error:
            check(error.status == DdiStatus.KeyNotFound, f"a deleted key gives {error.status.name}")
        else:
            raise CheckError("a deleted key can still be used")
