/* SPDX-FileCopyrightText: The ihsm authors */
/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What preload library and server say to each other, as ihsm_kmod/host/preload.py has it too: packets on a
 * connection of each thread, a request and its answer. The first request says which thread, and has no answer.
 */
#ifndef IHSM_PROTOCOL_H
#define IHSM_PROTOCOL_H

#include <stdint.h>
#include <sys/stat.h>

/* Environment variables: where the server listens, and its shadow of /dev and /sys. */
#define SERVER_VARIABLE "IHSM_KMOD_PRELOAD"
#define SHADOW_VARIABLE "IHSM_KMOD_SHADOW"
/* What /proc says of a file that has an attribute's text begins so. */
#define MEMORY_FILE "/memfd:ihsm:"

enum operation {
    OP_HELLO = 0,    /* number: the thread's id */
    OP_OPEN = 1,     /* path; flags: of open(2). A descriptor comes with the answer */
    OP_IOCTL = 2,    /* inode: of the socket behind the descriptor; number; argument */
    OP_STAT = 3,     /* path; flags: 1 to follow a link at its end. Answer: status */
    OP_FSTAT = 4,    /* path: what /proc/self/fd says of the descriptor. Answer: status */
    OP_ACCESS = 5,   /* path; flags: of access(2) */
    OP_READLINK = 6, /* path. Answer: text, `result` bytes */
};

/* Its path follows, to the end of the packet, without a NUL. */
struct request {
    uint32_t operation;
    uint32_t flags;
    uint64_t inode;
    uint64_t number;
    uint64_t argument;
};

enum outcome { IS_NOT_OURS = 0, IS_DONE = 1, HAS_FAILED = 2 };

struct answer {
    uint32_t outcome;
    uint32_t unused;
    int64_t result; /* errno, where it has failed */
    /* Only as much of it comes as the operation needs. */
    union {
        struct stat status;
        char text[4096];
    };
};

_Static_assert(sizeof(struct request) == 32, "as in preload.py");
_Static_assert(sizeof(struct stat) == 144, "as in syscalls.py");

#endif
