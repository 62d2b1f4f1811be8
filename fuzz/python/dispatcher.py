# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""The dispatcher and the operations: rows of requests of the declared types, to a function with a session and keys.

Bytes of an input choose the operation and its fields; what the declaration says of lengths and enumerations holds but
now and then. Whatever comes is answered by a response or a status, never by an exception or the error state.
"""

import functools
import sys
from pathlib import Path
from typing import Any

from harness import Values, failures_are_findings, instrumented, main

with instrumented():
    from ihsm_abi import mbor
    from ihsm_abi.ddi import API_REV, ApiRev, ReqHdr, decode_response_header, encode_message
    from ihsm_abi.ddi.registry import OPERATIONS
    from ihsm_abi.hsm_queue import ControlKind
    from ihsm_abi.mbor import Bool, Enum32, FixedOctets, Nested, Octets
    from ihsm_device.hsm.command import HsmCommand
    from ihsm_device.hsm.device import DeviceOptions, HsmDevice

sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))
from support.hsm import Scene
from support.keyring import Keyring

MAX_COMMANDS = 6
MAX_KEYS = 200
KEYS = ("aes", "ecc-sign", "ecc-derive", "rsa-decrypt", "rsa-sign", "secret", "hmac", "bulk")
CODES = sorted(OPERATIONS)
WIDTHS = {mbor.U8: 1, mbor.U16: 2, mbor.U32: 4, mbor.U64: 8}


class Function:
    """A provisioned partition that every input finds with the same session and keys, made anew when one spoils it."""

    def __init__(self, options: DeviceOptions) -> None:
        """A device in memory."""
        self.device = HsmDevice(options)
        self.scene = Scene(self.device.function(1, 1))
        self.provision()

    def provision(self) -> None:
        """Begin again."""
        self.scene.clean()
        ring = Keyring(self.scene)
        self.session = ring.session.session_id
        self.keys = [ring.id(name) for name in KEYS]

    def is_spoiled(self) -> bool:
        """Whether an input has ended the session or the provisioning, or filled the function with keys."""
        partition = self.scene.module.partition
        return (
            not partition.state.provisioned
            or partition.sessions.live(self.session) is None
            or len(partition.sessions.snapshot()) > 1
            or self.device.store.statistics().keys > MAX_KEYS
        )


def value_of(field: mbor.Field, values: Values, function: Function) -> Any:
    """A value that the declaration allows; numbers of keys that exist, mostly."""
    spec = field.spec
    match spec:
        case Nested():
            return map_of(field.type, values, function)
        case Bool():
            return values.chance()
        case Enum32():
            known = list(field.type)
            number = values.number()
            return field.type(values.number(4)) if number == 0xFF else known[number % len(known)]
        case FixedOctets():
            return values.bytes(spec.size).ljust(spec.size, b"\0")
        case Octets():
            length = values.choice((0, 1, 12, 16, 20, 32, 48, 64, 80, 96, 256, spec.max - 1, spec.max, values.number()))
            return values.bytes(min(length, spec.max)).ljust(min(length, spec.max), b"\1")
    if "key" in field.name and values.chance():
        return values.choice(function.keys)
    return values.number(WIDTHS[type(spec)])


def map_of(kind: type[mbor.MborMap], values: Values, function: Function) -> mbor.MborMap:
    """A map of this type."""
    return kind(
        **{
            field.name: value_of(field, values, function)
            for field in kind.mbor_fields
            if not field.optional or values.chance()
        }
    )


def command_of(values: Values, function: Function) -> HsmCommand:
    """A request with its queue entry."""
    operation = OPERATIONS[values.choice(CODES)]
    how = values.number()
    in_session = operation.kind is not ControlKind.NONE and operation.kind is not ControlKind.OPEN
    session = function.session if in_session else None
    if how & 3 == 3:
        session = values.number(2) if values.chance() else None
    revision = ApiRev(major=values.number(), minor=values.number()) if how & 12 == 12 else API_REV
    data = map_of(operation.request, values, function)
    message = encode_message(ReqHdr(rev=revision, op=operation.op, sess_id=session), data)
    if how & 48 == 48:  # a few bytes otherwise
        place = values.number(2) % len(message)
        message = message[:place] + values.bytes(4) + message[place + 4 :]
    kind = values.choice(list(ControlKind)) if how & 192 == 192 else operation.kind
    return HsmCommand(message, kind, session is not None, session or 0)


def one_input(data: bytes) -> None:
    """A row of commands."""
    function = the_function()
    values = Values(data)
    for _ in range(MAX_COMMANDS):
        if not values.left:
            break
        try:
            command = command_of(values, function)
        except mbor.MborEncodeError:
            continue
        completion = function.scene.module.execute(command)
        if completion.message:
            decode_response_header(completion.message)
        assert function.device.error is None, function.device.error
        if completion.rollback is not None and values.chance():
            completion.rollback()
    if function.is_spoiled():
        function.provision()


@functools.cache
def the_function() -> Function:
    """That of this process."""
    return Function(DeviceOptions())


if __name__ == "__main__":
    failures_are_findings()
    main(one_input)
