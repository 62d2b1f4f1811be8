# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Place of a kernel-style driver for the device, in Python; nothing is here yet."""
