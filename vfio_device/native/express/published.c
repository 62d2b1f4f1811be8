/* SPDX-FileCopyrightText: The ihsm authors */
/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What is published of a function.
 *
 * A slot's state word has the number of those who are at it in its low bits, ALIVE, and between them how often it was
 * published. Who comes adds itself and looks at the rest of the word by the same atomic operation; without ALIVE
 * it leaves again and has looked at nothing. Pages of keys appear on first use and stay until the table goes.
 */
#include "published.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <time.h>

#include "ddi.h"

enum { PAGE_KEYS = 256, PAGES = 256, COUNT_BITS = 16 };
#define ALIVE (UINT64_C(1) << 63)
#define ONCE_MORE (UINT64_C(1) << COUNT_BITS)
#define COUNT_MASK (ONCE_MORE - 1)

struct slot {
    _Atomic uint64_t state;
    union {
        struct ihsm_published_session session;
        struct ihsm_published_key key;
    } facts;
};

struct page {
    struct slot slots[PAGE_KEYS];
};

struct ihsm_published {
    pthread_mutex_t lock; /* of those who publish and withdraw */
    bool little_endian, ended;
    atomic_bool fips;
    struct slot sessions[IHSM_MAX_SESSIONS];
    struct page *_Atomic pages[PAGES];
};

struct ihsm_published *ihsm_published_new(bool little_endian, bool fips) {
    struct ihsm_published *published = calloc(1, sizeof *published);
    if (published != NULL) {
        pthread_mutex_init(&published->lock, NULL);
        published->little_endian = little_endian;
        published->fips = fips;
    }
    return published;
}

void ihsm_published_free(struct ihsm_published *published) {
    if (published == NULL)
        return;
    for (unsigned i = 0; i < PAGES; i++)
        free(published->pages[i]);
    pthread_mutex_destroy(&published->lock);
    free(published);
}

static struct slot *session_slot(struct ihsm_published *published, uint32_t session_id) {
    return session_id < IHSM_MAX_SESSIONS ? &published->sessions[session_id] : NULL;
}

static struct slot *key_slot(struct ihsm_published *published, uint32_t key_id) {
    struct page *page = key_id < PAGES * PAGE_KEYS
                            ? atomic_load_explicit(&published->pages[key_id / PAGE_KEYS], memory_order_acquire)
                            : NULL;
    return page == NULL ? NULL : &page->slots[key_id % PAGE_KEYS];
}

/* -- who reads */

static void leave(struct slot *slot) { atomic_fetch_sub(&slot->state, 1); }

/* Come to a slot that is published, and get its ticket. */
static bool enter(struct slot *slot, uint64_t *ticket) {
    if (slot == NULL)
        return false;
    uint64_t state = atomic_fetch_add(&slot->state, 1);
    *ticket = state >> COUNT_BITS;
    if (state & ALIVE)
        return true;
    leave(slot);
    return false;
}

static bool enter_again(struct slot *slot, uint64_t ticket) {
    uint64_t now;
    if (!enter(slot, &now))
        return false;
    if (now != ticket)
        leave(slot);
    return now == ticket;
}

bool ihsm_published_find_session(struct ihsm_published *published, uint32_t session_id,
                                 struct ihsm_published_session *session, uint64_t *ticket) {
    struct slot *slot = session_slot(published, session_id);
    if (!enter(slot, ticket))
        return false;
    *session = slot->facts.session;
    leave(slot);
    return true;
}

bool ihsm_published_find_key(struct ihsm_published *published, uint32_t key_id, struct ihsm_published_key *key,
                             uint64_t *ticket) {
    struct slot *slot = key_slot(published, key_id);
    if (!enter(slot, ticket))
        return false;
    *key = slot->facts.key;
    leave(slot);
    return true;
}

bool ihsm_published_hold(struct ihsm_published *published, uint32_t session_id, uint64_t session_ticket,
                         uint32_t key_id, uint64_t key_ticket) {
    struct slot *session = session_slot(published, session_id);
    if (!enter_again(session, session_ticket))
        return false;
    if (enter_again(key_slot(published, key_id), key_ticket))
        return true;
    leave(session);
    return false;
}

