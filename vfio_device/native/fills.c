/* SPDX-FileCopyrightText: The ihsm authors */
/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How much of the holes in a client's files the device has filled, and how much more it may fill.
 *
 * A client that uses its memory has most of it touched itself: rings and requests are written, and a guest's kernel
 * clears what it gives to a program. So what the device fills may be `limit` bytes more than what is in the files for
 * other reasons, which is the client's to pay for. A file tells how much is in it; of that, what the device has filled
 * cannot be more, however often the client gives pages back (a balloon) and has them filled anew.
 */
#include "fills.h"

#include <fcntl.h>
#include <stddef.h>
#include <unistd.h>

/* The files are asked again after so many bytes: their client may have taken away what it had filled. */
#define STEP_BYTES (INT64_C(4) << 20)
#define BLOCK_BYTES 512 /* of st_blocks */

void ihsm_fills_init(struct ihsm_fills *fills) { ihsm_fills_begin(fills, INT64_MAX / 2); }

void ihsm_fills_begin(struct ihsm_fills *fills, int64_t limit) {
    for (unsigned i = 0; i < IHSM_FILES; i++)
        fills->files[i].filled = 0;
    fills->lost = 0;
    fills->limit = limit < INT64_MAX / 2 ? limit : INT64_MAX / 2;
    fills->allowed = fills->limit;
}

struct ihsm_file *ihsm_fills_take(struct ihsm_fills *fills, int fd, int64_t reserved) {
    struct ihsm_file *unused = NULL;
    struct stat status;
    if (fstat(fd, &status) != 0)
        return NULL;
    for (struct ihsm_file *file = fills->files; file < fills->files + IHSM_FILES; file++) {
        if (file->regions == 0) {
            unused = file;
        } else if (file->device == status.st_dev && file->inode == status.st_ino) {
            file->regions++;
            if (reserved > file->reserved)
                file->reserved = reserved;
            return file;
        }
    }
    int own = unused == NULL ? -1 : fcntl(fd, F_DUPFD_CLOEXEC, 0);
    if (own < 0) {
        fills->lost += reserved;
        return NULL;
    }
    unused->device = status.st_dev;
    unused->inode = status.st_ino;
    unused->fd = own;
    unused->reserved = reserved;
    unused->filled = 0;
    unused->regions = 1;
    return unused;
}

void ihsm_fills_leave(struct ihsm_fills *fills, struct ihsm_file *file) {
    if (file == NULL || --file->regions > 0)
        return;
    close(file->fd);
    fills->lost += file->reserved + file->filled;
}

int64_t ihsm_fills_total(struct ihsm_fills *fills) {
    int64_t total = fills->lost;
    for (struct ihsm_file *file = fills->files; file < fills->files + IHSM_FILES; file++)
        if (file->regions > 0)
            total += file->reserved + file->filled;
    return total;
}

/* What is in a file; what the device has filled is set right. */
static int64_t there(struct ihsm_file *file) {
    struct stat status;
    int64_t filled = file->filled; /* before: meanwhile there is only more */
    if (fstat(file->fd, &status) != 0)
        return 0;
    int64_t bytes = (int64_t)status.st_blocks * BLOCK_BYTES;
    if (filled > bytes)
        atomic_compare_exchange_strong(&file->filled, &filled, bytes);
    return bytes;
}

/* What was filled in files that are known no more may be in one that is known again, hence counts as being there. */
static int64_t reckon(struct ihsm_fills *fills) {
    int64_t bytes = 0;
    for (struct ihsm_file *file = fills->files; file < fills->files + IHSM_FILES; file++)
        if (file->regions > 0)
            bytes += there(file);
    int64_t total = ihsm_fills_total(fills), most = fills->limit + (bytes > total ? bytes - total : 0);
    fills->allowed = most < total + STEP_BYTES ? most : total + STEP_BYTES;
    return most - total;
}

bool ihsm_fills_may(struct ihsm_fills *fills, int64_t bytes) {
    return fills->allowed - ihsm_fills_total(fills) >= bytes || reckon(fills) >= bytes;
}

void ihsm_fills_count(struct ihsm_fills *fills, struct ihsm_file *file, int64_t bytes) {
    atomic_fetch_add(file != NULL ? &file->filled : &fills->lost, bytes);
}
