/* SPDX-FileCopyrightText: The ihsm authors */
/* SPDX-License-Identifier: Apache-2.0 */
/* Faults and what they hit. */
#include "inject.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "deadline.h"

#define NEVER INT64_MAX
#define NS_PER_MS INT64_C(1000000)
#define NS_PER_US INT64_C(1000)
#define STORM_TOLD_NS NS_PER_MS
#define ONCE_ACTIONS                                                                                                   \
    (IHSM_ACTION_BIT(SPURIOUS_INTERRUPT) | IHSM_ACTION_BIT(REMOVE_FUNCTION) | IHSM_ACTION_BIT(PAUSE_PROCESS))

void ihsm_inject_init(struct ihsm_inject *inject, struct ihsm_trace *trace) {
    inject->trace = trace;
    pthread_mutex_init(&inject->lock, NULL);
    pthread_cond_init(&inject->changed, NULL);
}

void ihsm_inject_close(struct ihsm_inject *inject) { ihsm_inject_happened(inject, IHSM_HAPPENED_CLOSE); }

void ihsm_inject_destroy(struct ihsm_inject *inject) {
    ihsm_inject_forget(inject, NULL);
    pthread_cond_destroy(&inject->changed);
    pthread_mutex_destroy(&inject->lock);
}

/* -- the faults; lock held */

static void tell(struct ihsm_inject *inject, unsigned what) {
    inject->happened |= what;
    pthread_cond_signal(&inject->changed);
}

static bool spent(const struct ihsm_fault_state *state) {
    return state->fault.count != 0 && state->hits >= state->fault.count;
}

static void renew_flags(struct ihsm_inject *inject) {
    int64_t now = ihsm_now_ns();
    /* The completions behind which one waits must be counted, though its fault may have done all it does. */
    uint64_t flags = inject->overtaken > 0 ? IHSM_ACTION_BIT(REORDER_COMPLETIONS) : 0;
    for (unsigned i = 0; i < inject->count; i++)
        if (!spent(&inject->faults[i]) && now < inject->faults[i].end_ns)
            flags |= UINT64_C(1) << inject->faults[i].fault.action;
    atomic_store_explicit(&inject->flags, flags, memory_order_relaxed);
}

static struct ihsm_fault_state *find(struct ihsm_inject *inject, uint32_t id) {
    for (unsigned i = 0; i < inject->count; i++)
        if (inject->faults[i].fault.id == id)
            return &inject->faults[i];
    return NULL;
}

static bool stands(struct ihsm_inject *inject, uint32_t id) {
    const struct ihsm_fault_state *state = find(inject, id);
    return state != NULL && ihsm_now_ns() < state->end_ns;
}

static bool fits(int64_t wanted, int64_t value) { return wanted < 0 || wanted == value; }

static bool matches(const struct ihsm_fault *fault, const struct ihsm_event *event) {
    return fits(fault->queue, event->queue) && fits(fault->opcode, event->opcode) &&
           fits(fault->session, event->session) && fits(fault->vector, event->vector) &&
           fits(fault->operation, event->operation) &&
           (fault->registers == 0 || (fault->registers & event->registers) != 0) &&
           (fault->parts == 0 || (fault->parts & event->parts) != 0);
}

static bool is_time(const struct ihsm_fault_state *state, int64_t now) {
    return now >= state->begin_ns && now < state->end_ns;
}

int64_t ihsm_inject_add(struct ihsm_inject *inject, const struct ihsm_fault *fault) {
    int64_t result = -ENOSPC;
    pthread_mutex_lock(&inject->lock);
    if (inject->count < IHSM_FAULTS) {
        struct ihsm_fault_state *state = &inject->faults[inject->count++];
        int64_t begin = ihsm_now_ns() + (int64_t)fault->after_ms * NS_PER_MS;
        *state = (struct ihsm_fault_state){.fault = *fault,
                                           .begin_ns = begin,
                                           .end_ns =
                                               fault->for_ms == 0 ? NEVER : begin + (int64_t)fault->for_ms * NS_PER_MS};
        state->due_ns = begin;
        state->fault.id = ++inject->last_id;
        result = state->fault.id;
        renew_flags(inject);
        pthread_cond_signal(&inject->changed);
    }
    pthread_mutex_unlock(&inject->lock);
    return result;
}

