# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Messages that tell what the device is (spec 03 §13)."""

from typing import Annotated

from ihsm_abi.ddi.enums import DeviceKind
from ihsm_abi.ddi.types import ApiRev
from ihsm_abi.mbor import U8, Bool, Enum32, MborMap, Nested


class GetApiRevReq(MborMap):
    """1002 GetApiRev request."""


class GetApiRevResp(MborMap):
    """1002 GetApiRev response."""

    min: Annotated[ApiRev, Nested(1)]
    max: Annotated[ApiRev, Nested(2)]


class GetDeviceInfoReq(MborMap):
    """1003 GetDeviceInfo request."""


class GetDeviceInfoResp(MborMap):
    """1003 GetDeviceInfo response."""

    kind: Annotated[DeviceKind, Enum32(1)]
    tables: Annotated[int, U8(2)]
    fips_approved: Annotated[bool, Bool(3)]
