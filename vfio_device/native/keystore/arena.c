/* SPDX-FileCopyrightText: The ihsm authors */
/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A thread-safe size-class allocator over locked chunks.
 *
 * A chunk is 1 MiB between guard areas, cut into slabs of 64 KiB; a slab serves one size class. Slabs are aligned to
 * their size, so the header of a block's slab is found by masking its address. Blocks above the largest class get a
 * mapping of their own with the same kind of header. Free blocks are zero except for the link in their first word.
 */
#include "arena.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>

#include "wipe.h"

#ifdef __has_feature /* clang */
#if __has_feature(address_sanitizer) && !defined(__SANITIZE_ADDRESS__)
#define __SANITIZE_ADDRESS__ 1
#endif
#endif
#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#define POISON(p, n) __asan_poison_memory_region((p), (n))
#define UNPOISON(p, n) __asan_unpoison_memory_region((p), (n))
#else
#define POISON(p, n) ((void)(p), (void)(n))
#define UNPOISON(p, n) ((void)(p), (void)(n))
#endif

enum {
    SLAB_SIZE = 1 << 16,
    CHUNK_SIZE = 1 << 20,
    HEADER_SIZE = 64,
    FINE_STEP = 16, /* classes up to FINE_LIMIT grow by this */
    FINE_LIMIT = 128,
    FINE_CLASSES = FINE_LIMIT / FINE_STEP,
    STEPS_PER_OCTAVE = 4,
    OCTAVES = 8, /* 128 .. 32768 */
    CLASSES = FINE_CLASSES + OCTAVES * STEPS_PER_OCTAVE,
    LARGE = CLASSES,
};

struct slab {
    uint32_t class;
    uint32_t used; /* bytes handed out at least once, header included */
    size_t block;  /* bytes per block */
    size_t mapped; /* large blocks: size of the mapping, guards included */
    bool locked;   /* large blocks: the mapping is locked */
    struct slab *next;
};
_Static_assert(sizeof(struct slab) <= HEADER_SIZE, "slab header");

struct size_class {
    pthread_mutex_t lock;
    void *free;
    struct slab *current;
};

static struct size_class classes[CLASSES] = {[0 ... CLASSES - 1] = {.lock = PTHREAD_MUTEX_INITIALIZER}};
static pthread_mutex_t chunk_lock = PTHREAD_MUTEX_INITIALIZER;
static struct slab *spare_slabs;
static _Atomic uint64_t in_use, peak, reserved, locked, unlocked;

static unsigned class_of(size_t size) {
    if (size <= FINE_LIMIT)
        return size == 0 ? 0 : (unsigned)((size - 1) / FINE_STEP);
    unsigned octave = 63 - (unsigned)__builtin_clzll(size - 1); /* 2^octave < size <= 2^(octave+1) */
    unsigned step = (unsigned)((size - 1) >> (octave - 2)) & (STEPS_PER_OCTAVE - 1);
    unsigned class = FINE_CLASSES + (octave - 7) * STEPS_PER_OCTAVE + step;
    return class < CLASSES ? class : LARGE;
}

static size_t class_size(unsigned class) {
    if (class < FINE_CLASSES)
        return (size_t)(class + 1) * FINE_STEP;
    unsigned octave = 7 + (class - FINE_CLASSES) / STEPS_PER_OCTAVE;
    unsigned step = (class - FINE_CLASSES) % STEPS_PER_OCTAVE;
    return ((size_t)1 << octave) + ((size_t)(step + 1) << (octave - 2));
}

static struct slab *slab_of(void *block) { return (struct slab *)((uintptr_t)block & ~(uintptr_t)(SLAB_SIZE - 1)); }

static void count(uint64_t size) {
    uint64_t now = atomic_fetch_add_explicit(&in_use, size, memory_order_relaxed) + size;
    uint64_t top = atomic_load_explicit(&peak, memory_order_relaxed);
    while (now > top &&
           !atomic_compare_exchange_weak_explicit(&peak, &top, now, memory_order_relaxed, memory_order_relaxed)) {
    }
}

/*
 * Readable and writable memory of `size` bytes (a multiple of SLAB_SIZE), slab-aligned, with guards on both sides.
 * The whole mapping starts one slab below and ends one slab above. `is_locked`: whether the system let it be locked.
 */