int ihsm_inject_clear(struct ihsm_inject *inject, uint32_t id) {
    pthread_mutex_lock(&inject->lock);
    struct ihsm_fault_state *state = find(inject, id);
    if (state != NULL) {
        struct ihsm_fault_state *end = &inject->faults[inject->count--];
        memmove(state, state + 1, (size_t)(end - state - 1) * sizeof *state);
        renew_flags(inject);
        tell(inject, IHSM_HAPPENED_CHANGE);
    }
    pthread_mutex_unlock(&inject->lock);
    return state != NULL ? 0 : -ENOENT;
}

int64_t ihsm_inject_hits(struct ihsm_inject *inject, uint32_t id) {
    pthread_mutex_lock(&inject->lock);
    const struct ihsm_fault_state *state = find(inject, id);
    int64_t hits = state != NULL ? (int64_t)state->hits : -ENOENT;
    pthread_mutex_unlock(&inject->lock);
    return hits;
}

bool ihsm_inject_stands(struct ihsm_inject *inject, uint32_t id) {
    pthread_mutex_lock(&inject->lock);
    bool result = stands(inject, id);
    pthread_mutex_unlock(&inject->lock);
    return result;
}

/* -- events */

struct ihsm_event ihsm_event_none(void) {
    return (struct ihsm_event){.operation = -1, .queue = -1, .opcode = -1, .session = -1, .vector = -1};
}

/* A number that depends on the two alone, and looks like chance (Steele, Lea, Flood: SplitMix64). */
static uint64_t chance(uint64_t seed, uint64_t number) {
    uint64_t mixed = (seed << 32 ^ number) * UINT64_C(0x9E3779B97F4A7C15) + UINT64_C(0x9E3779B97F4A7C15);
    mixed = (mixed ^ mixed >> 30) * UINT64_C(0xBF58476D1CE4E5B9);
    mixed = (mixed ^ mixed >> 27) * UINT64_C(0x94D049BB133111EB);
    return mixed ^ mixed >> 31;
}

/* Whether the event of that number is one of those that the fault hits, as far as it is not spent. */
static bool chosen(const struct ihsm_fault *fault, uint64_t number) {
    return number >= fault->nth && (fault->per_mille == 0 || chance(fault->seed, number) % 1000 < fault->per_mille);
}

bool ihsm_inject_hit(struct ihsm_inject *inject, uint64_t actions, const struct ihsm_event *event,
                     struct ihsm_fault *fault) {
    bool hit = false;
    int64_t now = ihsm_now_ns();
    pthread_mutex_lock(&inject->lock);
    for (unsigned i = 0; i < inject->count; i++) {
        struct ihsm_fault_state *state = &inject->faults[i];
        if (!(actions >> state->fault.action & 1) || !is_time(state, now) || !matches(&state->fault, event))
            continue;
        state->seen++;
        if (hit || !chosen(&state->fault, state->seen) || spent(state))
            continue;
        hit = true;
        state->hits++;
        *fault = state->fault;
        fault->chance = chance(~(uint64_t)fault->seed, state->seen);
    }
    if (hit) {
        ihsm_trace_fault(inject->trace, fault->id, event->queue, event->vector);
        renew_flags(inject);
        tell(inject, fault->action == IHSM_ACTION_RESET_FUNCTION ? IHSM_HAPPENED_CHANGE | IHSM_HAPPENED_RESET
                                                                 : IHSM_HAPPENED_CHANGE);
    }
    pthread_mutex_unlock(&inject->lock);
    return hit;
}

bool ihsm_inject_gone(struct ihsm_inject *inject, uint32_t registers) {
    bool gone = false;
    int64_t now = ihsm_now_ns();
    pthread_mutex_lock(&inject->lock);
    for (unsigned i = 0; !gone && i < inject->count; i++) {
        const struct ihsm_fault_state *state = &inject->faults[i];
        gone = state->fault.action == IHSM_ACTION_ALL_ONES && is_time(state, now) && !spent(state) &&
               chosen(&state->fault, state->seen + 1) &&
               (state->fault.registers == 0 || (state->fault.registers & registers) != 0);
    }
    pthread_mutex_unlock(&inject->lock);
    return gone;
}

/* -- what is put off */

int64_t ihsm_inject_after_ms(uint64_t ms) { return ihsm_now_ns() + (int64_t)ms * NS_PER_MS; }

