/* SPDX-FileCopyrightText: The ihsm authors */
/* SPDX-License-Identifier: Apache-2.0 */
/* A driver without a mistake. */
#include "bench.h"

MODULE_DESCRIPTION("A driver of the function without a mistake");
