# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""The contract between device and driver: every fact of the wire, declared once."""
