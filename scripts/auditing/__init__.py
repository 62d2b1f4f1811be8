# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""`scripts/audit`: whether what is pinned holds together, and whether anything of it is known to be vulnerable."""
