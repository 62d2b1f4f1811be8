/* SPDX-FileCopyrightText: The ihsm authors */
/* SPDX-License-Identifier: Apache-2.0 */
/*
 * State of a function's interface (TDISP) and of its IDE streams (PCI Express Base 6.x chapter 11 and 6.33, spec 06
 * §2.3, §2.4).
 *
 * Requests come from the thread that answers data objects, changes of configuration space from the function's owner.
 * Neither waits for the other: what matters of configuration space is kept here as it was last seen, under a lock of
 * its own, which is a leaf. Whoever is told that the interface is in the state ERROR now ends queues and keys.
 */
#pragma once
#include "tdi.cdef.h"
