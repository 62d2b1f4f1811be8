# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""How an operation is declared.

    @operation(DdiOp.Hmac)
    def hmac(context: Context, request: HmacReq) -> HmacResp:
        ...checks in order, then the work, then the answer...

A handler raises `RefusedError(status)` to answer with an error. It runs on any worker thread, several at once.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from ihsm_abi.ddi import OPERATIONS, DdiOp
from ihsm_abi.mbor import MborMap
from ihsm_device.hsm.command import Lane
from ihsm_device.hsm.operations.context import Context
from ihsm_device.hsm.partition import ExpressKey, NewEntry
from ihsm_device.hsm.wire import Dialect

Request = TypeVar("Request", bound=MborMap)
Response = TypeVar("Response", bound=MborMap)


Express = Callable[[NewEntry, Dialect], ExpressKey | None]
"""For which requests an operation with this key succeeds, so that C may carry it out; None: for none."""


@dataclass(frozen=True, slots=True)
class Handler:
    """An implemented operation."""

    request: type[MborMap]
    run: Callable[[Context, Any], MborMap]
    before_decode: Callable[[Context], None] | None
    lane: Lane
    response_op: DdiOp
    reports_fips: bool
    validation_hook: bool
    express: Express | None


HANDLERS: Final[dict[DdiOp, Handler]] = {}
"""Every implemented operation by its code; complete once the room is imported."""


def operation(
    op: DdiOp,
    *,
    before_decode: Callable[[Context], None] | None = None,
    lane: Lane = Lane.FAST,
    response_op: DdiOp | None = None,
    reports_fips: bool = True,
    validation_hook: bool = False,
    express: Express | None = None,
) -> Callable[[Callable[[Context, Request], Response]], Callable[[Context, Request], Response]]:
    """Register the function that carries out an operation.

    Args:
        op: its code; the request class follows from it.
        before_decode: a check of the partition's state that comes before the data map is decoded (spec 04 §4).
        lane: SLOW for what takes milliseconds.
        response_op: code in the header of a successful response, if not `op`.
        reports_fips: whether a successful response's header carries the FIPS state (spec 03 §3.2).
        validation_hook: exists only in a device started with validation hooks.
        express: what of it the express lane does as well (native/express/operations.c).
    """

    def register(run: Callable[[Context, Request], Response]) -> Callable[[Context, Request], Response]:
        HANDLERS[op] = Handler(
            request=OPERATIONS[op].request,
            run=run,
            before_decode=before_decode,
            lane=lane,
            response_op=response_op or op,
            reports_fips=reports_fips,
            validation_hook=validation_hook,
            express=express,
        )
        return run

    return register


def express_key(dialect: Dialect) -> Callable[[NewEntry], ExpressKey | None]:
    """What the express lane of a device that speaks `dialect` may do with a key."""

    def describe(content: NewEntry) -> ExpressKey | None:
        for handler in HANDLERS.values():
            if handler.express is not None and (key := handler.express(content, dialect)) is not None:
                return key
        return None

    return describe
