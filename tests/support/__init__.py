# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""What several test modules share: ways to reach a device, and a small driver that is independent of `ihsm.driver`."""
