# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Messages of SPDM to a responder, outside of a session and in its records: each has an answer, and no key is left.

Those of IDE_KM and TDISP act on an interface that is no function's. An input begins with how far the conversation has
come, and goes on with messages: how it comes, its length, its bytes. Records are sealed with the session's own keys.
"""

import functools
from typing import Final

from harness import Values, failures_are_findings, instrumented, main

with instrumented():
    from ihsm_abi import ide
    from ihsm_abi.spdm import algorithms, codes, messages, opaque, secured
    from ihsm_device._native import ffi, lib
    from ihsm_device.hsm import HsmDevice
    from ihsm_device.hsm.keystore import Curve, Owner, Scope
    from ihsm_device.tdi import DeviceInterface
    from ihsm_device.trust import Responder
    from ihsm_device.trust.attestation import Attestation

FUNCTION: Final = 0
MAX_MESSAGES: Final = 64
ANSWERS: Final = frozenset(codes.ResponseCode)
CAPABILITIES: Final = codes.Capability.KEY_EX | codes.Capability.ENCRYPT | codes.Capability.MAC
TABLES: Final = (
    algorithms.AlgorithmTable.of(algorithms.TableType.DHE, algorithms.Dhe.SECP384R1),
    algorithms.AlgorithmTable.of(algorithms.TableType.AEAD, algorithms.Aead.AES_256_GCM),
    algorithms.AlgorithmTable.of(algorithms.TableType.KEY_SCHEDULE, algorithms.KeySchedule.SPDM),
)


@functools.cache
def the_attestation() -> tuple[HsmDevice, Attestation]:
    """One device for all inputs."""
    hsm = HsmDevice()
    return hsm, Attestation(hsm, ())


@functools.cache
def the_beginning() -> tuple[bytes, ...]:
    """What brings a responder to a session's handshake."""
    hsm, _ = the_attestation()
    key = hsm.store.ec_generate(Curve.P384, Owner(scope=Scope.DEVICE))
    capable = messages.GetCapabilities(
        ct_exponent=20, flags=CAPABILITIES, data_transfer_size=4096, max_message_size=4096
    )
    exchange = messages.KeyExchange(
        summary_type=1,
        slot=0,
        session_id=1,
        random=bytes(32),
        exchange=hsm.store.ec_public(key)[1:],
        opaque=opaque.supported_versions(),
    )
    negotiation = algorithms.NegotiateAlgorithms.of(tables=TABLES)
    return tuple(each.encode() for each in (messages.GetVersion(), capable, negotiation, exchange))


class Conversation:
    """With one responder."""

    def __init__(self, responder: Responder) -> None:
        """Nothing was said."""
        self.responder = responder

    def begin(self, stage: int) -> None:
        """Come so far: 0 nothing, 1 to 3 the negotiation, 4 a handshake, 5 a session."""
        for message in the_beginning()[:stage]:
            assert self.responder.answer(message)[1] != codes.ResponseCode.ERROR
        if stage > len(the_beginning()):
            self.finish()

    def finish(self) -> None:
        """The proof, made with the responder's own key."""
        session = self.responder._connection.session
        assert session is not None
        assert session._request_finished is not None
        head = bytes([codes.VERSION_1_2, codes.RequestCode.FINISH, 0, 0])
        proved = session.transcript.copy()
        proved.update(head)
        proof = session.store.hmac(session._request_finished, session.digest, proved.digest())
        assert self.sealed(head + proof) is not None
        assert session.established

    def sealed(self, message: bytes) -> bytes | None:
        """In the next record."""
        session = self.responder._connection.session
        assert session is not None
        assert session._keys is not None
        way = session._keys.request
        header = secured.record_header(session.id, len(message))
        body = session.store.record_seal(way.key, way.iv, way.sequence, header, secured.plaintext(message))
        return self.responder.answer_secured(header + body)

    def bring(self, how: int, message: bytes) -> None:
        """As a message, in a record, or as a record."""
        if how == 1 and self.responder.session_id is not None:
            answer = self.sealed(message)
            assert answer is not None or self.responder.session_id is None
        elif how == 2:
            self.responder.answer_secured(message)
        else:
            answer = self.responder.answer(message)
            assert answer[1] in ANSWERS
            assert len(answer) <= codes.MAX_MESSAGE_BYTES


def give_stream(interface: DeviceInterface) -> None:
    """Enable stream 0, which is secure as soon as it has keys."""
    registers = ffi.new("struct ihsm_tdi_registers *")
    registers.ide[5] = ide.IdeSelectiveControl.of(enable=1)
    lib.ihsm_tdi_follow(interface.handle, registers)


def one_input(data: bytes) -> None:
    """One conversation."""
    hsm, attestation = the_attestation()
    values = Values(data)
    interface = DeviceInterface()
    give_stream(interface)
    conversation = Conversation(attestation.objects(FUNCTION, interface).responder)
    conversation.begin(values.number() % 6)
    for _ in range(MAX_MESSAGES):
        if not values.left:
            break
        how = values.number() % 3
        conversation.bring(how, values.bytes(values.number(2) % (codes.MAX_MESSAGE_BYTES + 1)))
    conversation.responder.forget()
    assert hsm.store.destroy_group(function=FUNCTION, scope=Scope.TRUST) == 0


if __name__ == "__main__":
    failures_are_findings()
    main(one_input)
