/* SPDX-FileCopyrightText: The ihsm authors */
/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The preload library: libc's functions for files, before libc's own. What they are asked about /dev and /sys goes to
 * the server of `ihsm kmod run`; all else, and what the server does not have, goes to the next function of that name.
 *
 *   open.c     files opened            what.c    what a file is: stat, access, links
 *   folders.c  folders read, entered   ioctl.c   commands
 *   resolve.c  paths without links
 *   paths.c    which paths and descriptors the server is asked about
 *   channel.c  asking it
 */
#ifndef IHSM_PRELOAD_H
#define IHSM_PRELOAD_H

#include <dlfcn.h>
#include <limits.h>
#include <stdbool.h>
#include <stddef.h>
#include <sys/stat.h>

#include "protocol.h"

/*
 * Let programs call a function by a name of libc's. The function has a name of its own, because headers declare libc's,
 * some as inline functions, and give `stat64` and `stat` different types though they are one function.
 */
#define EXPORT(name, function) extern __typeof__(function) exported_##name __asm__(#name) ALIAS(function)
#define ALIAS(function) __attribute__((alias(#function), visibility("default")))

/* The function of that name after ours. Threads may look it up at the same time: they all find the same. */
#define NEXT(name)                                                                                                     \
    ({                                                                                                                 \
        static void *known_##name;                                                                                     \
        void *next_##name = __atomic_load_n(&known_##name, __ATOMIC_RELAXED);                                          \
        if (!next_##name) {                                                                                            \
            next_##name = dlsym(RTLD_NEXT, #name);                                                                     \
            __atomic_store_n(&known_##name, next_##name, __ATOMIC_RELAXED);                                            \
        }                                                                                                              \
        (__typeof__(&(name)))next_##name;                                                                              \
    })

/* A path as the server knows it. */
struct place {
    char path[PATH_MAX];
    /* It was a path into the shadow, which only looks like the folders: libc, too, must be given `path` instead. */
    bool is_shadow;
    /* It ended with a slash: a link there is followed, and what is no folder is an error. */
    bool is_folder;
};

/* Make `place` of a call's path. False: that does not concern the server, and `place` is not to be used. */
bool find_place(struct place *place, int dirfd, const char *path);

/* The same for the file behind a descriptor, `status` being what libc says of it: the shadow's, or a served file's. */
bool find_open_file(struct place *place, int fd, const struct stat *status);

/* Make a path into the shadow what it stands for. False: it is another, and stays. */
bool leave_shadow(char *path);

/* Where a folder's entries are only placeholders. */
bool is_in_shadow(int fd);

/*
 * Ask the server. `place` is NULL for a question that has no path. The answer's outcome is always set: where there is
 * no server any more, none of this is its own. `fd` is for a descriptor that comes with it, -1 if none does. No signal
 * handler runs meanwhile, and nothing cancels the thread, so that a question is asked once and its answer not lost.
 */
void ask(const struct request *request, const struct place *place, struct answer *answer, int *fd);

/* Open what the server has at a place: a descriptor; -1 and errno; or NOT_OURS. */
int open_served(const struct place *place, int flags);

/* What the server says of a place: 0, -1 and errno, or NOT_OURS. */
int status_served(const struct place *place, bool follow, struct stat *status);

#define NOT_OURS (-2)

#endif