void ihsm_published_let_go(struct ihsm_published *published, uint32_t session_id, uint32_t key_id) {
    leave(key_slot(published, key_id));
    leave(session_slot(published, session_id));
}

bool ihsm_published_little_endian(const struct ihsm_published *published) { return published->little_endian; }

bool ihsm_published_fips(const struct ihsm_published *published) { return atomic_load(&published->fips); }

/* -- who publishes and withdraws, with the lock held */

/* Nobody reads the facts of a slot that is not alive, so they may be written. */
static bool is_alive(struct slot *slot) { return (atomic_load(&slot->state) & ALIVE) != 0; }

static void publish(struct slot *slot) { atomic_fetch_add(&slot->state, ALIVE + ONCE_MORE); }

static void withdraw(struct slot *slot) {
    const struct timespec pause = {.tv_nsec = 20000};
    if (!is_alive(slot))
        return;
    uint64_t state = atomic_fetch_and(&slot->state, ~ALIVE);
    for (; (state & COUNT_MASK) != 0; state = atomic_load(&slot->state))
        nanosleep(&pause, NULL); /* they answer a command; nothing they wait for waits for us */
}

int ihsm_publish_session(struct ihsm_published *published, uint32_t session_id, uint32_t major, uint32_t minor) {
    struct slot *slot = session_slot(published, session_id);
    if (slot == NULL)
        return -EINVAL;
    pthread_mutex_lock(&published->lock);
    int result = is_alive(slot) ? -EEXIST : 0;
    if (result == 0 && !published->ended) {
        slot->facts.session = (struct ihsm_published_session){.major = major, .minor = minor};
        publish(slot);
    }
    pthread_mutex_unlock(&published->lock);
    return result;
}

static int publish_key(struct ihsm_published *published, uint32_t key_id, const struct ihsm_published_key *key) {
    struct page *_Atomic *page = &published->pages[key_id / PAGE_KEYS];
    if (atomic_load(page) == NULL) {
        struct page *made = calloc(1, sizeof *made);
        if (made == NULL)
            return -ENOMEM;
        atomic_store_explicit(page, made, memory_order_release);
    }
    struct slot *slot = key_slot(published, key_id);
    if (is_alive(slot))
        return -EEXIST;
    slot->facts.key = *key;
    publish(slot);
    return 0;
}

int ihsm_publish_key(struct ihsm_published *published, uint32_t key_id, const struct ihsm_published_key *key) {
    if (key_id >= PAGES * PAGE_KEYS)
        return -EINVAL;
    pthread_mutex_lock(&published->lock);
    int result = publish_key(published, key_id, key);
    pthread_mutex_unlock(&published->lock);
    return result;
}

static void withdraw_locked(struct ihsm_published *published, struct slot *slot) {
    if (slot == NULL)
        return;
    pthread_mutex_lock(&published->lock);
    withdraw(slot);
    pthread_mutex_unlock(&published->lock);
}

void ihsm_withdraw_session(struct ihsm_published *published, uint32_t session_id) {
    withdraw_locked(published, session_slot(published, session_id));
}

void ihsm_withdraw_key(struct ihsm_published *published, uint32_t key_id) {
    withdraw_locked(published, key_slot(published, key_id));
}

void ihsm_withdraw_keys(struct ihsm_published *published) {
    pthread_mutex_lock(&published->lock);
    for (unsigned i = 0; i < PAGES; i++) {
        struct page *page = atomic_load(&published->pages[i]);
        for (unsigned j = 0; page != NULL && j < PAGE_KEYS; j++)
            withdraw(&page->slots[j]);
    }
    pthread_mutex_unlock(&published->lock);
}

void ihsm_published_end(struct ihsm_published *published) {
    pthread_mutex_lock(&published->lock);
    published->ended = true;
    for (unsigned i = 0; i < IHSM_MAX_SESSIONS; i++)
        withdraw(&published->sessions[i]);
    pthread_mutex_unlock(&published->lock);
}

void ihsm_published_set_fips(struct ihsm_published *published, bool fips) { atomic_store(&published->fips, fips); }
