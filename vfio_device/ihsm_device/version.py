# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""The version of this package, read once: a process that serves may open no files for it."""

import importlib.metadata
from typing import Final

VERSION: Final = importlib.metadata.version("ihsm")
