/* SPDX-FileCopyrightText: The ihsm authors */
/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the standard leaves undefined is an error here, which stays until an abort: more dwords than an object may have,
 * a dword while an object is being answered, a pop without a dword to pop, an object that is shorter or longer than it
 * says, an object before the answer to the last was read. Accesses of another width than a dword change nothing.
 */
#include "doe.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "abi.h"

#define FIELD(name) ((uint32_t)IHSM_##name##_MASK << IHSM_##name##_SHIFT)
#define MIN_DWORDS IHSM_OBJECT_MIN_DWORDS
#define MAX_DWORDS IHSM_OBJECT_MAX_DWORDS
#define DWORD sizeof(uint32_t)
_Static_assert(sizeof(((struct ihsm_doe_told *)NULL)->data) == MAX_DWORDS * DWORD, "room for every object");

struct ihsm_doe {
    struct ihsm_doe_line *line;
    struct ihsm_doe *next; /* in the line */
    bool queued;
    uint64_t id, transfer;
    unsigned written, answered, read; /* dwords of `in` and `out` that there are, and of `out` that were read */
    bool busy, error;
    bool waiting;    /* `in` is a whole object that nobody has taken */
    bool used;       /* an object has been taken since the last reset that was told of */
    uint32_t causes; /* resets to tell of */
    uint32_t in[MAX_DWORDS], out[MAX_DWORDS];
};

struct ihsm_doe_line {
    pthread_mutex_t lock; /* of all that is here, and of all mailboxes */
    pthread_cond_t filled;
    struct ihsm_doe *first, *last;
    struct ihsm_doe *told; /* whose object was pulled last, until the next pull */
    bool closed;
};

struct ihsm_doe_line *ihsm_doe_line_new(void) {
    struct ihsm_doe_line *line = calloc(1, sizeof *line);
    if (line != NULL) {
        pthread_mutex_init(&line->lock, NULL);
        pthread_cond_init(&line->filled, NULL);
    }
    return line;
}

void ihsm_doe_line_close(struct ihsm_doe_line *line) {
    pthread_mutex_lock(&line->lock);
    line->closed = true;
    pthread_cond_broadcast(&line->filled);
    pthread_mutex_unlock(&line->lock);
}

void ihsm_doe_line_free(struct ihsm_doe_line *line) {
    pthread_cond_destroy(&line->filled);
    pthread_mutex_destroy(&line->lock);
    free(line);
}

static void enqueue(struct ihsm_doe *doe) {
    struct ihsm_doe_line *line = doe->line;
    if (doe->queued)
        return;
    doe->queued = true;
    doe->next = NULL;
    if (line->first == NULL)
        line->first = doe;
    else
        line->last->next = doe;
    line->last = doe;
    pthread_cond_signal(&line->filled);
}

static void leave(struct ihsm_doe *doe) {
    struct ihsm_doe_line *line = doe->line;
    struct ihsm_doe *before = NULL;
    for (struct ihsm_doe *at = line->first; at != doe; at = at->next)
        before = at;
    if (before == NULL)
        line->first = doe->next;
    else
        before->next = doe->next;
    if (line->last == doe)
        line->last = before;
    doe->queued = false;
}

/* Nothing is left of a transfer, and what still comes of it is void. */
static void drop(struct ihsm_doe *doe) {
    doe->transfer++;
    doe->written = doe->answered = doe->read = 0;
    doe->busy = doe->waiting = doe->error = false;
}

static void fail(struct ihsm_doe *doe) {
    drop(doe);
    doe->error = true;
}

/* Whoever pulls is done with what it has pulled before: without an answer that has failed. */
static void settle(struct ihsm_doe_line *line) {
    struct ihsm_doe *doe = line->told;
    line->told = NULL;
    if (doe != NULL && doe->busy && !doe->waiting)
        fail(doe);
}

/* What a mailbox has to tell; IHSM_DOE_CLOSED: nothing any more. */
static enum ihsm_doe_event take(struct ihsm_doe *doe, struct ihsm_doe_told *told) {
    told->id = doe->id;
    if (doe->causes != 0) {
        told->causes = doe->causes;
        doe->causes = 0;
        if (doe->waiting)
            enqueue(doe);
        return IHSM_DOE_FORGET;
    }
    if (!doe->waiting)
        return IHSM_DOE_CLOSED;
    doe->waiting = false;
    doe->used = true;
    doe->line->told = doe;
    told->transfer = doe->transfer;
    told->size = (uint32_t)(doe->written * DWORD);
    memcpy(told->data, doe->in, told->size);
    return IHSM_DOE_OBJECT;
}

int ihsm_doe_pull(struct ihsm_doe_line *line, struct ihsm_doe_told *told) {
    enum ihsm_doe_event event = IHSM_DOE_CLOSED;
    pthread_mutex_lock(&line->lock);
    settle(line);
    while (!line->closed && event == IHSM_DOE_CLOSED) {
        struct ihsm_doe *doe = line->first;
        if (doe == NULL) {
            pthread_cond_wait(&line->filled, &line->lock);
            continue;
        }
        leave(doe);
        event = take(doe, told);
    }
    pthread_mutex_unlock(&line->lock);
    return event;
}

