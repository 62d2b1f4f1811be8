# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""GetApiRev and GetDeviceInfo (spec 04 §9.1, §9.2)."""

from ihsm_abi.ddi import (
    API_REV,
    DdiOp,
    GetApiRevReq,
    GetApiRevResp,
    GetDeviceInfoReq,
    GetDeviceInfoResp,
)
from ihsm_device.hsm.operations.context import Context
from ihsm_device.hsm.operations.operation import operation


@operation(DdiOp.GetApiRev, reports_fips=False)
def get_api_rev(context: Context, request: GetApiRevReq) -> GetApiRevResp:
    """The one revision that the device speaks."""
    return GetApiRevResp(min=API_REV, max=API_REV)


@operation(DdiOp.GetDeviceInfo, reports_fips=False)
def get_device_info(context: Context, request: GetDeviceInfoReq) -> GetDeviceInfoResp:
    """Kind, number of key tables, FIPS state."""
    return GetDeviceInfoResp(
        kind=context.dialect.kind,
        tables=context.partition.tables,
        fips_approved=context.partition.device.fips_approved,
    )
