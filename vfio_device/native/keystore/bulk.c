/* SPDX-FileCopyrightText: The ihsm authors */
/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Publication of fast-path keys.
 *
 * A table maps the two bytes of a key number to a page and a place, which names a slot. Pages and slots appear on first
 * use and stay until the table goes, so readers need no protection for them. A slot's state word counts readers in its
 * low half and has one of the flags ALIVE (usable), DYING (withdrawn, readers left), WIPING (one thread is freeing the
 * context) or none (free). A reader adds itself and looks at the flags of the same atomic operation; whoever takes
 * DYING with no readers to WIPING frees the context. A failed acquire counts as a reader for a moment and so may be the
 * one who has to.
 *
 * A number may be used anew while a command on its last key still runs, which can take seconds: then the new key gets
 * another slot of the place. There are never more slots than keys of one number in use at once.
 */
#include "bulk.h"

#include <openssl/mem.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "keystore.h"

enum { PAGE_PLACES = 256, PAGES = 256, BULK_KEY = 32 };
#define ALIVE (UINT64_C(1) << 63)
#define DYING (UINT64_C(1) << 62)
#define WIPING (UINT64_C(1) << 61)
#define FLAGS (ALIVE | DYING | WIPING)

/* In the arena. */
struct context {
    uint8_t key[BULK_KEY];
    struct ihsm_aes_key aes;
};

struct ks_bulk_key {
    _Atomic uint64_t state;
    struct context *context;
    struct ks_bulk_info info;
    struct ks_object *object; /* this and the next: guarded by the bulk lock */
    struct ks_bulk_key *next; /* of the place */
};

struct place {
    struct ks_bulk_key *_Atomic newest; /* published last; NULL: none yet */
    struct ks_bulk_key *slots;          /* guarded by the bulk lock */
};

struct page {
    struct place places[PAGE_PLACES];
};

struct ks_bulk_table {
    int function;
    struct page *_Atomic pages[PAGES];
};

static pthread_mutex_t bulk_lock = PTHREAD_MUTEX_INITIALIZER;
static _Atomic uint64_t published;

uint64_t ks_bulk_count(void) { return published; }

ks_bulk_table *ks_bulk_table_new(int function) {
    ks_bulk_table *table = calloc(1, sizeof *table);
    if (table != NULL)
        table->function = function;
    return table;
}

/* Frees the context of a slot without readers, if nobody else does. */
static void try_wipe(struct ks_bulk_key *key) {
    uint64_t expected = DYING;
    if (atomic_compare_exchange_strong(&key->state, &expected, WIPING)) {
        ks_arena_free(key->context);
        key->context = NULL;
        atomic_fetch_and(&key->state, ~FLAGS);
    }
}

struct ks_bulk_key *ks_bulk_acquire(ks_bulk_table *table, uint32_t key_id) {
    if (key_id >= PAGES * PAGE_PLACES)
        return NULL;
    struct page *page = atomic_load_explicit(&table->pages[key_id / PAGE_PLACES], memory_order_acquire);
    if (page == NULL)
        return NULL;
    struct ks_bulk_key *_Atomic *newest = &page->places[key_id % PAGE_PLACES].newest;
    for (struct ks_bulk_key *key = atomic_load(newest), *tried = NULL; key != tried; key = atomic_load(newest)) {
        if (atomic_fetch_add(&key->state, 1) & ALIVE)
            return key;
        ks_bulk_release(key);
        tried = key; /* once more if the number has got another key meanwhile */
    }
    return NULL;
}

void ks_bulk_release(struct ks_bulk_key *key) {
    if (atomic_fetch_sub(&key->state, 1) == DYING + 1)
        try_wipe(key);
}

const struct ks_bulk_info *ks_bulk_info(const struct ks_bulk_key *key) { return &key->info; }

bool ks_bulk_deleted(const struct ks_bulk_key *key) {
    return (atomic_load_explicit(&key->state, memory_order_acquire) & ALIVE) == 0;
}

bool ks_bulk_equal(const struct ks_bulk_key *a, const struct ks_bulk_key *b) {
    return CRYPTO_memcmp(a->context->key, b->context->key, BULK_KEY) == 0;
}

const struct ihsm_aes_key *ks_bulk_aes(const struct ks_bulk_key *key) { return &key->context->aes; }

static struct context *prepare(const uint8_t *key) {
    struct context *context = ks_arena_alloc(sizeof *context);
    if (context != NULL) {
        memcpy(context->key, key, BULK_KEY);
        ihsm_aes_key_init(&context->aes, key);
    }
    return context;
}

/* A slot of the place that nobody uses, made if there is none; NULL: no memory. With the bulk lock held. */
static struct ks_bulk_key *free_slot(struct place *place) {
    struct ks_bulk_key *slot = place->slots;
    while (slot != NULL && atomic_load(&slot->state) & FLAGS)
        slot = slot->next;
    if (slot == NULL && (slot = calloc(1, sizeof *slot)) != NULL) {
        slot->next = place->slots;
        place->slots = slot;
    }
    return slot;
}

