# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""The device's Linux driver as a model in Python: a small kernel, the driver on it, and a machine that has both.

A user begins at `machine`, a reader at `docs/kernel-driver.md`.
"""