static void *map_guarded(size_t size, bool *is_locked) {
    size_t span = size + 3 * (size_t)SLAB_SIZE;
    uint8_t *base = mmap(NULL, span, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (base == MAP_FAILED)
        return NULL;
    uint8_t *start = (uint8_t *)slab_of(base + SLAB_SIZE - 1); /* first slab boundary in the mapping */
    if (start != base)
        munmap(base, (size_t)(start - base));
    size_t kept = size + 2 * (size_t)SLAB_SIZE;
    if (start + kept != base + span)
        munmap(start + kept, (size_t)(base + span - (start + kept)));
    uint8_t *memory = start + SLAB_SIZE;
    if (mprotect(memory, size, PROT_READ | PROT_WRITE) != 0) {
        munmap(start, kept);
        return NULL;
    }
    madvise(memory, size, MADV_DONTDUMP);
    madvise(memory, size, MADV_DONTFORK);
    atomic_fetch_add(&reserved, size);
    *is_locked = mlock(memory, size) == 0;
    atomic_fetch_add(*is_locked ? &locked : &unlocked, size);
    return memory;
}

static void unmap_guarded(void *memory, size_t size, bool is_locked) {
    atomic_fetch_sub(is_locked ? &locked : &unlocked, size);
    atomic_fetch_sub(&reserved, size);
    munmap((uint8_t *)memory - SLAB_SIZE, size + 2 * (size_t)SLAB_SIZE);
}

static struct slab *take_slab(unsigned class) {
    pthread_mutex_lock(&chunk_lock);
    if (spare_slabs == NULL) {
        struct rlimit limit;
        /* A chunk more than the soft limit allows may still be below the hard one. */
        if (getrlimit(RLIMIT_MEMLOCK, &limit) == 0 && limit.rlim_cur < limit.rlim_max) {
            limit.rlim_cur = limit.rlim_max;
            setrlimit(RLIMIT_MEMLOCK, &limit);
        }
        bool is_locked; /* chunks stay for good: the sums tell */
        uint8_t *chunk = map_guarded(CHUNK_SIZE, &is_locked);
        for (size_t at = chunk == NULL ? 0 : CHUNK_SIZE; at != 0; at -= SLAB_SIZE) {
            struct slab *slab = (struct slab *)(chunk + at - SLAB_SIZE);
            slab->next = spare_slabs;
            spare_slabs = slab;
        }
    }
    struct slab *slab = spare_slabs;
    if (slab != NULL) {
        spare_slabs = slab->next;
        slab->next = NULL;
        slab->class = class;
        slab->block = class_size(class);
        slab->used = HEADER_SIZE;
        POISON((uint8_t *)slab + HEADER_SIZE, SLAB_SIZE - HEADER_SIZE);
    }
    pthread_mutex_unlock(&chunk_lock);
    return slab;
}

static void *large_alloc(size_t size) {
    if (size > SIZE_MAX / 2)
        return NULL;
    size_t mapped = (size + HEADER_SIZE + SLAB_SIZE - 1) & ~(size_t)(SLAB_SIZE - 1);
    bool is_locked = false;
    struct slab *slab = map_guarded(mapped, &is_locked);
    if (slab == NULL)
        return NULL;
    slab->locked = is_locked;
    slab->class = LARGE;
    slab->block = mapped - HEADER_SIZE;
    slab->mapped = mapped;
    count(slab->block);
    return (uint8_t *)slab + HEADER_SIZE;
}

static void *small_alloc(unsigned class, size_t size) {
    struct size_class *c = &classes[class];
    pthread_mutex_lock(&c->lock);
    uint8_t *block = c->free;
    if (block != NULL) {
        UNPOISON(block, sizeof(void *));
        memcpy((void *)&c->free, block, sizeof c->free);
        memset(block, 0, sizeof(void *));
    } else {
        if (c->current == NULL || c->current->used + c->current->block > SLAB_SIZE)
            c->current = take_slab(class);
        if (c->current != NULL) {
            block = (uint8_t *)c->current + c->current->used;
            c->current->used += (uint32_t)c->current->block;
        }
    }
    pthread_mutex_unlock(&c->lock);
    if (block != NULL) {
        UNPOISON(block, size);
        count(class_size(class));
    }
    return block;
}

static _Thread_local bool refused;

void *ks_arena_alloc(size_t size) {
    unsigned class = class_of(size);
    void *block = class == LARGE ? large_alloc(size) : small_alloc(class, size);
    refused |= block == NULL;
    return block;
}

bool ks_arena_refused(void) {
    bool was = refused;
    refused = false;
    return was;
}

void ks_arena_free(void *block) {
    if (block == NULL)
        return;
    struct slab *slab = slab_of(block);
    size_t size = slab->block;
    atomic_fetch_sub_explicit(&in_use, size, memory_order_relaxed);
    if (slab->class == LARGE) {
        ks_wipe(block, size);
        unmap_guarded(slab, slab->mapped, slab->locked);
        return;
    }
    UNPOISON(block, size);
    ks_wipe(block, size);
    struct size_class *c = &classes[slab->class];
    pthread_mutex_lock(&c->lock);
    memcpy(block, (const void *)&c->free, sizeof c->free);
    c->free = block;
    POISON(block, size);
    pthread_mutex_unlock(&c->lock);
}

size_t ks_arena_size(void *block) {
    size_t size = slab_of(block)->block;
    UNPOISON(block, size); /* the caller may now use all of it */
    return size;
}

void ks_arena_stats(struct arena_stats *out) {
    out->in_use = atomic_load(&in_use);
    out->peak = atomic_load(&peak);
    out->reserved = atomic_load(&reserved);
    out->locked = atomic_load(&locked);
}

uint64_t ks_arena_unlocked(void) { return atomic_load(&unlocked); }

/* The crypto library's own allocations: these symbols replace its allocator at link time. */
void *OPENSSL_memory_alloc(size_t size);
void OPENSSL_memory_free(void *block);
size_t OPENSSL_memory_get_size(void *block);
void *OPENSSL_memory_realloc(void *block, size_t size);

void *OPENSSL_memory_alloc(size_t size) { return ks_arena_alloc(size); }

void OPENSSL_memory_free(void *block) { ks_arena_free(block); }

size_t OPENSSL_memory_get_size(void *block) { return ks_arena_size(block); }

void *OPENSSL_memory_realloc(void *block, size_t size) {
    size_t old = ks_arena_size(block);
    if (size <= old && class_of(size) == class_of(old))
        return block;
    void *moved = ks_arena_alloc(size);
    if (moved != NULL) {
        memcpy(moved, block, old < size ? old : size);
        ks_arena_free(block);
    }
    return moved;
}