/* With the bulk lock held. */
static int publish(ks_bulk_table *table, uint32_t key_id, struct ks_object *object, struct ks_bulk_info info) {
    struct page *page = atomic_load(&table->pages[key_id / PAGE_PLACES]);
    if (page == NULL) {
        page = calloc(1, sizeof *page);
        if (page == NULL)
            return KS_NOMEM;
        atomic_store_explicit(&table->pages[key_id / PAGE_PLACES], page, memory_order_release);
    }
    struct place *place = &page->places[key_id % PAGE_PLACES];
    struct ks_bulk_key *newest = atomic_load(&place->newest);
    if (object->published != NULL || (newest != NULL && atomic_load(&newest->state) & ALIVE))
        return KS_ARG;
    struct ks_bulk_key *key = free_slot(place);
    struct context *context = key == NULL ? NULL : prepare(object->bytes);
    if (context == NULL)
        return KS_NOMEM;
    key->context = context;
    key->info = info;
    key->object = object;
    object->published = table;
    object->key_id = key_id;
    atomic_fetch_or(&key->state, ALIVE);
    atomic_store(&place->newest, key);
    atomic_fetch_add(&published, 1);
    return KS_OK;
}

int ks_bulk_publish(ks_bulk_table *table, uint32_t key_id, uint64_t key, int type, uint32_t session_id, uint32_t app_id,
                    int session_only) {
    if (key_id >= PAGES * PAGE_PLACES || type < KS_BULK_XTS || type > KS_BULK_GCM_UNAPPROVED ||
        session_id > UINT16_MAX || app_id > UINT8_MAX) {
        return KS_ARG;
    }
    struct ks_object *object;
    int status = ks_acquire(key, SECRET_KIND, &object);
    if (status != KS_OK)
        return status;
    if (object->size != BULK_KEY) {
        status = KS_SIZE;
    } else {
        struct ks_bulk_info info = {.session_id = (uint16_t)session_id,
                                    .app_id = (uint8_t)app_id,
                                    .type = (uint8_t)type,
                                    .session_only = session_only != 0};
        pthread_mutex_lock(&bulk_lock);
        status = publish(table, key_id, object, info);
        pthread_mutex_unlock(&bulk_lock);
    }
    int kind, curve;
    size_t size;
    if (status == KS_OK && ks_describe(key, &kind, &size, &curve) != KS_OK) {
        ks_bulk_forget(object); /* destroyed between the two locks */
        status = KS_STALE;
    }
    ks_release(object);
    ks_burn_stack(BURN_LIGHT);
    return status;
}

/* With the bulk lock held. */
static bool withdraw(ks_bulk_table *table, uint32_t key_id) {
    struct page *page = atomic_load(&table->pages[key_id / PAGE_PLACES]);
    struct ks_bulk_key *key = page == NULL ? NULL : atomic_load(&page->places[key_id % PAGE_PLACES].newest);
    if (key == NULL || (atomic_load(&key->state) & ALIVE) == 0)
        return false;
    key->object->published = NULL;
    key->object = NULL;
    atomic_fetch_sub(&published, 1);
    if (atomic_fetch_xor(&key->state, ALIVE | DYING) == ALIVE)
        try_wipe(key);
    return true;
}

int ks_bulk_withdraw(ks_bulk_table *table, uint32_t key_id) {
    bool found = false;
    if (key_id < PAGES * PAGE_PLACES) {
        pthread_mutex_lock(&bulk_lock);
        found = withdraw(table, key_id);
        pthread_mutex_unlock(&bulk_lock);
    }
    return found ? KS_OK : KS_STALE;
}

void ks_bulk_forget(struct ks_object *object) {
    pthread_mutex_lock(&bulk_lock);
    if (object->published != NULL)
        withdraw(object->published, object->key_id);
    pthread_mutex_unlock(&bulk_lock);
}

/* Nobody publishes or acquires any more, but a command may still use a key. */
static void free_slots(struct place *place) {
    const struct timespec pause = {.tv_nsec = 20000};
    while (place->slots != NULL) {
        struct ks_bulk_key *slot = place->slots;
        while (atomic_load(&slot->state) != 0)
            nanosleep(&pause, NULL);
        place->slots = slot->next;
        free(slot);
    }
}

void ks_bulk_table_free(ks_bulk_table *table) {
    if (table == NULL)
        return;
    for (uint32_t i = 0; i < PAGES; i++) {
        struct page *page = atomic_load(&table->pages[i]);
        for (uint32_t j = 0; page != NULL && j < PAGE_PLACES; j++) {
            ks_bulk_withdraw(table, i * PAGE_PLACES + j);
            free_slots(&page->places[j]);
        }
        free(page);
    }
    free(table);
}
