/* SPDX-FileCopyrightText: The ihsm authors */
/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Mailboxes for data objects (PCI Express Base 6.x 6.30 and 7.9.24, spec 06 §2.2).
 *
 * A mailbox takes dwords, hands on whole objects, and gives the dwords of the answer. It knows no transport: whoever
 * has the configuration space hands it the writes and asks it for the registers. All mailboxes of a line share its one
 * lock, a leaf that is held for copying an object at most; nothing here waits for an answer.
 */
#pragma once
#include "doe.cdef.h"
