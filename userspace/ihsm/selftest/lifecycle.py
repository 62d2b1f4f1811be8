# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Steps of the golden path (spec 04 §14): identity, provisioning, session, reset and return, removal."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Final

from ihsm.ddi import CertificateChainError, Credential, KeyRequest, StatusError
from ihsm.errors import SessionClosedError
from ihsm.selftest.bench import SIGN, Bench, CheckError, Provisioning, check, check_equal
from ihsm.selftest.private_keys import check_signature
from ihsm_abi.ddi import DdiStatus, EccCurve, GetUnwrappingKeyReq, GetUnwrappingKeyResp, KeyUsage
from ihsm_abi.ddi.limits import BK3_BYTES, PIN_BYTES

_RSA_2048_BITS: Final = 2048
_F4: Final = 65537


def device_info(bench: Bench) -> str:
    """GetApiRev and GetDeviceInfo."""
    revisions, info = bench.partition.api_revisions(), bench.partition.info()
    check(info.tables > 0, "the device reports no key table")
    return (
        f"kind {info.kind.name}, {info.tables} table(s), revision {revisions.max.major}.{revisions.max.minor}, "
        f"FIPS state {'on' if info.fips_approved else 'off'}"
    )


def certificate_chain(bench: Bench) -> str:
    """The chain of certificates, from the device's root to the partition's key."""
    chain = bench.partition.certificate_chain()
    chain.verify(strict_leaf=False)
    bench.chain = chain
    seen = f"{len(chain.der)} certificates verify"
    try:
        chain.verify()
    except CertificateChainError:
        return f"{seen}; the last has extensions that RFC 5280 forbids"
    return seen


def establish_credential(bench: Bench) -> str:
    """InitBk3 and EstablishCredential."""
    own = Provisioning(bench.partition.init_bk3(os.urandom(BK3_BYTES)).masked_bk3)
    own.bmk = bench.partition.establish_credential(bench.credential, own.masked_bk3, own.anchor)
    bench.provisioning = own
    check(bench.partition.is_provisioned(), "the partition is not provisioned afterwards")
    return f"masked BK3 {len(own.masked_bk3)} bytes, BMK {len(own.bmk)} bytes"


def open_session(bench: Bench) -> str:
    """OpenSession."""
    bench.session = bench.partition.open_session(bench.credential)
    return f"session {bench.session.session_id}, short app id {bench.session.short_app_id}"


def unwrapping_key(bench: Bench) -> str:
    """GetUnwrappingKey."""
    numbers = bench.session.unwrapping_key(wait_s=bench.timeout_s).public_key.public_numbers()
    check(getattr(numbers, "e", None) == _F4, "the public exponent is not 65537")
    bits = getattr(numbers, "n", 0).bit_length()
    check(bits == _RSA_2048_BITS, f"the modulus has {bits} bits")
    return f"RSA-{bits}"


def change_pin(bench: Bench) -> str:
    """ChangePin: the new PIN opens sessions, the old one does not."""
    old, new = bench.credential, Credential(bench.credential.id, os.urandom(PIN_BYTES))
    bench.session.change_pin(new.pin)
    bench.credential = new
    bench.partition.open_session(new).close()
    try:
        bench.partition.open_session(old).close()
    except StatusError as error:
        check(error.status == DdiStatus.InvalidAppCredentials, f"the old PIN gives {error.status.name}")
        return "the new PIN opens a session, the old one is refused"
    raise CheckError("the old PIN still opens a session")


def restore_after_reset(bench: Bench) -> str:
    """NSSR, provisioning with the backups, ReopenSession, UnmaskKey: the keys are back and the same."""
    own = bench.provisioning
    if own is None:
        raise CheckError("needs a provisioned partition")
    session = bench.session
    unwrapping = session.unwrapping_key()
    application = session.generate_ecc_key(EccCurve.P256, SIGN)
    private = session.generate_ecc_key(EccCurve.P384, KeyRequest(KeyUsage.SignVerify, session=True))
    bench.device.reset(subsystem=True)
    own.bmk = bench.partition.establish_credential(
        bench.credential,
        own.masked_bk3,
        own.anchor,
        bmk=own.bmk,
        masked_unwrapping_key=unwrapping.masked_key,
    )
    bench.session = session = bench.partition.reopen_session(bench.credential, session.ticket)
    check_equal("the unwrapping key", session.unwrapping_key().public_key_der, unwrapping.public_key_der)
    for key in (application, private):
        restored = bench.keep(session.unmask(key.masked_key))
        check_equal("the restored key", restored.public_key_der, key.public_key_der)
        check_signature(bench, restored)
    return f"session {session.session_id} reopened, two keys restored from their masked forms"


def close_session(bench: Bench) -> str:
    """CloseSession: the session ends."""
    session = bench.session
    session.close()
    try:
        # Past the session, which by itself sends nothing any more: it is the device that is asked.
        bench.partition.channel.call(GetUnwrappingKeyReq(), GetUnwrappingKeyResp, session.session_id)
    except (StatusError, SessionClosedError):  # a kernel's driver refuses it before the device could
        return "closed, and refused from then on"
    raise CheckError("the closed session still works")


def remove_credential(bench: Bench) -> str:
    """NSSR: the credential, and whatever a failed step may have left, is gone."""
    bench.device.reset(subsystem=True)
    check(not bench.partition.is_provisioned(), "the partition still has a credential after a subsystem reset")
    return "partition empty after a subsystem reset"


Steps = tuple[tuple[str, Callable[[Bench], str]], ...]
OPENING: Final[Steps] = (("device-info", device_info), ("certificate-chain", certificate_chain))
PROVISIONING: Final[Steps] = (("establish-credential", establish_credential),)
SESSION: Final[Steps] = (("open-session", open_session), ("unwrapping-key", unwrapping_key))
OWN_PARTITION: Final[Steps] = (("change-pin", change_pin), ("restore-after-reset", restore_after_reset))
CLOSING: Final[Steps] = (("close-session", close_session),)
REMOVAL: Final[Steps] = (("remove-credential", remove_credential),)
