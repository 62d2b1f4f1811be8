# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""The security module under test, reached without queues, with the client's side of its life cycle."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec

from ihsm.ddi.credentials import Credential
from ihsm.ddi.errors import StatusError
from ihsm.ddi.partition import Partition as Client
from ihsm.ddi.pota import SoftwareTrustAnchor
from ihsm.ddi.session import Session
from ihsm.ddi.transforms import Dialect
from ihsm_abi.ddi import (
    DdiStatus,
    DeviceKind,
    GetUnwrappingKeyReq,
    GetUnwrappingKeyResp,
    RespHdr,
    decode_response_header,
)
from ihsm_abi.hsm_queue import ControlKind
from ihsm_device.hsm.command import HsmCommand, HsmCompletion
from ihsm_device.hsm.device import HsmDevice
from ihsm_device.hsm.module import SecurityModule
from ihsm_device.hsm.partition import Session as LiveSession

CREDENTIAL = Credential(bytes(range(0x10, 0x20)), bytes(range(0x20, 0x30)))
BK3 = bytes(range(48))
SEED = bytes(range(0x30, 0x60))
POTA_KEY = ec.derive_private_key(int.from_bytes(b"\x33" * 48, "big"), ec.SECP384R1())


def refused(call: Callable[[], object]) -> DdiStatus:
    """The status that a call of the client is refused with; AssertionError if it is not."""
    try:
        value = call()
    except StatusError as error:
        return error.status
    raise AssertionError(f"not refused, but {value!r}")


@dataclass(frozen=True)
class ModuleReply:
    """A completion as the typed client wants to see it."""

    completion: HsmCompletion

    @property
    def message(self) -> bytes:
        return self.completion.message

    @property
    def session_id(self) -> int | None:
        return self.completion.session_id if self.completion.flags.id_valid else None

    @property
    def short_app_id(self) -> int | None:
        return self.completion.short_app_id if self.completion.flags.short_app_id_valid else None

    @property
    def session_closed(self) -> bool:
        return bool(self.completion.flags.session_closed)

    @property
    def header(self) -> RespHdr:
        """The response's header."""
        return decode_response_header(self.message)[0]

    @property
    def status(self) -> DdiStatus:
        """The response's status."""
        return self.header.status


@dataclass(frozen=True)
class ModuleTransport:
    """Hands commands straight to a security module."""

    module: SecurityModule

    def exchange(self, message: bytes, kind: ControlKind, session_id: int | None) -> ModuleReply:
        command = HsmCommand(message, kind, session_id is not None, session_id or 0)
        return ModuleReply(self.module.execute(command))


@dataclass
class Scene:
    """A function of a device, and a client of it that knows the credential."""

    module: SecurityModule
    credential: Credential = CREDENTIAL
    anchor: SoftwareTrustAnchor = field(default_factory=lambda: SoftwareTrustAnchor(POTA_KEY))
    masked_bk3: bytes = b""
    bmk: bytes = b""
    masked_unwrapping_key: bytes = b""

    def __post_init__(self) -> None:
        self.transport = ModuleTransport(self.module)
        self.client = Client(self.transport)

    @property
    def kind(self) -> DeviceKind:
        """Dialect of the device."""
        return self.module.partition.device.dialect.kind

    @property
    def dialect(self) -> Dialect:
        """The client's side of it."""
        return Dialect(self.kind)

    @property
    def state(self) -> Any:
        """What the partition loses with the next reset."""
        return self.module.partition.state

    def live(self, session_id: int) -> LiveSession:
        """The device's side of a session that is open."""
        session = self.module.partition.sessions.live(session_id)
        assert session is not None
        return session

    def clean(self) -> None:
        """As after power-on, but with the identity and the unwrapping key of before, which take long to make."""
        self.module.client_lost()
        self.credential = CREDENTIAL
        self.bmk = self.masked_unwrapping_key = b""

    def provision(self, **backups: bytes) -> bytes:
        """InitBk3 and EstablishCredential; returns the BMK. `backups`: `bmk`, `masked_unwrapping_key`."""
        self.masked_bk3 = self.client.init_bk3(BK3).masked_bk3
        self.bmk = self.client.establish_credential(self.credential, self.masked_bk3, self.anchor, **backups)
        return self.bmk

    def open_session(self, seed: bytes = SEED) -> Session:
        """One more session."""
        return self.client.open_session(self.credential, seed=seed)

    def unwrapping_key(self, session: Session) -> GetUnwrappingKeyResp:
        """The partition's unwrapping key."""
        return session.call(GetUnwrappingKeyReq(), GetUnwrappingKeyResp)

    def send(self, message: bytes, kind: ControlKind, session_id: int | None = None) -> ModuleReply:
        """Execute a raw request."""
        return self.transport.exchange(message, kind, session_id)


class Stage:
    """Scenes of one device, cheap to come by: partitions are used again where a test does not need a new one."""

    def __init__(self, device: HsmDevice, tables: int = 1) -> None:
        self.device = device
        self._tables = tables
        self._functions = 0
        self._used: Scene | None = None

    def fresh(self, tables: int | None = None) -> Scene:
        """A partition that was never used."""
        self._functions += 1
        return Scene(self.device.function(self._functions, tables or self._tables))

    def clean(self) -> Scene:
        """A partition in the state Fresh; identity, BK_BOOT, certificate and unwrapping key may be there already."""
        if self._used is None:
            self._used = self.fresh()
        self._used.clean()
        return self._used
