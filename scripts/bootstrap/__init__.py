# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Set-up of the tool chain, with nothing but the standard library (it runs before anything is installed)."""
