/* SPDX-FileCopyrightText: The ihsm authors */
/* SPDX-License-Identifier: Apache-2.0 */
/* Randomness, with a queue of injected values for recorded conversations (validation hooks only). */
#include "keystore.h"

#include <openssl/rand.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>

struct injected {
    struct injected *next;
    size_t size;
    uint8_t value[];
};

enum { MAX_RANDOM = 65536 };

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct injected *head, **tail = &head;
static _Atomic bool pending; /* spares the lock in normal operation */

bool ks_draw_injected(void) { return pending; }

int ks_draw(uint8_t *out, size_t size) {
    if (pending) {
        int status = KS_OK;
        pthread_mutex_lock(&lock);
        struct injected *item = head;
        if (item != NULL && item->size != size) {
            status = KS_ARG;
        } else if (item != NULL) {
            memcpy(out, item->value, size);
            head = item->next;
            if (head == NULL) {
                tail = &head;
                pending = false;
            }
        }
        pthread_mutex_unlock(&lock);
        if (status != KS_OK)
            return status;
        if (item != NULL) {
            ks_arena_free(item);
            return KS_OK;
        }
    }
    return size == 0 || RAND_bytes(out, size) == 1 ? KS_OK : KS_CRYPTO;
}

void ks_random_reset(void) {
    pthread_mutex_lock(&lock);
    while (head != NULL) {
        struct injected *next = head->next;
        ks_arena_free(head);
        head = next;
    }
    tail = &head;
    pending = false;
    pthread_mutex_unlock(&lock);
}

int ks_hook_push_random(const uint8_t *value, size_t size) {
    if (!ks_hooks_enabled())
        return KS_HOOKS;
    if (size > MAX_RANDOM)
        return KS_ARG;
    struct injected *item = ks_arena_alloc(sizeof *item + size);
    if (item == NULL)
        return KS_NOMEM;
    item->size = size;
    memcpy(item->value, value, size);
    pthread_mutex_lock(&lock);
    *tail = item;
    tail = &item->next;
    pending = true;
    pthread_mutex_unlock(&lock);
    return KS_OK;
}

int ks_random(uint8_t *out, size_t size) { return size > MAX_RANDOM ? KS_ARG : ks_draw(out, size); }

int ks_generate_secret(size_t size, uint64_t owner, uint64_t *key) {
    if (size == 0 || size > KS_MAX_SECRET)
        return KS_ARG;
    struct ks_object *object = ks_secret_new(size);
    if (object == NULL)
        return KS_NOMEM;
    int status = ks_draw(object->bytes, size);
    ks_burn_stack(BURN_LIGHT);
    if (status != KS_OK) {
        ks_object_free(object);
        return status;
    }
    return ks_register(object, owner, key);
}

int ks_import_secret(const uint8_t *value, size_t size, uint64_t owner, uint64_t *key) {
    if (size == 0 || size > KS_MAX_SECRET)
        return KS_ARG;
    struct ks_object *object = ks_secret_new(size);
    if (object == NULL)
        return KS_NOMEM;
    memcpy(object->bytes, value, size);
    return ks_register(object, owner, key);
}
