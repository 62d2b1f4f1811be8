# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""From a request message to a response message: header, admission, data map, operation, completion fields."""

import functools
import logging

from ihsm_abi.ddi import (
    ApiRev,
    DdiOp,
    DdiStatus,
    RespHdr,
    append_data,
    control_kind,
    decode_data,
    decode_request_header,
    encode_error,
    encode_head,
)
from ihsm_abi.hsm_queue import MAX_REQUEST_BYTES, ControlKind, HsmStatus, SessionControl
from ihsm_abi.mbor import MborDecodeError, MborEncodeError
from ihsm_device.hsm.admission import NotProvisionedError, admit
from ihsm_device.hsm.command import SHORT_APP_ID, HsmCommand, HsmCompletion
from ihsm_device.hsm.device import StateError
from ihsm_device.hsm.errors import CancelledError, RefusedError
from ihsm_device.hsm.keystore import StaleHandleError
from ihsm_device.hsm.operations import HANDLERS, Context, Handler
from ihsm_device.hsm.partition import Partition

_log = logging.getLogger(__name__)


@functools.cache
def _flags(
    kind: ControlKind, id_valid: bool = False, short_app_id_valid: bool = False, session_closed: bool = False
) -> SessionControl:
    """Session fields of a completion; the few that there are get made once."""
    return SessionControl.of(
        kind=kind, id_valid=id_valid, short_app_id_valid=short_app_id_valid, session_closed=session_closed
    )


def run(partition: Partition, command: HsmCommand) -> HsmCompletion:
    """Carry out a command; never raises for anything a client can send."""
    try:
        header, offset = decode_request_header(command.message)
    except MborDecodeError:
        return HsmCompletion(encode_error(DdiStatus.DdiDecodeFailed, None), SessionControl(0))
    kind = control_kind(header.op)
    try:
        with partition.lock:
            caller = admit(command, kind, header, partition.sessions, provisioned=partition.provisioned)
            context = Context(partition, partition.state, header, caller, header.sess_id)
    except RefusedError as error:
        session_id = None if isinstance(error, NotProvisionedError) else header.sess_id
        return HsmCompletion(encode_error(error.status, header, session_id=session_id), _flags(kind))
    try:
        return _success(context, kind, _operate(context, command.message, offset))
    except Exception as error:
        context.roll_back()
        return _failure(context, kind, error)
    finally:
        context.finish()
        partition.device.store.check_memory()


def _operate(context: Context, message: bytes, offset: int) -> bytes:
    handler = _handler(context)
    if handler.before_decode is not None:
        handler.before_decode(context)
    try:
        request, _ = decode_data(handler.request, message, offset)
    except MborDecodeError:
        raise RefusedError(DdiStatus.DdiDecodeFailed) from None
    response = handler.run(context, request)
    fips = handler.reports_fips and context.partition.device.fips_approved
    try:
        encoded = append_data(
            _success_head(context.header.rev, handler.response_op, context.answer_session_id, fips), response
        )
    except MborEncodeError:
        raise RefusedError(DdiStatus.DdiEncodeFailed) from None
    if len(encoded) > MAX_REQUEST_BYTES:
        raise RefusedError(DdiStatus.DmaBufferAllocFailure)
    return encoded


def _handler(context: Context) -> Handler:
    handler = HANDLERS.get(context.header.op)
    if handler is None or (handler.validation_hook and not context.partition.device.options.validation_hooks):
        raise RefusedError(DdiStatus.UnsupportedCmd)
    return handler


@functools.lru_cache(maxsize=512)
def _success_head(rev: ApiRev | None, op: DdiOp, session_id: int | None, fips: bool) -> bytes:
    """As `encode_head`, without making a header each time."""
    return encode_head(RespHdr(rev=rev, op=op, sess_id=session_id, status=DdiStatus.Success, fips_approved=fips))


def _success(context: Context, kind: ControlKind, message: bytes) -> HsmCompletion:
    session_id = context.answer_session_id
    flags = _flags(kind, session_id is not None, context.opened, context.closed)
    rollback = context.roll_back if context.undo else None
    return HsmCompletion(message, flags, session_id or 0, SHORT_APP_ID, rollback=rollback)


def _failure(context: Context, kind: ControlKind, error: Exception) -> HsmCompletion:
    if isinstance(error, StaleHandleError):
        # Somebody deleted the key while this command was using it; or a reset did, and then the result is dropped.
        error = CancelledError() if context.overtaken() else RefusedError(DdiStatus.KeyNotFound)
    if isinstance(error, CancelledError):
        return HsmCompletion(b"", _flags(kind), sc=HsmStatus.INTERNAL_ERROR)
    if not isinstance(error, RefusedError):
        name = context.header.op.name
        # A full disk is no fault of the program: its one line says all.
        trace = None if isinstance(error, StateError) else error
        _log.error("partition %d: %s failed: %s", context.partition.index, name, error, exc_info=trace)
        error = RefusedError(DdiStatus.InternalError)
    return _refusal(context, kind, error.status)


def _refusal(context: Context, kind: ControlKind, status: DdiStatus) -> HsmCompletion:
    """An error raised by the operation: close and in-session kinds still name the session of the request."""
    header = context.header
    message = encode_error(status, header, session_id=header.sess_id)
    named = kind in (ControlKind.CLOSE, ControlKind.IN_SESSION)
    return HsmCompletion(message, _flags(kind, named), header.sess_id or 0 if named else 0)
