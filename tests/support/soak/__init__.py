# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""`scripts/soak`: a served device under load and attack for as long as one likes, and what it grew by."""