bool ihsm_inject_put_off(struct ihsm_inject *inject, const struct ihsm_late *what, const void *bytes, size_t len) {
    struct ihsm_late *late = malloc(sizeof *late);
    if (late == NULL)
        return false;
    *late = *what;
    memcpy(late->bytes, bytes, len);
    pthread_mutex_lock(&inject->lock);
    struct ihsm_late **end = &inject->late;
    while (*end != NULL)
        end = &(*end)->next;
    *end = late;
    if (late->behind > 0) {
        inject->overtaken++;
        renew_flags(inject);
    }
    pthread_cond_signal(&inject->changed);
    pthread_mutex_unlock(&inject->lock);
    return true;
}

/* Take out of the list what *link leads to; lock held. */
static struct ihsm_late *take_out(struct ihsm_inject *inject, struct ihsm_late **link) {
    struct ihsm_late *late = *link;
    *link = late->next;
    late->next = NULL;
    if (late->behind > 0) {
        inject->overtaken--;
        renew_flags(inject);
    }
    return late;
}

/* The link to the completion of the ring that waits for others; lock held. */
static struct ihsm_late **find_overtaken(struct ihsm_inject *inject, const struct ihsm_ring *ring) {
    for (struct ihsm_late **link = &inject->late; *link != NULL; link = &(*link)->next)
        if ((*link)->ring == ring && (*link)->behind > 0)
            return link;
    return NULL;
}

bool ihsm_inject_has_overtaken(struct ihsm_inject *inject, const struct ihsm_ring *ring) {
    pthread_mutex_lock(&inject->lock);
    bool found = find_overtaken(inject, ring) != NULL;
    pthread_mutex_unlock(&inject->lock);
    return found;
}

bool ihsm_inject_take_overtaken(struct ihsm_inject *inject, const struct ihsm_ring *ring, bool all, void *bytes,
                                size_t len) {
    struct ihsm_late *taken = NULL;
    pthread_mutex_lock(&inject->lock);
    struct ihsm_late **link = find_overtaken(inject, ring);
    if (link != NULL && (all || (*link)->behind == 1))
        taken = take_out(inject, link);
    else if (link != NULL)
        (*link)->behind--;
    pthread_mutex_unlock(&inject->lock);
    if (taken == NULL)
        return false;
    memcpy(bytes, taken->bytes, len);
    free(taken);
    return true;
}

void ihsm_inject_forget(struct ihsm_inject *inject, const struct ihsm_ring *ring) {
    pthread_mutex_lock(&inject->lock);
    for (struct ihsm_late **link = &inject->late; *link != NULL;)
        if (ring == NULL || (*link)->ring == ring)
            free(take_out(inject, link));
        else
            link = &(*link)->next;
    pthread_mutex_unlock(&inject->lock);
}

void ihsm_inject_put_off_vector(struct ihsm_inject *inject, unsigned vector, uint64_t delay_ms) {
    int64_t due = ihsm_now_ns() + (int64_t)delay_ms * NS_PER_MS;
    pthread_mutex_lock(&inject->lock);
    if (!(inject->vectors_late >> vector & 1) || due < inject->vector_due_ns[vector])
        inject->vector_due_ns[vector] = due;
    inject->vectors_late |= UINT32_C(1) << vector;
    pthread_cond_signal(&inject->changed);
    pthread_mutex_unlock(&inject->lock);
}

void ihsm_inject_forget_vectors(struct ihsm_inject *inject, uint32_t vectors) {
    pthread_mutex_lock(&inject->lock);
    inject->vectors_late &= ~vectors;
    pthread_mutex_unlock(&inject->lock);
}

void ihsm_inject_happened(struct ihsm_inject *inject, unsigned what) {
    pthread_mutex_lock(&inject->lock);
    tell(inject, what);
    pthread_mutex_unlock(&inject->lock);
}

/* -- what is due; lock held. *next becomes the time of what comes first of the rest. */

static void sooner(int64_t *next, int64_t due) {
    if (due < *next)
        *next = due;
}

/* In the order in which it was put off. */
static void take_late(struct ihsm_inject *inject, int64_t now, struct ihsm_due *due, int64_t *next) {
    struct ihsm_late **end = &due->late;
    for (struct ihsm_late **link = &inject->late, *late; (late = *link) != NULL;) {
        if (late->held_by != 0 ? !stands(inject, late->held_by) : now >= late->due_ns) {
            *end = take_out(inject, link);
            end = &late->next;
            continue;
        }
        if (late->held_by == 0)
            sooner(next, late->due_ns);
        link = &late->next;
    }
}

