# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""`ihsm bench`: what the device costs and yields, beside peers measured in the same run."""
