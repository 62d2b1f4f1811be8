# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""`ihsm conformance`: a driver is made to meet everything that can happen, and who sees what it does says what is wrong."""
