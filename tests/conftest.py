# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Plug-ins of the whole test run."""

pytest_plugins = ["conformance.conditions"]
