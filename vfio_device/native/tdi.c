/* SPDX-FileCopyrightText: The ihsm authors */
/* SPDX-License-Identifier: Apache-2.0 */
#include "tdi.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "abi.h"

#define FIELD(name) ((uint32_t)IHSM_##name##_MASK << IHSM_##name##_SHIFT)
#define VALUE(word, name) ((word) >> IHSM_##name##_SHIFT & IHSM_##name##_MASK)
/* Registers of the capability, as an index. */
#define REGISTER(name) ((IHSM_IDE_##name##_OFFSET - IHSM_IDE_CAPABILITY_OFFSET) / IHSM_IDE_REGISTER_BYTES)
#define WATCHED (FIELD(COMMAND_REGISTER_MEMORY_SPACE) | FIELD(COMMAND_REGISTER_BUS_MASTER))
_Static_assert(sizeof(((struct ihsm_tdi_registers *)NULL)->ide) == IHSM_IDE_BYTES - IHSM_IDE_CAPABILITY_OFFSET,
               "all of the capability's registers");
/* Both kinds of stream have what is looked at here in the same places. */
_Static_assert(FIELD(IDE_LINK_CONTROL_ENABLE) == FIELD(IDE_SELECTIVE_CONTROL_ENABLE) &&
                   FIELD(IDE_LINK_CONTROL_TRAFFIC_CLASS) == FIELD(IDE_SELECTIVE_CONTROL_TRAFFIC_CLASS) &&
                   FIELD(IDE_LINK_CONTROL_STREAM_ID) == FIELD(IDE_SELECTIVE_CONTROL_STREAM_ID),
               "controls of streams");

static const struct {
    size_t control, status;
} streams[] = {{REGISTER(LINK_CONTROL), REGISTER(LINK_STATUS)},
               {REGISTER(SELECTIVE_CONTROL), REGISTER(SELECTIVE_STATUS)}};
#define STREAMS (sizeof streams / sizeof *streams)

struct ihsm_tdi {
    pthread_mutex_t lock;
    int state;
    uint8_t stream; /* the default one; of a locked interface */
    struct ihsm_tdi_registers now;
    uint8_t keyed[32]; /* ids of streams that have a whole set of keys, by bit */
};

struct ihsm_tdi *ihsm_tdi_new(void) {
    struct ihsm_tdi *tdi = calloc(1, sizeof *tdi);
    if (tdi != NULL)
        pthread_mutex_init(&tdi->lock, NULL);
    return tdi;
}

void ihsm_tdi_free(struct ihsm_tdi *tdi) {
    pthread_mutex_destroy(&tdi->lock);
    free(tdi);
}

static bool is_secure(const struct ihsm_tdi *tdi, size_t which) {
    uint32_t control = tdi->now.ide[streams[which].control];
    uint32_t id = VALUE(control, IDE_LINK_CONTROL_STREAM_ID);
    return VALUE(control, IDE_LINK_CONTROL_ENABLE) && (tdi->keyed[id / 8] >> id % 8 & 1);
}

/* Whether an interface can have this stream as its default one. */
static bool is_usable(const struct ihsm_tdi *tdi, uint8_t id) {
    for (size_t which = 0; which < STREAMS; which++) {
        uint32_t control = tdi->now.ide[streams[which].control];
        if (is_secure(tdi, which) && VALUE(control, IDE_LINK_CONTROL_STREAM_ID) == id &&
            VALUE(control, IDE_LINK_CONTROL_TRAFFIC_CLASS) == 0)
            return true;
    }
    return false;
}

static bool is_held(const struct ihsm_tdi *tdi) {
    return tdi->state == IHSM_INTERFACE_STATE_CONFIG_LOCKED || tdi->state == IHSM_INTERFACE_STATE_RUN;
}

/* What a locked interface relies on has changed, or not. */
static bool fail_if(struct ihsm_tdi *tdi, bool changed) {
    if (!is_held(tdi) || !changed)
        return false;
    tdi->state = IHSM_INTERFACE_STATE_ERROR;
    return true;
}

