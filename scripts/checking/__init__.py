# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""What must hold before a commit: the list of checks, and which tests belong to a file."""
