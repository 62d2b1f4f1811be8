# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""The operations, one file a family; what a handler works with is ."""

from ihsm_device.hsm.operations.context import Context
from ihsm_device.hsm.operations.families import HANDLERS
from ihsm_device.hsm.operations.operation import Handler, express_key

__all__ = [
    "HANDLERS",
    "Context",
    "Handler",
    "express_key",
]
