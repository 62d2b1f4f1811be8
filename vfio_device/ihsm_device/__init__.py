# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""The HSM, a server process that presents a PCI function over vfio-user."""
