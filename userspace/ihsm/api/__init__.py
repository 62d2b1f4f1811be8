# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Keys by name, as objects that other libraries take: `Hsm`, and what it gives.

A call goes through these layers: a key object (`ec_key`, `rsa_key`, ...) hashes and pads; its `Handle` knows where the
key rests; `Residents` bring it into the device; the `Connection` has the device, and brings it back when it was lost.
"""
