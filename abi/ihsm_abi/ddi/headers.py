# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Headers of DDI messages (spec 03 §3.2)."""

from typing import Annotated

from ihsm_abi.ddi.ops import DdiOp
from ihsm_abi.ddi.status import DdiStatus
from ihsm_abi.ddi.types import ApiRev
from ihsm_abi.mbor import U16, Bool, Enum32, MborMap, Nested


class ReqHdr(MborMap):
    """Request header."""

    rev: Annotated[ApiRev | None, Nested(1)] = None
    op: Annotated[DdiOp, Enum32(2)]
    sess_id: Annotated[int | None, U16(3)] = None


class RespHdr(MborMap):
    """Response header."""

    rev: Annotated[ApiRev | None, Nested(1)] = None
    op: Annotated[DdiOp, Enum32(2)]
    sess_id: Annotated[int | None, U16(3)] = None
    status: Annotated[DdiStatus, Enum32(4)]
    fips_approved: Annotated[bool, Bool(5)]
