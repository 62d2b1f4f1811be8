/* SPDX-FileCopyrightText: The ihsm authors */
/* SPDX-License-Identifier: Apache-2.0 */
/* The handle table: serial << INDEX_BITS | index. Serials count up for ever, so no handle returns. */
#include "keystore.h"

#include <openssl/mem.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "seam.h"

enum { INDEX_BITS = 24, NO_SLOT = (1 << INDEX_BITS) - 1 };

struct slot {
    uint64_t handle; /* 0: free */
    struct ks_object *object;
    uint32_t next_free;
};

static struct {
    pthread_mutex_t lock;
    struct slot *slots;
    uint32_t capacity, used, free; /* used: slots ever taken */
    uint64_t serial;
    uint64_t keys, dying;
} table = {.lock = PTHREAD_MUTEX_INITIALIZER, .free = NO_SLOT};

struct ks_object *ks_object_new(int kind) {
    struct ks_object *object = ks_arena_alloc(sizeof *object);
    if (object != NULL)
        object->kind = kind;
    return object;
}

void ks_object_free(struct ks_object *object) {
    if (object != NULL) {
        ks_arena_free(object->bytes);
        EC_KEY_free(object->ec);
        RSA_free(object->rsa);
        ks_arena_free(object);
    }
}

struct ks_object *ks_secret_new(size_t size) {
    struct ks_object *object = ks_object_new(KS_KIND_SECRET);
    if (object != NULL) {
        object->size = size;
        object->bytes = ks_arena_alloc(size);
        if (object->bytes == NULL) {
            ks_object_free(object);
            object = NULL;
        }
    }
    return object;
}

/* The slot of a live handle, or NULL; with the lock held. */
static struct slot *find(uint64_t handle) {
    uint32_t index = (uint32_t)handle & NO_SLOT;
    if (handle == 0 || index >= table.used || table.slots[index].handle != handle)
        return NULL;
    return &table.slots[index];
}

static bool grow(void) {
    uint32_t capacity = table.capacity == 0 ? 256 : table.capacity * 2;
    struct slot *slots = capacity > NO_SLOT ? NULL : realloc(table.slots, capacity * sizeof *slots);
    if (slots == NULL)
        return false;
    table.slots = slots;
    table.capacity = capacity;
    return true;
}

int ks_register(struct ks_object *object, uint64_t owner, uint64_t *handle) {
    *handle = 0;
    if (object == NULL)
        return KS_NOMEM;
    pthread_mutex_lock(&table.lock);
    uint32_t index = table.free;
    if (index != NO_SLOT)
        table.free = table.slots[index].next_free;
    else if (table.used < table.capacity || grow())
        index = table.used++;
    if (index != NO_SLOT) {
        object->references = 1;
        object->owner = owner;
        *handle = ++table.serial << INDEX_BITS | index;
        table.slots[index] = (struct slot){.handle = *handle, .object = object, .next_free = NO_SLOT};
        table.keys++;
    }
    pthread_mutex_unlock(&table.lock);
    if (*handle == 0) {
        ks_object_free(object);
        return KS_NOMEM;
    }
    return KS_OK;
}

int ks_acquire(uint64_t handle, unsigned kinds, struct ks_object **object) {
    *object = NULL;
    IHSM_SEAM_LITTER_STACK();
    int status = KS_STALE;
    pthread_mutex_lock(&table.lock);
    struct slot *slot = find(handle);
    if (slot != NULL) {
        status = KS_KIND;
        if (kinds >> slot->object->kind & 1) {
            *object = slot->object;
            slot->object->references++;
            status = KS_OK;
        }
    }
    pthread_mutex_unlock(&table.lock);
    return status;
}

void ks_release(struct ks_object *object) {
    if (object == NULL)
        return;
    pthread_mutex_lock(&table.lock);
    bool last = --object->references == 0;
    if (last)
        table.dying--;
    pthread_mutex_unlock(&table.lock);
    if (last)
        ks_object_free(object);
}

/* Takes an object out of the table; its table reference passes to the caller. With the lock held. */
static struct ks_object *unlink_slot(struct slot *slot) {
    struct ks_object *object = slot->object;
    slot->handle = 0;
    slot->object = NULL;
    slot->next_free = table.free;
    table.free = (uint32_t)(slot - table.slots);
    table.keys--;
    table.dying++;
    return object;
}

int ks_destroy(uint64_t key) {
    pthread_mutex_lock(&table.lock);
    struct slot *slot = find(key);
    struct ks_object *object = slot == NULL ? NULL : unlink_slot(slot);
    pthread_mutex_unlock(&table.lock);
    if (object == NULL)
        return KS_STALE;
    ks_bulk_forget(object);
    ks_release(object);
    return KS_OK;
}

size_t ks_destroy_group(uint64_t owner, uint64_t mask) {
    enum { BATCH = 64 };
    struct ks_object *batch[BATCH];
    size_t total = 0;
    uint32_t index = 0;
    for (bool more = true; more;) {
        size_t count = 0;
        pthread_mutex_lock(&table.lock);
        for (; index < table.used && count < BATCH; index++) {
            struct slot *slot = &table.slots[index];
            if (slot->handle != 0 && ((slot->object->owner ^ owner) & mask) == 0)
                batch[count++] = unlink_slot(slot);
        }
        more = index < table.used;
        pthread_mutex_unlock(&table.lock);
        for (size_t i = 0; i < count; i++) {
            ks_bulk_forget(batch[i]);
            ks_release(batch[i]);
        }
        total += count;
    }
    return total;
}

int ks_set_owner(uint64_t key, uint64_t owner) {
    pthread_mutex_lock(&table.lock);
    struct slot *slot = find(key);
    if (slot != NULL)
        slot->object->owner = owner;
    pthread_mutex_unlock(&table.lock);
    return slot == NULL ? KS_STALE : KS_OK;
}

int ks_describe(uint64_t key, int *kind, size_t *size, int *curve) {
    pthread_mutex_lock(&table.lock);
    struct slot *slot = find(key);
    if (slot != NULL) {
        *kind = slot->object->kind;
        *size = slot->object->size;
        *curve = slot->object->curve;
    }
    pthread_mutex_unlock(&table.lock);
    return slot == NULL ? KS_STALE : KS_OK;
}

void ks_handle_statistics(ks_stats *out) {
    pthread_mutex_lock(&table.lock);
    out->keys = table.keys;
    out->keys_dying = table.dying;
    pthread_mutex_unlock(&table.lock);
}
