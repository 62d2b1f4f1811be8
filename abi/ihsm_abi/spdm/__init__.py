# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""SPDM 1.2 and secured messages 1.1, as the device speaks them over a mailbox (spec 06 §2.1; DMTF DSP0274, DSP0277).

`codes`, `algorithms`: numbers. `messages`: layouts, declared once for both sides by `layout`. `measurements`, `chain`,
`opaque`: what messages carry. `signing`, `key_schedule`, `secured`: what is signed, derived, encrypted.
"""
