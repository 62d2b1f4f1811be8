/* SPDX-FileCopyrightText: The ihsm authors */
/* SPDX-License-Identifier: Apache-2.0 */
/* Descriptors that clients send: which are taken, how an eventfd is written, how the rest are closed. */
#pragma once
#include <stdbool.h>

/* Before the others, once or more often; -errno. */
int ihsm_descriptors_init(void);
/* A regular file of tmpfs (memfd, shared memory) or hugetlbfs, whose pages come from memory. Asks no file system. */
bool ihsm_is_memory_file(int fd);
bool ihsm_is_eventfd(int fd);
/* Add 1 to an eventfd. Never waits, whatever a client does to it; -errno. */
int ihsm_notify(int eventfd);
/* Close a descriptor that is not kept. Its file system may let close() wait, but not us. */
void ihsm_discard(int fd);