static void put_states(const struct ihsm_tdi *tdi, uint32_t *registers) {
    for (size_t which = 0; which < STREAMS; which++) {
        uint32_t *status = &registers[streams[which].status];
        uint32_t state = is_secure(tdi, which) ? IHSM_STREAM_STATE_SECURE : IHSM_STREAM_STATE_INSECURE;
        *status = (*status & ~FIELD(IDE_STREAM_STATUS_STATE)) | state << IHSM_IDE_STREAM_STATUS_STATE_SHIFT;
    }
}

static void look(const struct ihsm_tdi *tdi, struct ihsm_tdi_registers *registers) {
    *registers = tdi->now;
    put_states(tdi, registers->ide);
}

int ihsm_tdi_look(struct ihsm_tdi *tdi, struct ihsm_tdi_registers *registers) {
    pthread_mutex_lock(&tdi->lock);
    int state = tdi->state;
    look(tdi, registers);
    pthread_mutex_unlock(&tdi->lock);
    return state;
}

int ihsm_tdi_lock(struct ihsm_tdi *tdi, uint8_t stream, struct ihsm_tdi_registers *locked) {
    int result = 0;
    pthread_mutex_lock(&tdi->lock);
    if (!is_usable(tdi, stream)) {
        result = -ENOLINK;
    } else if (tdi->state != IHSM_INTERFACE_STATE_CONFIG_UNLOCKED) {
        result = -EBUSY;
    } else {
        tdi->state = IHSM_INTERFACE_STATE_CONFIG_LOCKED;
        tdi->stream = stream;
        look(tdi, locked);
    }
    pthread_mutex_unlock(&tdi->lock);
    return result;
}

int ihsm_tdi_start(struct ihsm_tdi *tdi) {
    int result = -EBUSY;
    pthread_mutex_lock(&tdi->lock);
    if (tdi->state == IHSM_INTERFACE_STATE_CONFIG_LOCKED) {
        tdi->state = IHSM_INTERFACE_STATE_RUN;
        result = 0;
    }
    pthread_mutex_unlock(&tdi->lock);
    return result;
}

void ihsm_tdi_stop(struct ihsm_tdi *tdi) {
    pthread_mutex_lock(&tdi->lock);
    tdi->state = IHSM_INTERFACE_STATE_CONFIG_UNLOCKED;
    pthread_mutex_unlock(&tdi->lock);
}

bool ihsm_tdi_key(struct ihsm_tdi *tdi, uint8_t stream, bool keyed) {
    uint8_t bit = (uint8_t)(1U << stream % 8);
    pthread_mutex_lock(&tdi->lock);
    if (keyed)
        tdi->keyed[stream / 8] |= bit;
    else
        tdi->keyed[stream / 8] &= (uint8_t)~bit;
    bool failed = fail_if(tdi, !is_usable(tdi, tdi->stream));
    pthread_mutex_unlock(&tdi->lock);
    return failed;
}

bool ihsm_tdi_follow(struct ihsm_tdi *tdi, const struct ihsm_tdi_registers *registers) {
    pthread_mutex_lock(&tdi->lock);
    bool changed = ((tdi->now.command ^ registers->command) & WATCHED) ||
                   memcmp(tdi->now.bars, registers->bars, sizeof registers->bars) != 0;
    tdi->now = *registers;
    bool failed = fail_if(tdi, changed || !is_usable(tdi, tdi->stream));
    pthread_mutex_unlock(&tdi->lock);
    return failed;
}

void ihsm_tdi_reset(struct ihsm_tdi *tdi, const struct ihsm_tdi_registers *registers, bool lost) {
    pthread_mutex_lock(&tdi->lock);
    tdi->now = *registers;
    memset(tdi->keyed, 0, sizeof tdi->keyed);
    (void)fail_if(tdi, true);
    if (lost)
        tdi->state = IHSM_INTERFACE_STATE_CONFIG_UNLOCKED;
    pthread_mutex_unlock(&tdi->lock);
}

void ihsm_tdi_show(struct ihsm_tdi *tdi, uint8_t *capability) {
    uint32_t registers[sizeof tdi->now.ide / sizeof *tdi->now.ide];
    memcpy(registers, capability + IHSM_IDE_CAPABILITY_OFFSET, sizeof registers);
    pthread_mutex_lock(&tdi->lock);
    put_states(tdi, registers);
    pthread_mutex_unlock(&tdi->lock);
    memcpy(capability + IHSM_IDE_CAPABILITY_OFFSET, registers, sizeof registers);
}
