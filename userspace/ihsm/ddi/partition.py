# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""The client's view of a partition: what needs no session, from revision to opening one (spec 04 §9, §13)."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from ihsm.arguments import checked, octets
from ihsm.ddi.call import Procedure, command
from ihsm.ddi.certificates import CertificateChain, identity_key
from ihsm.ddi.channel import Channel
from ihsm.ddi.credentials import Credential, CredentialCipher, Entropy
from ihsm.ddi.errors import CertificateChainError, DeviceKeyError, StatusError
from ihsm.ddi.pota import TrustAnchor, der_signature, endorse
from ihsm.ddi.session import Session, SessionTicket
from ihsm.ddi.transforms import ecc_spki_to_raw
from ihsm.ddi.transport import Transport
from ihsm.procedures import Through, operation, perform_async
from ihsm_abi.ddi import (
    API_REV,
    ApiRev,
    DdiStatus,
    DeviceKind,
    EstablishCredentialReq,
    EstablishCredentialResp,
    GetApiRevReq,
    GetApiRevResp,
    GetCertChainInfoReq,
    GetCertChainInfoResp,
    GetCertificateReq,
    GetCertificateResp,
    GetDeviceInfoReq,
    GetDeviceInfoResp,
    GetEstablishCredEncryptionKeyReq,
    GetEstablishCredEncryptionKeyResp,
    GetSealedBk3Req,
    GetSealedBk3Resp,
    GetSessionEncryptionKeyReq,
    GetSessionEncryptionKeyResp,
    InitBk3Req,
    InitBk3Resp,
    OpenSessionReq,
    OpenSessionResp,
    ReopenSessionReq,
    ReopenSessionResp,
    SetSealedBk3Req,
    SetSealedBk3Resp,
)
from ihsm_abi.ddi.limits import BK3_BYTES, POTA_SIGNATURE_BYTES, SESSION_SEED_BYTES
from ihsm_abi.mbor import MborMap

_EncryptionKey = GetEstablishCredEncryptionKeyResp | GetSessionEncryptionKeyResp
R = TypeVar("R", bound=MborMap)
T = TypeVar("T")

NONCE_ATTEMPTS = 12
"""How often a command is tried while other clients win the race for the partition's nonce (spec 04 §5.4)."""


