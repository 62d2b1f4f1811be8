# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Tests against another build of the native module, such as one with a sanitizer: IHSM_NATIVE names its file."""

from __future__ import annotations

import importlib.util
import os
import sys
from typing import Final

MODULE: Final = "ihsm_device._native"
VARIABLE: Final = "IHSM_NATIVE"


def load_named_build() -> None:
    """Load the build that IHSM_NATIVE names, if it names one, before anything imports the usual one."""
    path = os.environ.get(VARIABLE)
    if not path:
        return
    spec = importlib.util.spec_from_file_location(MODULE, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[MODULE] = module
    spec.loader.exec_module(module)
