# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""`ihsm conformance`: a driver meets what can happen to one, and who sees what it does says what is wrong."""
