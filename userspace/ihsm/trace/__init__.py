# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Traces of a device: what it saw and did, record by record (`ihsm_abi.trace`)."""
