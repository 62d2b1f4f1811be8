/* SPDX-FileCopyrightText: The ihsm authors */
/* SPDX-License-Identifier: Apache-2.0 */
/* What the stages of chardev_user share: telling what came of a call, and making calls. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "azihsm.h"
#include "messages.h"

#define COUNT(array) (sizeof(array) / sizeof(array)[0])
#define KEPT 0xEE /* in every byte of an answer before the call: what nobody writes keeps it */
#define PAGE 4096
#define KERNEL_HALF ((uint64_t)0xFFFF888000000000) /* an address of the kernel's */
#define NO_PROGRAM ((uint64_t)1 << 63)             /* nor can this be a program's */

/* How the program was started. */
struct options {
    const char *node;   /* path of the node, /dev/azihsm0 if not given */
    const char *helper; /* command of the co-process that knows how a session is opened, or NULL */
};
extern struct options options;

/* Prints a line that begins with the name of the stage. One write for a line, so that children need not flush. */
__attribute__((format(printf, 1, 2))) void say(const char *format, ...);
void set_stage(const char *name);

/* The program cannot go on: says why and ends with status 2. */
__attribute__((noreturn, format(printf, 1, 2))) void fail(const char *format, ...);

/* What a call returned, or -errno, as a word: "0", "EINVAL". */
const char *named(long result);

/* -errno instead of -1. */
long result_of(long returned);

long call(int fd, unsigned long number, void *argument);
int open_node(void);
int open_path(const char *path, int flags); /* as open(2), -errno instead of -1 */
int ready_node(void);                       /* the node opened, or the end of the program */

/* Device information in `info`, all other bytes KEPT. */
long device_info(int fd, struct ihsm_device_info *info);

/* A session ioctl with request and room for the answer; the answer's fields are KEPT. */
void fill_command(struct ihsm_generic_ioctl *command, const void *request, uint32_t size, void *response,
                  uint32_t room);
void set_session(struct ihsm_generic_ioctl *command, unsigned kind, bool id_valid, uint16_t id);

/* One session-less GetApiRev whose answer is checked: 0, -errno, or -EPROTO for a wrong answer. */
long ask(int fd);

/* Text of an attribute below the function's folder in sysfs, such as "global/total_submissions"; -errno on failure. */
long read_attribute(const char *name, char *text, size_t room);
long attribute_number(const char *name);
const char *function_folder(void); /* its path in /sys, found through the device information */

/* Two pages of which only the first may be touched. */
uint8_t *edge_pages(void);
uint8_t *pages_with(size_t size, int protection);

/* Runs `work` in a child, and waits for its end; returns the status of waitpid. */
int in_child(void (*work)(void *), void *argument);
void show_end(const char *who, int status);

/* The stages. */
void stage_glob(void);
void stage_device_info(void);
void stage_numbers(void);
void stage_files(void);
void stage_paths(void);
void stage_dup(void);
void stage_fork(void);
void stage_exec(void);
void stage_passed(void);
void stage_non_dumpable(void);
void stage_first_thread(void);
void stage_sysfs(void);
void stage_wrong_commands(void);
void stage_wrong_aes(void);
void stage_commands(void);
void stage_threads(void);
void stage_signals(void);
void stage_killed(void);
void stage_resets(void);
void stage_session(void);
void stage_session_life(void);
void stage_gcm(void);
void stage_xts(void);
void stage_wrong_session(void);

void after_exec(int inherited, int closed); /* what the re-executed program does */
