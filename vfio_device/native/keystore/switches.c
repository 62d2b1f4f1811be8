/* SPDX-FileCopyrightText: The ihsm authors */
/* SPDX-License-Identifier: Apache-2.0 */
/* What an opened store allows beyond normal operation: validation hooks, and faults put into it by tests. */
#include "keystore.h"

#include <pthread.h>
#include <stdatomic.h>
#include <string.h>

static _Atomic bool hooks_on, faults_on;

enum { MAX_FAULTS = 16, FAULT_NAME = 32 };
static pthread_mutex_t fault_lock = PTHREAD_MUTEX_INITIALIZER;
static struct {
    char name[FAULT_NAME];
    int count;
} faults[MAX_FAULTS];

void ks_switches_set(bool hooks, bool may_fault) {
    pthread_mutex_lock(&fault_lock);
    memset(faults, 0, sizeof faults);
    pthread_mutex_unlock(&fault_lock);
    hooks_on = hooks;
    faults_on = may_fault;
}

bool ks_hooks_enabled(void) { return hooks_on; }

int ks_set_fault(const char *name, int count) {
    if (!faults_on)
        return KS_HOOKS;
    if (strlen(name) >= FAULT_NAME)
        return KS_ARG;
    int status = count == 0 ? KS_OK : KS_NOMEM;
    pthread_mutex_lock(&fault_lock);
    size_t entry = MAX_FAULTS;
    for (size_t i = MAX_FAULTS; i-- > 0;) {
        if (strcmp(faults[i].name, name) == 0) {
            entry = i;
            break;
        }
        if (faults[i].count == 0)
            entry = i;
    }
    if (entry < MAX_FAULTS && (count != 0 || strcmp(faults[entry].name, name) == 0)) {
        memset(faults[entry].name, 0, FAULT_NAME);
        if (count != 0)
            memcpy(faults[entry].name, name, strlen(name));
        faults[entry].count = count;
        status = KS_OK;
    }
    pthread_mutex_unlock(&fault_lock);
    return status;
}

bool ks_fault(const char *name) {
    if (!faults_on)
        return false;
    bool hit = false;
    pthread_mutex_lock(&fault_lock);
    for (size_t i = 0; i < MAX_FAULTS && !hit; i++) {
        hit = faults[i].count != 0 && strcmp(faults[i].name, name) == 0;
        if (!hit || faults[i].count < 0)
            continue;
        faults[i].count--;
        if (faults[i].count == 0)
            memset(faults[i].name, 0, FAULT_NAME);
    }
    pthread_mutex_unlock(&fault_lock);
    return hit;
}
