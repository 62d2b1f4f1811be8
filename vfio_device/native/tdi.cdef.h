/* SPDX-FileCopyrightText: The ihsm authors */
/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What Python sees of interfaces of trusted I/O (tdi.h). Read by cffi and included by C: declarations only.
 */
#pragma once
#include <stdbool.h>
#include <stdint.h>

struct ihsm_tdi; /* the interface of one function, and its streams */

/* Registers of configuration space that matter to it. */
struct ihsm_tdi_registers {
    uint16_t command, msix_control;
    uint32_t bars[6];
    uint32_t ide[9]; /* the capability from behind its header on */
};

struct ihsm_tdi *ihsm_tdi_new(void); /* NULL: no memory */
void ihsm_tdi_free(struct ihsm_tdi *tdi);
/* enum ihsm_interface_state; the registers as they stand, with the states of streams. */
int ihsm_tdi_look(struct ihsm_tdi *tdi, struct ihsm_tdi_registers *registers);

/* LOCK with a default stream, and the registers then; -ENOLINK: no secure stream of that id, -EBUSY: not unlocked. */
int ihsm_tdi_lock(struct ihsm_tdi *tdi, uint8_t stream, struct ihsm_tdi_registers *locked);
/* START; -EBUSY: not locked. */
int ihsm_tdi_start(struct ihsm_tdi *tdi);
/* Unlocked again, whatever it was. */
void ihsm_tdi_stop(struct ihsm_tdi *tdi);
/* There is a whole set of keys for streams of this id, or none any more. True: that has led to the state ERROR. */
bool ihsm_tdi_key(struct ihsm_tdi *tdi, uint8_t stream, bool keyed);

/* For whoever has the configuration space. The registers may have changed; true: that has led to the state ERROR. */
bool ihsm_tdi_follow(struct ihsm_tdi *tdi, const struct ihsm_tdi_registers *registers);
/* The function was reset: a locked interface is in the state ERROR; unlocked if the client was lost. No key is left. */
void ihsm_tdi_reset(struct ihsm_tdi *tdi, const struct ihsm_tdi_registers *registers, bool lost);
/* The status registers of streams, into the bytes of the capability. */
void ihsm_tdi_show(struct ihsm_tdi *tdi, uint8_t *capability);