struct ihsm_doe *ihsm_doe_new(struct ihsm_doe_line *line, uint64_t id) {
    struct ihsm_doe *doe = calloc(1, sizeof *doe);
    if (doe != NULL) {
        doe->line = line;
        doe->id = id;
    }
    return doe;
}

void ihsm_doe_free(struct ihsm_doe *doe) {
    pthread_mutex_lock(&doe->line->lock);
    if (doe->queued)
        leave(doe);
    if (doe->line->told == doe)
        doe->line->told = NULL;
    pthread_mutex_unlock(&doe->line->lock);
    free(doe);
}

void ihsm_doe_reset(struct ihsm_doe *doe, int cause) {
    pthread_mutex_lock(&doe->line->lock);
    drop(doe);
    if (doe->used) {
        doe->used = false;
        doe->causes |= UINT32_C(1) << cause;
        enqueue(doe);
    }
    pthread_mutex_unlock(&doe->line->lock);
}

static void go(struct ihsm_doe *doe) {
    if (doe->busy || doe->answered != 0 || doe->written < MIN_DWORDS ||
        (doe->in[1] & FIELD(OBJECT_LENGTH_DWORDS)) != doe->written) {
        fail(doe);
        return;
    }
    doe->busy = doe->waiting = true;
    enqueue(doe);
}

static void push(struct ihsm_doe *doe, uint32_t dword) {
    if (doe->busy || doe->written == MAX_DWORDS)
        fail(doe);
    else
        doe->in[doe->written++] = dword;
}

static void pop(struct ihsm_doe *doe) {
    if (doe->answered == 0)
        fail(doe);
    else if (++doe->read == doe->answered)
        doe->answered = doe->read = 0;
}

void ihsm_doe_write(struct ihsm_doe *doe, size_t offset, const uint8_t *data, size_t size) {
    uint32_t value;
    if (size != sizeof value)
        return;
    memcpy(&value, data, sizeof value);
    pthread_mutex_lock(&doe->line->lock);
    if (offset == IHSM_DOE_CONTROL_OFFSET && (value & FIELD(DOE_CONTROL_ABORT)))
        drop(doe);
    else if (doe->error)
        ; /* until an abort */
    else if (offset == IHSM_DOE_CONTROL_OFFSET && (value & FIELD(DOE_CONTROL_GO)))
        go(doe);
    else if (offset == IHSM_DOE_WRITE_MAILBOX_OFFSET)
        push(doe, value);
    else if (offset == IHSM_DOE_READ_MAILBOX_OFFSET)
        pop(doe);
    pthread_mutex_unlock(&doe->line->lock);
}

void ihsm_doe_show(struct ihsm_doe *doe, uint8_t *capability) {
    pthread_mutex_lock(&doe->line->lock);
    uint32_t status = (doe->busy ? FIELD(DOE_STATUS_BUSY) : 0) | (doe->error ? FIELD(DOE_STATUS_ERROR) : 0) |
                      (doe->answered != 0 ? FIELD(DOE_STATUS_OBJECT_READY) : 0);
    uint32_t dword = doe->answered != 0 ? doe->out[doe->read] : 0;
    pthread_mutex_unlock(&doe->line->lock);
    memcpy(capability + IHSM_DOE_STATUS_OFFSET, &status, sizeof status);
    memcpy(capability + IHSM_DOE_READ_MAILBOX_OFFSET, &dword, sizeof dword);
}

/* Whether a transfer is under way still; it ends now. */
static bool end(struct ihsm_doe *doe, uint64_t transfer) {
    if (!doe->busy || doe->transfer != transfer)
        return false;
    doe->transfer++;
    doe->busy = doe->waiting = false;
    doe->written = 0;
    return true;
}

bool ihsm_doe_answer(struct ihsm_doe *doe, uint64_t transfer, const uint8_t *data, size_t size) {
    size_t dwords = size / DWORD;
    if (size % DWORD != 0 || dwords < MIN_DWORDS || dwords > MAX_DWORDS)
        return false;
    pthread_mutex_lock(&doe->line->lock);
    bool due = end(doe, transfer);
    if (due) {
        memcpy(doe->out, data, size);
        doe->answered = (unsigned)dwords;
        doe->read = 0;
    }
    pthread_mutex_unlock(&doe->line->lock);
    return due;
}

void ihsm_doe_discard(struct ihsm_doe *doe, uint64_t transfer) {
    pthread_mutex_lock(&doe->line->lock);
    (void)end(doe, transfer);
    pthread_mutex_unlock(&doe->line->lock);
}

void ihsm_doe_fail(struct ihsm_doe *doe, uint64_t transfer) {
    pthread_mutex_lock(&doe->line->lock);
    if (end(doe, transfer))
        fail(doe);
    pthread_mutex_unlock(&doe->line->lock);
}
