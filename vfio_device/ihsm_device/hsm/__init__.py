# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""The security module: partition, sessions, vault, masking, identity; one file per family of operations."""
