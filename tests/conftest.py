# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Plug-ins of the whole test run."""

from support.native import load_named_build

pytest_plugins = ["conformance.conditions"]

load_named_build()
