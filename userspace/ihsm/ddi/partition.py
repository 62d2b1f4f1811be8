# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""The client's view of a partition: what needs no session, from revision to opening one (spec 04 §9, §13)."""

import threading
import weakref
from collections.abc import Callable
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
from ihsm.procedures import perform
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

_EncryptionKey = GetEstablishCredEncryptionKeyResp | GetSessionEncryptionKeyResp
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

    def api_revisions(self) -> GetApiRevResp:
        """Oldest and newest interface revision that the device speaks."""
        return self._channel.call(GetApiRevReq(), GetApiRevResp)

    def info(self) -> GetDeviceInfoResp:
        """Kind, number of key tables, FIPS state; asked once, since the kind decides how messages look."""
        if self._info is None:
            info = self._channel.call(GetDeviceInfoReq(), GetDeviceInfoResp)
            self._channel.learn_kind(info.kind)
            self._info = info
        return self._info

    @property
    def channel(self) -> Channel:
        """Typed messages in host form, for operations that have no method."""
        self.info()
        return self._channel

    @checked
    def certificate_chain(self, slot: int = 0) -> CertificateChain:
        """Read all certificates; CertificateChainError if they change meanwhile. Not verified: call its `verify`."""
        before = self._chain_info(slot)
        certificates = tuple(self._certificate(slot, number) for number in range(before.num_certs))
        if not certificates or self._chain_info(slot) != before:
            raise CertificateChainError("the certificate chain is empty or changed while it was read")
        self._identity = identity_key(certificates[-1])
        return CertificateChain(certificates, before.thumbprint)

    def _chain_info(self, slot: int) -> GetCertChainInfoResp:
        return self.channel.call(GetCertChainInfoReq(slot_id=slot), GetCertChainInfoResp)

    def _certificate(self, slot: int, number: int) -> bytes:
        return self.channel.call(GetCertificateReq(slot_id=slot, cert_id=number), GetCertificateResp).certificate

    def identity_key(self) -> ec.EllipticCurvePublicKey:
        """The partition's identity key, from its last certificate as it is now; no chain is verified."""
        return perform(self._read_identity(), self.channel)

    def _read_identity(self) -> Procedure[ec.EllipticCurvePublicKey]:
        info = yield from command(GetCertChainInfoReq(slot_id=0), GetCertChainInfoResp)
        if not info.num_certs:
            raise CertificateChainError("the device has no certificates")
        last = yield from command(GetCertificateReq(slot_id=0, cert_id=info.num_certs - 1), GetCertificateResp)
        self._identity = identity_key(last.certificate)
        return self._identity

    @checked
    def init_bk3(self, bk3: bytes) -> InitBk3Resp:
        """Have the owner's 48-byte backup key masked by the device; the result goes into `establish_credential`."""
        octets("init_bk3", "BK3", bk3, BK3_BYTES)
        return self.channel.call(InitBk3Req(bk3=bk3), InitBk3Resp)

    def is_provisioned(self) -> bool:
        """Whether a credential is established, so that sessions can be opened with it."""
        try:
            self.channel.call(GetSessionEncryptionKeyReq(), GetSessionEncryptionKeyResp)
        except StatusError as error:
            if error.status in (DdiStatus.CredentialsNotEstablished, DdiStatus.PartitionNotProvisioned):
                return False
            raise
        return True

    def sealed_bk3(self) -> bytes | None:
        """The sealed backup key kept by the device, None if there is none."""
        try:
            return self.channel.call(GetSealedBk3Req(), GetSealedBk3Resp).sealed_bk3
        except StatusError as error:
            if error.status == DdiStatus.SealedBk3NotPresent:
                return None
            raise

    @checked
    def set_sealed_bk3(self, sealed_bk3: bytes) -> None:
        """Have the device keep up to 512 opaque bytes; possible once in the partition's life."""
        self.channel.call(SetSealedBk3Req(sealed_bk3=sealed_bk3), SetSealedBk3Resp)

    @checked
    def establish_credential(
        self,
        credential: Credential,
        masked_bk3: bytes,
        anchor: TrustAnchor,
        *,
        bmk: bytes = b"",
        masked_unwrapping_key: bytes = b"",
    ) -> bytes:
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
        signature, anchor_key = endorse(anchor, self.identity_key())

        def attempt() -> bytes:
            key = self.channel.call(GetEstablishCredEncryptionKeyReq(), GetEstablishCredEncryptionKeyResp)
            cipher = perform(self._agree(key), self.channel)
            request = EstablishCredentialReq(
                encrypted_credential=cipher.establish_credential(credential),
                pub_key=cipher.public_key,
                masked_bk3=masked_bk3,
                bmk=bmk,
                masked_unwrapping_key=masked_unwrapping_key,
                pota_sig=signature,
                pota_pub_key=anchor_key,
            )
            return self.channel.call(request, EstablishCredentialResp).bmk

        established = _retry_lost_nonce(attempt)
        self._end_fast_paths()  # whatever took the old credential away took the sessions' keys, too
        return established

    @checked
    def open_session(self, credential: Credential, *, seed: bytes | None = None) -> Session:
        """Open a session; `seed` (48 bytes, random by default) ties the masked keys of the session to it."""
        session_seed = (
            self._entropy.random(SESSION_SEED_BYTES)
            if seed is None
            else octets("open_session", "session seed", seed, SESSION_SEED_BYTES)
        )

        def attempt() -> Session:
            cipher = self.session_cipher()
            request = OpenSessionReq(
                encrypted_credential=cipher.session_credential(credential, session_seed), pub_key=cipher.public_key
            )
            opened = self.channel.call(request, OpenSessionResp)
            return self._opened(Session(self, opened.sess_id, opened.short_app_id, session_seed, opened.bmk_session))

        return _retry_lost_nonce(attempt)

    @checked
    def reopen_session(self, credential: Credential, ticket: SessionTicket) -> Session:
        """Revive a session after a reset and renewed provisioning, under its old id."""

        def attempt() -> Session:
            cipher = self.session_cipher()
            request = ReopenSessionReq(
                encrypted_credential=cipher.session_credential(credential, ticket.seed),
                pub_key=cipher.public_key,
                bmk_session=ticket.bmk_session,
            )
            opened = self.channel.call(request, ReopenSessionResp, ticket.session_id)
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

    def session_cipher(self) -> CredentialCipher:
        """Keys agreed with the device's session encryption key under its current nonce."""
        return perform(self.agreement(), self.channel)

    def agreement(self) -> Procedure[CredentialCipher]:
        """The same, of steps that `channel` takes."""
        key = yield from command(GetSessionEncryptionKeyReq(), GetSessionEncryptionKeyResp)
        return (yield from self._agree(key))

    def _agree(self, key: _EncryptionKey) -> Procedure[CredentialCipher]:
        if self._verify_device_keys:
            yield from self._verify_key(key)
        return CredentialCipher.agree(key.pub_key, key.nonce, self._entropy)

    def _verify_key(self, key: _EncryptionKey) -> Procedure[None]:
        """The identity key signs the raw little-endian coordinates, whatever the dialect (spec 04 §9.3)."""
        if not key.pub_key_signature and self.info().kind is DeviceKind.Virtual:
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


def _retry_lost_nonce(attempt: Callable[[], T]) -> T:
    """Try again while another client used the nonce first; every other error ends it."""
    for _ in range(NONCE_ATTEMPTS - 1):
        try:
            return attempt()
        except StatusError as error:
            if error.status != DdiStatus.NonceMismatch:
                raise
    return attempt()
