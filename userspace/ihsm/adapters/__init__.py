# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Keys of an `Hsm` in libraries that do not take pyca/cryptography's private keys as they are; a module for each."""
