# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""What a device process gives up before it serves, so that a fault in it gives nothing else away."""

from ihsm_device.sandbox.confinement import Confinement
from ihsm_device.sandbox.lookout import Lookout

__all__ = ["Confinement", "Lookout"]
