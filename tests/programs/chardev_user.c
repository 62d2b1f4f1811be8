/* SPDX-FileCopyrightText: The ihsm authors */
/* SPDX-License-Identifier: Apache-2.0 */
/* A program that uses the HSM node as programs do, rightly and wrongly, and prints what comes of it: a line each, the
 * same on every machine.
 *
 *   chardev_user [--node PATH] [--helper COMMAND] [--stage NAME]...
 *
 * It knows the driver's header and libc alone. What takes cryptography to begin with (a session) it leaves to the
 * command of --helper, see helper.h. Without --stage it does all. Exit status 2: it could not go on. */
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "helper.h"
#include "user.h"

struct stage {
    const char *name;
    void (*run)(void);
    bool needs_helper;
};

/* In this order, because the counters of sysfs begin anew with a reset, and sessions need a device that has been
 * provisioned since. */
static const struct stage stages[] = {
    {"glob", stage_glob, false},
    {"device-info", stage_device_info, false},
    {"numbers", stage_numbers, false},
    {"files", stage_files, false},
    {"paths", stage_paths, false},
    {"dup", stage_dup, false},
    {"fork", stage_fork, false},
    {"exec", stage_exec, false},
    {"passed", stage_passed, false},
    {"non-dumpable", stage_non_dumpable, false},
    {"first-thread", stage_first_thread, false},
    {"sysfs", stage_sysfs, false},
    {"commands", stage_commands, false},
    {"wrong-commands", stage_wrong_commands, false},
    {"wrong-aes", stage_wrong_aes, false},
    {"threads", stage_threads, false},
    {"signals", stage_signals, false},
    {"resets", stage_resets, false},
    {"session", stage_session, true},
    {"wrong-session", stage_wrong_session, true},
    {"gcm", stage_gcm, true},
    {"xts", stage_xts, true},
    {"session-life", stage_session_life, true},
    {"killed", stage_killed, true},
};

static void run(const struct stage *stage) {
    set_stage(stage->name);
    if (stage->needs_helper && options.helper == NULL)
        say("left out: no helper");
    else
        stage->run();
}

static void run_named(const char *name) {
    for (size_t i = 0; i < COUNT(stages); i++)
        if (strcmp(stages[i].name, name) == 0) {
            run(&stages[i]);
            return;
        }
    fail("--stage %s: there is none of that name", name);
}

int main(int count, char **arguments) {
    static const struct option known[] = {
        {"node", required_argument, NULL, 'n'},   {"helper", required_argument, NULL, 'h'},
        {"stage", required_argument, NULL, 's'},  {"inherited", required_argument, NULL, 'i'},
        {"closed", required_argument, NULL, 'c'}, {NULL, 0, NULL, 0},
    };
    const char *chosen[COUNT(stages)];
    size_t number = 0;
    int inherited = -1;
    int closed = -1;
    /* NOLINTNEXTLINE(concurrency-mt-unsafe): there is one thread */
    for (int option; (option = getopt_long(count, arguments, "", known, NULL)) != -1;)
        switch (option) {
        case 'n':
            options.node = optarg;
            break;
        case 'h':
            options.helper = optarg;
            break;
        case 's':
            if (number == COUNT(chosen))
                fail("too many stages");
            chosen[number++] = optarg;
            break;
        case 'i':
            inherited = (int)strtol(optarg, NULL, 10);
            break;
        case 'c':
            closed = (int)strtol(optarg, NULL, 10);
            break;
        default:
            return 2;
        }
    if (inherited >= 0) {
        set_stage("exec");
        after_exec(inherited, closed);
        return 0;
    }
    for (size_t i = 0; i < number; i++)
        run_named(chosen[i]);
    for (size_t i = 0; number == 0 && i < COUNT(stages); i++)
        run(&stages[i]);
    end_helper();
    return 0;
}
