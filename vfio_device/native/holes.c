/* SPDX-FileCopyrightText: The ihsm authors */
/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Holes in files that clients give as memory.
 *
 * A page of a sparse file comes into being when somebody touches it, and is then counted as memory of that process,
 * for good: who gives a file of a terabyte and names it in one command would take all that the device may have.
 * userfaultfd(2) reports such pages, and those alone, as SIGBUS to the thread that touches one; what is there already
 * is touched as before. Sealed and read-only files cannot be watched, huge pages (which are reserved when they are
 * mapped) need not be.
 */
#include "holes.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <pthread.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifndef UFFD_USER_MODE_ONLY
#define UFFD_USER_MODE_ONLY 1
#endif

static pthread_once_t once = PTHREAD_ONCE_INIT;
static int faults = -1, init_error;

/* Only what this process itself touches: the kernel touches no guest memory for us, and more needs a privilege. */
static void init(void) {
    struct uffdio_api api = {.api = UFFD_API, .features = UFFD_FEATURE_SIGBUS};
    faults = (int)syscall(SYS_userfaultfd, O_CLOEXEC | UFFD_USER_MODE_ONLY);
    if (faults >= 0 && ioctl(faults, UFFDIO_API, &api) == 0)
        return;
    init_error = -errno;
    if (faults >= 0)
        close(faults);
    faults = -1;
}

int ihsm_holes_init(void) {
    pthread_once(&once, init);
    return init_error;
}

bool ihsm_holes_watch(void *base, size_t len) {
    struct uffdio_register range = {.range = {(uintptr_t)base, len}, .mode = UFFDIO_REGISTER_MODE_MISSING};
    if (faults < 0 || ioctl(faults, UFFDIO_REGISTER, &range) != 0)
        return false;
    if (range.ioctls & UINT64_C(1) << _UFFDIO_ZEROPAGE)
        return true;
    ioctl(faults, UFFDIO_UNREGISTER, &range.range); /* huge pages */
    return false;
}

int ihsm_holes_fill(uintptr_t page, size_t page_bytes) {
    struct uffdio_zeropage zeros = {.range = {page, page_bytes}};
    return syscall(SYS_ioctl, faults, UFFDIO_ZEROPAGE, &zeros) == 0 ? 0 : -errno;
}
