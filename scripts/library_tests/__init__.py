# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""`scripts/test-libraries`: other people's libraries, in their current versions, on keys in a device."""
