# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""The name under which programs catch StateError; the state directory itself is `device/state.py`."""

from ihsm_device.hsm.device import StateError

__all__ = ["StateError"]
