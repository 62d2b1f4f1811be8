# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
from ihsm.api.hsm import Hsm as Hsm
