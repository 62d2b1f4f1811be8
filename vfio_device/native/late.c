/* SPDX-FileCopyrightText: The ihsm authors */
/* SPDX-License-Identifier: Apache-2.0 */
/* The thread that carries out what faults have put off, and what Python has to do with faults. */
#include "engine.h"

#include <stdlib.h>

static void carry_out(struct ihsm_late *late) {
    struct ihsm_ring *ring = late->ring;
    if (late->is_command) /* admin and HSM commands are held by Python */
        ihsm_aes_carry_out_late(ring, late->generation, (const union ihsm_aes_entry *)late->bytes);
    else if (ring->class == IHSM_CLASS_AES)
        ihsm_aes_post_late(ring, late->generation, late->bytes);
    else
        ihsm_hsm_post_late(ring, late->generation, late->bytes);
}

unsigned ihsm_engine_faults_wait(struct ihsm_engine *engine) {
    struct ihsm_due due;
    ihsm_engine_enter(engine);
    do {
        due = ihsm_inject_wait(&engine->inject);
        for (struct ihsm_late *late = due.late, *next; late != NULL; late = next) {
            next = late->next;
            carry_out(late);
            free(late);
        }
        if (due.vectors_late != 0 || due.vectors_spurious != 0)
            ihsm_host_raise(engine->host, due.vectors_late, due.vectors_spurious);
        ihsm_host_kick(engine->host);
    } while (due.happened == 0);
    ihsm_engine_leave(engine);
    return due.happened;
}

void ihsm_engine_faults_look(struct ihsm_engine *engine) {
    ihsm_inject_happened(&engine->inject, IHSM_HAPPENED_CHANGE);
}

void ihsm_engine_faults_close(struct ihsm_engine *engine) { ihsm_inject_close(&engine->inject); }

int64_t ihsm_engine_fault_add(struct ihsm_engine *engine, const struct ihsm_fault *fault) {
    return ihsm_inject_add(&engine->inject, fault);
}

int ihsm_engine_fault_clear(struct ihsm_engine *engine, uint32_t id) { return ihsm_inject_clear(&engine->inject, id); }

int64_t ihsm_engine_fault_hits(struct ihsm_engine *engine, uint32_t id) {
    return ihsm_inject_hits(&engine->inject, id);
}

bool ihsm_engine_fault_stands(struct ihsm_engine *engine, uint32_t id) {
    return ihsm_inject_stands(&engine->inject, id);
}

uint32_t ihsm_engine_fault_hit(struct ihsm_engine *engine, int action, const struct ihsm_event *event) {
    struct ihsm_fault fault;
    return ihsm_inject_hit(&engine->inject, UINT64_C(1) << action, event, &fault) ? fault.id : 0;
}

bool ihsm_engine_gone(struct ihsm_engine *engine, uint32_t registers) {
    return ihsm_inject_gone(&engine->inject, registers);
}

void ihsm_engine_lock_function(struct ihsm_engine *engine) { ihsm_host_lock(engine->host); }
void ihsm_engine_unlock_function(struct ihsm_engine *engine) { ihsm_host_unlock(engine->host); }
