/* SPDX-FileCopyrightText: The ihsm authors */
/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The express lane: HSM commands that change no state, carried out without Python.
 *
 * It takes a command only if it succeeds: its bytes are the canonical ones, the session is live, the key there, usable,
 * and the caller's. Whatever else comes, errors above all, is left as it is to Python, which is the specification.
 */
#pragma once
#include <stdbool.h>

#include "engine.h"

enum ihsm_express {
    IHSM_EXPRESS_NOT, /* it is Python's */
    IHSM_EXPRESS_DONE,
    IHSM_EXPRESS_SLOW, /* it takes milliseconds and the caller has not said that it is one of those who wait so long */
};

/* The engine is kept by the caller; nothing has been written unless the command is done. */
enum ihsm_express ihsm_express(struct ihsm_engine *engine, const struct ihsm_command *command, bool may_be_slow);