class Partition:
    """The partition behind one transport."""

    @checked
    def __init__(
        self,
        transport: Transport,
        *,
        rev: ApiRev = API_REV,
        entropy: Entropy | None = None,
        verify_device_keys: bool = True,
    ) -> None:
        """Nothing is sent yet; the first command asks for the device's kind.

        Args:
            transport: HSM queue to use.
            rev: Interface revision to speak.
            entropy: Source of seeds, IVs and ephemeral keys; the operating system by default.
            verify_device_keys: Check that keys to encrypt credentials to are signed by the partition's identity
                key. A simulator, which reports kind Virtual, sends no signature; that is let through.
        """
        self._channel = Channel(transport, rev=rev)
        self._entropy = entropy or Entropy()
        self._verify_device_keys = verify_device_keys
        self._info: GetDeviceInfoResp | None = None
        self._identity: ec.EllipticCurvePublicKey | None = None
        self._sessions: weakref.WeakSet[Session] = weakref.WeakSet()
        """Those that may be open, as far as this object opened them."""
        self._sessions_guard = threading.Lock()

    @operation
    def api_revisions(self) -> Procedure[GetApiRevResp]:
        """Oldest and newest interface revision that the device speaks."""
        revisions: GetApiRevResp = yield Through(self._channel, command(GetApiRevReq(), GetApiRevResp))
        return revisions

    @operation
    def info(self) -> Procedure[GetDeviceInfoResp]:
        """Kind, number of key tables, FIPS state; asked once, since the kind decides how messages look."""
        return self._ask_info()

    def _ask_info(self) -> Procedure[GetDeviceInfoResp]:
        if self._info is None:
            info = yield Through(self._channel, command(GetDeviceInfoReq(), GetDeviceInfoResp))
            self._channel.learn_kind(info.kind)
            self._info = info
        return self._info

    @property
    def channel(self) -> Channel:
        """Typed messages in host form, for operations that have no method."""
        self.info()
        return self._channel

    def call(self, request: MborMap, response: type[R], session_id: int | None = None) -> R:
        """Execute a command given and answered in host form; arguments and errors as `Channel.call`."""
        return self.channel.call(request, response, session_id)

    async def call_async(self, request: MborMap, response: type[R], session_id: int | None = None) -> R:
        """Like `call`, for coroutines; errors as `Channel.call_async`."""
        await perform_async(self._ask_info(), self)
        return await self._channel.call_async(request, response, session_id)

    @operation
    @checked
    def certificate_chain(self, slot: int = 0) -> Procedure[CertificateChain]:
        """Read all certificates; CertificateChainError if they change meanwhile. Not verified: call its `verify`."""
        before = yield from command(GetCertChainInfoReq(slot_id=slot), GetCertChainInfoResp)
        certificates = []
        for number in range(before.num_certs):
            read = yield from command(GetCertificateReq(slot_id=slot, cert_id=number), GetCertificateResp)
            certificates.append(read.certificate)
        after = yield from command(GetCertChainInfoReq(slot_id=slot), GetCertChainInfoResp)
        if not certificates or after != before:
            raise CertificateChainError("the certificate chain is empty or changed while it was read")
        self._identity = identity_key(certificates[-1])
        return CertificateChain(tuple(certificates), before.thumbprint)

    @operation
    def identity_key(self) -> Procedure[ec.EllipticCurvePublicKey]:
        """The partition's identity key, from its last certificate as it is now; no chain is verified."""
        return self._read_identity()

    def _read_identity(self) -> Procedure[ec.EllipticCurvePublicKey]:
        info = yield from command(GetCertChainInfoReq(slot_id=0), GetCertChainInfoResp)
        if not info.num_certs:
            raise CertificateChainError("the device has no certificates")
        last = yield from command(GetCertificateReq(slot_id=0, cert_id=info.num_certs - 1), GetCertificateResp)
        self._identity = identity_key(last.certificate)
        return self._identity

    @operation
    @checked
    def init_bk3(self, bk3: bytes) -> Procedure[InitBk3Resp]:
        """Have the owner's 48-byte backup key masked by the device; the result goes into `establish_credential`."""
        octets("init_bk3", "BK3", bk3, BK3_BYTES)
        return command(InitBk3Req(bk3=bk3), InitBk3Resp)

    @operation
    def is_provisioned(self) -> Procedure[bool]:
        """Whether a credential is established, so that sessions can be opened with it."""
        try:
            yield from command(GetSessionEncryptionKeyReq(), GetSessionEncryptionKeyResp)
        except StatusError as error:
            if error.status in (DdiStatus.CredentialsNotEstablished, DdiStatus.PartitionNotProvisioned):
                return False
            raise
        return True

    @operation
    def sealed_bk3(self) -> Procedure[bytes | None]:
        """The sealed backup key kept by the device, None if there is none."""
        try:
            return (yield from command(GetSealedBk3Req(), GetSealedBk3Resp)).sealed_bk3
        except StatusError as error:
            if error.status == DdiStatus.SealedBk3NotPresent:
                return None
            raise

    @operation
    @checked
    def set_sealed_bk3(self, sealed_bk3: bytes) -> Procedure[None]:
        """Have the device keep up to 512 opaque bytes; possible once in the partition's life."""
        yield from command(SetSealedBk3Req(sealed_bk3=sealed_bk3), SetSealedBk3Resp)

    @operation
    @checked
    def establish_credential(
        self,
        credential: Credential,
        masked_bk3: bytes,
        anchor: TrustAnchor,
        *,
        bmk: bytes = b"",
        masked_unwrapping_key: bytes = b"",
    ) -> Procedure[bytes]:
        """Provision the partition and set its credential.

        Args:
            credential: Id and PIN that sessions will need.
            masked_bk3: From `init_bk3`.
            anchor: The owner's trust anchor; it endorses the identity key.
            bmk: What this method returned earlier, to get masked keys back after a reset.
            masked_unwrapping_key: Masked form of the earlier unwrapping key, to keep it.

        Returns:
            The masked partition masking key (BMK).
        """
        signature, anchor_key = endorse(anchor, (yield from self._read_identity()))

        def attempt() -> Procedure[bytes]:
            key = yield from command(GetEstablishCredEncryptionKeyReq(), GetEstablishCredEncryptionKeyResp)
            cipher = yield from self._agree(key)
            request = EstablishCredentialReq(
                encrypted_credential=cipher.establish_credential(credential),
                pub_key=cipher.public_key,
                masked_bk3=masked_bk3,
                bmk=bmk,
                masked_unwrapping_key=masked_unwrapping_key,
                pota_sig=signature,
                pota_pub_key=anchor_key,
            )
            return (yield from command(request, EstablishCredentialResp)).bmk

        established = yield from _retry_lost_nonce(attempt)
        self._end_fast_paths()  # whatever took the old credential away took the sessions' keys, too
        return established

    @operation
    @checked
    def open_session(self, credential: Credential, *, seed: bytes | None = None) -> Procedure[Session]:
        """Open a session; `seed` (48 bytes, random by default) ties the masked keys of the session to it."""
        session_seed = (
            self._entropy.random(SESSION_SEED_BYTES)
            if seed is None
            else octets("open_session", "session seed", seed, SESSION_SEED_BYTES)
        )

        def attempt() -> Procedure[Session]:
            cipher = yield from self.agreement()
            request = OpenSessionReq(
                encrypted_credential=cipher.session_credential(credential, session_seed), pub_key=cipher.public_key
            )
            opened = yield from command(request, OpenSessionResp)
            return self._opened(Session(self, opened.sess_id, opened.short_app_id, session_seed, opened.bmk_session))

        return _retry_lost_nonce(attempt)

    @operation
    @checked
    def reopen_session(self, credential: Credential, ticket: SessionTicket) -> Procedure[Session]:
        """Revive a session after a reset and renewed provisioning, under its old id."""

        def attempt() -> Procedure[Session]:
            cipher = yield from self.agreement()
            request = ReopenSessionReq(
                encrypted_credential=cipher.session_credential(credential, ticket.seed),
                pub_key=cipher.public_key,
                bmk_session=ticket.bmk_session,
            )
            old = _UnderId(self, ticket.session_id)
            opened = yield Through(old, command(request, ReopenSessionResp))
            return self._opened(Session(self, opened.sess_id, opened.short_app_id, ticket.seed, opened.bmk_session))

        return _retry_lost_nonce(attempt)

    def _opened(self, session: Session) -> Session:
        """Note a session: an earlier one under its id is over, and must not encrypt with keys of this one."""
        self._end_fast_paths(session.session_id)
        with self._sessions_guard:
            self._sessions.add(session)
        return session

    def _end_fast_paths(self, session_id: int | None = None) -> None:
        """End the fast path of the sessions that have an id, or of all."""
        with self._sessions_guard:
            over = [each for each in self._sessions if session_id in (None, each.session_id)]
            self._sessions.difference_update(over)
        for session in over:
            session.fast_path.end()

    @operation
    def session_cipher(self) -> Procedure[CredentialCipher]:
        """Keys agreed with the device's session encryption key under its current nonce."""
        return self.agreement()

    def agreement(self) -> Procedure[CredentialCipher]:
        """The same, as a procedure of steps that the partition takes."""
        key = yield from command(GetSessionEncryptionKeyReq(), GetSessionEncryptionKeyResp)
        return (yield from self._agree(key))

    def _agree(self, key: _EncryptionKey) -> Procedure[CredentialCipher]:
        if self._verify_device_keys:
            yield from self._verify_key(key)
        return CredentialCipher.agree(key.pub_key, key.nonce, self._entropy)

    def _verify_key(self, key: _EncryptionKey) -> Procedure[None]:
        """The identity key signs the raw little-endian coordinates, whatever the dialect (spec 04 §9.3)."""
        if not key.pub_key_signature and (yield from self._ask_info()).kind is DeviceKind.Virtual:
            return
        if len(key.pub_key_signature) != POTA_SIGNATURE_BYTES:
            raise DeviceKeyError(f"signature of the encryption key has {len(key.pub_key_signature)} bytes")
        signature = der_signature(key.pub_key_signature)
        message = ecc_spki_to_raw(key.pub_key.der)
        known = self._identity
        for identity in (known, None):
            current = identity or (yield from self._read_identity())
            try:
                current.verify(signature, message, ec.ECDSA(hashes.SHA384()))
                return
            except InvalidSignature:
                # The identity may have been replaced since it was read: look once more.
                if identity is None:
                    raise DeviceKeyError("the encryption key is not signed by the partition's identity key") from None


@dataclass(frozen=True, slots=True)
class _UnderId:
    """A partition, called under the id of a session that is not open yet."""

    partition: Partition
    session_id: int

    def call(self, request: MborMap, response: type[R]) -> R:
        return self.partition.call(request, response, self.session_id)

    async def call_async(self, request: MborMap, response: type[R]) -> R:
        return await self.partition.call_async(request, response, self.session_id)


def _retry_lost_nonce(attempt: Callable[[], Procedure[T]]) -> Procedure[T]:
    """Try again while another client used the nonce first; every other error ends it."""
    for _ in range(NONCE_ATTEMPTS - 1):
        try:
            return (yield from attempt())
        except StatusError as error:
            if error.status != DdiStatus.NonceMismatch:
                raise
    return (yield from attempt())
