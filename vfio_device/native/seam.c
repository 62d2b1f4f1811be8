/* SPDX-FileCopyrightText: The ihsm authors */
/* SPDX-License-Identifier: Apache-2.0 */
/* Seams; built with the option test_seams alone. */
#include "seam.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>

#include "deadline.h"

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static struct {
    bool closed;
    unsigned let_pass, standing;
    uint64_t reached;
} places[IHSM_SEAM_PLACES];
static atomic_bool without_bound, littering, spoiling;
static atomic_ullong spoiled;

void ihsm_seam_reach(enum ihsm_seam place) {
    pthread_mutex_lock(&lock);
    places[place].reached++;
    pthread_cond_broadcast(&changed);
    if (places[place].closed && places[place].let_pass > 0) {
        places[place].let_pass--;
    } else if (places[place].closed) {
        places[place].standing++;
        while (places[place].closed)
            pthread_cond_wait(&changed, &lock);
        places[place].standing--;
    }
    pthread_mutex_unlock(&lock);
}

void ihsm_seam_close(int place, unsigned let_pass) {
    pthread_mutex_lock(&lock);
    places[place].closed = true;
    places[place].let_pass = let_pass;
    pthread_mutex_unlock(&lock);
}

void ihsm_seam_open(int place) {
    pthread_mutex_lock(&lock);
    places[place].closed = false;
    pthread_cond_broadcast(&changed);
    pthread_mutex_unlock(&lock);
}

bool ihsm_seam_wait_standing(int place, int timeout_ms) {
    struct timespec deadline = ihsm_deadline_after(timeout_ms * INT64_C(1000));
    int error = 0;
    pthread_mutex_lock(&lock);
    while (places[place].standing == 0 && error != ETIMEDOUT)
        error = pthread_cond_clockwait(&changed, &lock, CLOCK_MONOTONIC, &deadline);
    bool stands = places[place].standing > 0;
    pthread_mutex_unlock(&lock);
    return stands;
}

bool ihsm_seam_wait_reached(int place, uint64_t times, int timeout_ms) {
    struct timespec deadline = ihsm_deadline_after(timeout_ms * INT64_C(1000));
    int error = 0;
    pthread_mutex_lock(&lock);
    while (places[place].reached < times && error != ETIMEDOUT)
        error = pthread_cond_clockwait(&changed, &lock, CLOCK_MONOTONIC, &deadline);
    bool reached = places[place].reached >= times;
    pthread_mutex_unlock(&lock);
    return reached;
}

uint64_t ihsm_seam_reached(int place) {
    pthread_mutex_lock(&lock);
    uint64_t reached = places[place].reached;
    pthread_mutex_unlock(&lock);
    return reached;
}

void ihsm_seam_reset(void) {
    pthread_mutex_lock(&lock);
    for (unsigned place = 0; place < IHSM_SEAM_PLACES; place++) {
        places[place].closed = false;
        places[place].reached = 0;
    }
    pthread_cond_broadcast(&changed);
    pthread_mutex_unlock(&lock);
    without_bound = false;
    littering = false;
    spoiling = false;
    spoiled = 0;
}

void ihsm_seam_sleep_without_bound(bool on) { without_bound = on; }

bool ihsm_seam_sleeps_without_bound(void) { return without_bound; }

/* Less than the key store burns at least (BURN_LIGHT), frames between the two included. */
#define LITTER_BYTES 2048
#define LITTER 0x5EC2E75EC2E75EC2u

void ihsm_seam_litter_stack(bool on) { littering = on; }

/* Not inlined, like ks_burn_stack: the frame lies where those of library calls lie. */
__attribute__((noinline)) void ihsm_seam_litter(void) {
    volatile uint64_t frame[LITTER_BYTES / sizeof(uint64_t)];
    for (size_t i = 0; littering && i < sizeof frame / sizeof *frame; i++)
        frame[i] = LITTER;
}

__attribute__((noinline)) size_t ihsm_seam_litter_left(void) {
    volatile uint64_t frame[2 * LITTER_BYTES / sizeof(uint64_t)];
    size_t left = 0;
    __asm__ volatile("" : "=m"(frame)); /* whatever lies there, as far as the compiler knows */
    for (size_t i = 0; i < sizeof frame / sizeof *frame; i++)
        left += frame[i] == LITTER ? sizeof *frame : 0;
    return left;
}

void ihsm_seam_spoil_reads(bool on) { spoiling = on; }

uint64_t ihsm_seam_spoiled(void) { return spoiled; }

void ihsm_seam_spoil(const void *at, size_t len, const void *result) {
    if (!spoiling)
        return;
    uintptr_t source = (uintptr_t)at, written = (uintptr_t)result;
    if (result != NULL && source < written + len && written < source + len)
        return; /* in place: what has been read is there no more */
    /* No byte comes back within 256 reads: a generator of full period. */
    for (volatile uint8_t *byte = (volatile uint8_t *)source; byte < (volatile uint8_t *)source + len; byte++)
        *byte = (uint8_t)(*byte * 5 + 0x5B);
    spoiled += len;
}
