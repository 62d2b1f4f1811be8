/* SPDX-FileCopyrightText: The ihsm authors */
/* SPDX-License-Identifier: Apache-2.0 */
/* Commands one after the other: many COUNT THREADS. Each thread makes its part of them. */
#include <fcntl.h>
#include <pthread.h>
#include <unistd.h>

#include "toy.h"

static long each;

static void *make(void *unused) {
    int fd = open(NODE, O_RDWR);

    for (long i = 0; i < each; i++)
        CHECK(ioctl(fd, COUNT, 0) == 0);
    (void)close(fd);
    return unused;
}

int main(int count, char **arguments) {
    pthread_t made[64];
    long threads;

    CHECK(count == 3 && (threads = strtol(arguments[2], NULL, 10)) <= 64);
    each = strtol(arguments[1], NULL, 10) / threads;
    for (long i = 0; i < threads; i++)
        CHECK(pthread_create(&made[i], NULL, make, NULL) == 0);
    for (long i = 0; i < threads; i++)
        CHECK(pthread_join(made[i], NULL) == 0);
    return 0;
}
