/* SPDX-FileCopyrightText: The ihsm authors */
/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Loaded before a program, makes it believe that an ordinary user runs it: as root, tshark ignores what the environment
 * says of where its data are, and then loads no scripts.
 */
#include <unistd.h>

enum { SOMEBODY = 1 };

uid_t getuid(void) { return SOMEBODY; }

uid_t geteuid(void) { return SOMEBODY; }

gid_t getgid(void) { return SOMEBODY; }

gid_t getegid(void) { return SOMEBODY; }