static void take_vectors(struct ihsm_inject *inject, int64_t now, struct ihsm_due *due, int64_t *next) {
    for (uint32_t left = inject->vectors_late; left != 0; left &= left - 1) {
        unsigned vector = (unsigned)__builtin_ctz(left);
        if (now >= inject->vector_due_ns[vector])
            due->vectors_late |= UINT32_C(1) << vector;
        else
            sooner(next, inject->vector_due_ns[vector]);
    }
    inject->vectors_late &= ~due->vectors_late;
}

/* Something that happens once, by the clock. */
static void take_once(struct ihsm_trace *trace, struct ihsm_fault_state *state, int64_t now, struct ihsm_due *due,
                      int64_t *next) {
    if (state->hits > 0 || now >= state->end_ns)
        return;
    if (now < state->begin_ns) {
        sooner(next, state->begin_ns);
        return;
    }
    state->hits = 1;
    bool spurious = state->fault.action == IHSM_ACTION_SPURIOUS_INTERRUPT;
    ihsm_trace_fault(trace, state->fault.id, -1, spurious ? (int)state->fault.value : -1);
    due->happened |= IHSM_HAPPENED_CHANGE;
    if (spurious)
        due->vectors_spurious |= UINT32_C(1) << state->fault.value;
    else
        due->happened |= IHSM_HAPPENED_TIME;
}

/* A vector that comes again and again. Who waits for hits is told of many at once, so that it keeps nobody busy. */
static void take_storm(struct ihsm_trace *trace, struct ihsm_fault_state *state, int64_t now, struct ihsm_due *due,
                       int64_t *next) {
    if (!spent(state) && now >= state->due_ns && now < state->end_ns) {
        state->hits++;
        state->untold = true;
        ihsm_trace_fault(trace, state->fault.id, -1, (int)state->fault.value);
        state->due_ns = now + (int64_t)state->fault.every_us * NS_PER_US;
        due->vectors_spurious |= UINT32_C(1) << state->fault.value;
    }
    if (state->untold && (spent(state) || now >= state->told_ns + STORM_TOLD_NS)) {
        state->untold = false;
        state->told_ns = now;
        due->happened |= IHSM_HAPPENED_CHANGE;
    }
    if (state->untold)
        sooner(next, state->told_ns + STORM_TOLD_NS);
    if (!spent(state) && now < state->end_ns)
        sooner(next, state->due_ns);
}

/* Faults that begin or end by the clock. */
static void take_times(struct ihsm_inject *inject, int64_t now, struct ihsm_due *due, int64_t *next) {
    for (unsigned i = 0; i < inject->count; i++) {
        struct ihsm_fault_state *state = &inject->faults[i];
        if (ONCE_ACTIONS >> state->fault.action & 1)
            take_once(inject->trace, state, now, due, next);
        else if (state->fault.action == IHSM_ACTION_STORM_INTERRUPT)
            take_storm(inject->trace, state, now, due, next);
        if (!state->end_told && now >= state->end_ns) {
            state->end_told = true;
            due->happened |= IHSM_HAPPENED_CHANGE;
        } else if (!state->end_told) {
            sooner(next, state->end_ns);
        }
    }
}

static void pause_until(struct ihsm_inject *inject, int64_t ns) {
    struct timespec deadline = {.tv_sec = ns / (1000 * NS_PER_MS), .tv_nsec = ns % (1000 * NS_PER_MS)};
    if (ns == NEVER)
        pthread_cond_wait(&inject->changed, &inject->lock);
    else
        pthread_cond_clockwait(&inject->changed, &inject->lock, CLOCK_MONOTONIC, &deadline);
}

struct ihsm_due ihsm_inject_wait(struct ihsm_inject *inject) {
    struct ihsm_due due = {0};
    pthread_mutex_lock(&inject->lock);
    for (;;) {
        int64_t now = ihsm_now_ns(), next = NEVER;
        take_times(inject, now, &due, &next);
        take_late(inject, now, &due, &next);
        take_vectors(inject, now, &due, &next);
        due.happened |= inject->happened;
        inject->happened &= IHSM_HAPPENED_CLOSE; /* for good */
        if (due.late != NULL || due.vectors_late != 0 || due.vectors_spurious != 0 || due.happened != 0)
            break;
        pause_until(inject, next);
    }
    pthread_mutex_unlock(&inject->lock);
    return due;
}
