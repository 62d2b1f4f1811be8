/* SPDX-FileCopyrightText: The ihsm authors */
/* SPDX-License-Identifier: Apache-2.0 */
/*
 * libvfio-user behind the host interface, and for Python.
 *
 * A context is not thread-safe: one thread runs it, with the function mutex held. The DMA callbacks keep the region
 * table; memory is reached through the pointers they give and never through messages, which would break the connection
 * when the client writes at the same time. Unregistering takes the write side of the table's lock, so no worker
 * touches a mapping once its callback has returned.
 */
#include "engine.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <libvfio-user.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <syslog.h>

#include "config_space.h"
#include "descriptors.h"
#include "doe.h"
#include "holes.h"
#include "tdi.h"
#include "vfu.cdef.h"
#include "vfu_callbacks.cdef.h"

#ifndef IHSM_IOEVENTFD_MORE
#define IHSM_IOEVENTFD_MORE /* further arguments that the library's revision wants, set by meson.build */
#endif
#define REGIONS VFU_PCI_DEV_NUM_REGIONS
_Static_assert(IHSM_CONFIG_REGION == VFU_PCI_DEV_CFG_REGION_IDX, "configuration space as a region");
_Static_assert((int)IHSM_TRACE_RESET_DEVICE == (int)VFU_RESET_DEVICE &&
                   (int)IHSM_TRACE_RESET_LOST_CONNECTION == (int)VFU_RESET_LOST_CONN &&
                   (int)IHSM_TRACE_RESET_FUNCTION_LEVEL == (int)VFU_RESET_PCI_FLR,
               "resets as the library has them");
/* Failures of the connection in a row after which the client is dropped. */
#define MAX_FAILURES 8

struct ihsm_vfu {
    struct ihsm_host host;
    vfu_ctx_t *context;
    uint64_t handle;
    struct ihsm_engine *engine;
    enum ihsm_vfu_access access[REGIONS];
    bool bits64[REGIONS];
    struct ihsm_config_space config;
    struct ihsm_doe *doe; /* NULL: there is no mailbox */
    size_t doe_at;        /* its capability */
    struct ihsm_tdi *tdi; /* NULL: there is no interface of trusted I/O */
    size_t ide_at;        /* the capability of its streams */
    struct stat file;     /* the last that a client gave as memory */
    struct {              /* what the region that is being made is of; -1: of no file */
        int fd;
        int64_t offset, reserved;
    } made;
    struct ihsm_vfu_limits limits;
    _Atomic uint64_t regions, mapped_bytes;
    bool triggering; /* the library complains of vectors without an eventfd; we count them instead */
};

static struct ihsm_vfu *of(vfu_ctx_t *context) { return vfu_get_private(context); }

static void on_log(vfu_ctx_t *context, int level, const char *message) {
    struct ihsm_vfu *vfu = of(context);
    if (!vfu->triggering)
        ihsm_py_log(vfu->handle, level, message);
}

static void doorbells(struct ihsm_vfu *vfu, const char *data, size_t count, uint64_t offset) {
    uint32_t value;
    if (vfu->engine == NULL)
        return;
    if (count % sizeof value != 0) {
        ihsm_count(&vfu->engine->counters.doorbells_unknown_queue, 1);
        return;
    }
    for (size_t i = 0; i < count; i += sizeof value) {
        memcpy(&value, data + i, sizeof value);
        ihsm_engine_doorbell(vfu->engine, offset + i, value);
    }
}

static ssize_t on_access(vfu_ctx_t *context, int index, char *data, size_t count, loff_t offset, bool is_write) {
    struct ihsm_vfu *vfu = of(context);
    struct ihsm_trace *trace = &vfu->host.trace;
    int64_t done = (int64_t)count;
    /* Before what it sets off; whole doorbells are recorded where their queue is known. */
    if (is_write && (vfu->access[index] != IHSM_VFU_DOORBELLS || count % sizeof(uint32_t) != 0))
        ihsm_trace_access(trace, IHSM_TRACE_KIND_REGISTER_WRITE, index, (uint64_t)offset, data, count);
    switch (vfu->access[index]) {
    case IHSM_VFU_DOORBELLS:
        if (is_write)
            doorbells(vfu, data, count, (uint64_t)offset);
        else
            memset(data, 0, count); /* write-only, with a page too: who maps it sees what was written */
        break;
    case IHSM_VFU_MSIX:
        if (is_write)
            ihsm_host_msix_write(&vfu->host, (uint64_t)offset, (const uint8_t *)data, count);
        else
            ihsm_host_msix_read(&vfu->host, (uint64_t)offset, (uint8_t *)data, count);
        break;
    case IHSM_VFU_PYTHON:
        done = ihsm_py_region_access(vfu->handle, index, data, count, offset, is_write);
        break;
    case IHSM_VFU_NO_ACCESS:
        done = -1;
        break;
    }
    if (done < 0)
        errno = EIO;
    else if (!is_write)
        ihsm_trace_access(trace, IHSM_TRACE_KIND_REGISTER_READ, index, (uint64_t)offset, data, count);
    return (ssize_t)done;
}

/* The library's callbacks do not say which region they are for, hence one function each. */
#define ACCESS(index)                                                                                                  \
    static ssize_t access_##index(vfu_ctx_t *context, char *data, size_t count, loff_t offset, bool is_write) {        \
        return on_access(context, index, data, count, offset, is_write);                                               \
    }
ACCESS(0)
ACCESS(1)
ACCESS(2)
ACCESS(3)
ACCESS(4)
ACCESS(5)
static vfu_region_access_cb_t *const bar_access[] = {access_0, access_1, access_2, access_3, access_4, access_5};

/* The next client may have what this one has had. */
static void forget_fills(struct ihsm_vfu *vfu) {
    struct ihsm_regions *regions = &vfu->host.regions;
    ihsm_regions_write_lock(regions);
    ihsm_fills_begin(&regions->fills, (int64_t)vfu->limits.filled_bytes);
    atomic_store(&regions->scratch_left, (int64_t)vfu->limits.scratch_bytes);
    regions->scratch_bytes = (int64_t)vfu->limits.scratch_bytes;
    ihsm_regions_write_unlock(regions);
}

static struct ihsm_tdi_registers interface_registers(const struct ihsm_vfu *vfu) {
    const struct ihsm_config_space *config = &vfu->config;
    struct ihsm_tdi_registers registers = {0};
    memcpy(&registers.command, config->bytes + IHSM_COMMAND_OFFSET, sizeof registers.command);
    memcpy(registers.bars, config->bytes + IHSM_BARS_OFFSET, sizeof registers.bars);
    memcpy(registers.ide, config->bytes + vfu->ide_at + IHSM_IDE_CAPABILITY_OFFSET, sizeof registers.ide);
    if (config->msix != 0)
        memcpy(&registers.msix_control, config->bytes + config->msix + IHSM_MSIX_CONTROL_OFFSET,
               sizeof registers.msix_control);
    return registers;
}

/* Nobody finds what another has left in configuration space. */
static void reset_config(struct ihsm_vfu *vfu, vfu_reset_type_t type) {
    ihsm_config_space_reset(&vfu->config);
    vfu->host.msix.function_mask = false;
    if (vfu->tdi != NULL && vfu->config.bytes != NULL) {
        struct ihsm_tdi_registers registers = interface_registers(vfu);
        ihsm_tdi_reset(vfu->tdi, &registers, type == VFU_RESET_LOST_CONN);
    }
    if (vfu->doe != NULL)
        ihsm_doe_reset(vfu->doe, (int)type);
}

static int on_reset(vfu_ctx_t *context, vfu_reset_type_t type) {
    struct ihsm_vfu *vfu = of(context);
    ihsm_trace_reset(&vfu->host.trace, (int)type);
    reset_config(vfu, type); /* before anybody hears of it: none of ours runs with the settings of before */
    bool done = ihsm_py_reset(vfu->handle, (int)type) == 0;
    if (type == VFU_RESET_LOST_CONN)
        forget_fills(vfu);
    if (type == VFU_RESET_LOST_CONN && vfu->engine != NULL && ihsm_engine_renew_page(vfu->engine) != 0)
        ihsm_py_log(vfu->handle, LOG_WARNING, "no new doorbell page: the next client shares that of the last");
    if (done)
        return 0;
    errno = EIO;
    return -1;
}

static bool meets(size_t offset, size_t count, size_t at, size_t size) {
    return offset < at + size && offset + count > at;
}

static bool meets_mailbox(const struct ihsm_vfu *vfu, size_t offset, size_t count) {
    return vfu->doe != NULL && meets(offset, count, vfu->doe_at, IHSM_DOE_BYTES);
}

static void read_config(struct ihsm_vfu *vfu, char *data, size_t count, size_t offset) {
    if (vfu->host.removed) {
        memset(data, 0xFF, count);
        return;
    }
    if (meets_mailbox(vfu, offset, count))
        ihsm_doe_show(vfu->doe, vfu->config.bytes + vfu->doe_at);
    if (vfu->tdi != NULL && meets(offset, count, vfu->ide_at, IHSM_IDE_BYTES))
        ihsm_tdi_show(vfu->tdi, vfu->config.bytes + vfu->ide_at);
    memcpy(data, vfu->config.bytes + offset, count);
}

static void follow_config(struct ihsm_vfu *vfu) {
    if (vfu->tdi == NULL)
        return;
    struct ihsm_tdi_registers registers = interface_registers(vfu);
    if (ihsm_tdi_follow(vfu->tdi, &registers))
        ihsm_py_interface_failed(vfu->handle);
}

/* Every access to configuration space; the library has compared it with the region's size. */
static ssize_t config_access(vfu_ctx_t *context, char *data, size_t count, loff_t offset, bool is_write) {
    struct ihsm_vfu *vfu = of(context);
    struct ihsm_trace *trace = &vfu->host.trace;
    if (!is_write) {
        read_config(vfu, data, count, (size_t)offset);
        ihsm_trace_access(trace, IHSM_TRACE_KIND_REGISTER_READ, IHSM_CONFIG_REGION, (uint64_t)offset, data, count);
        return (ssize_t)count;
    }
    ihsm_trace_access(trace, IHSM_TRACE_KIND_REGISTER_WRITE, IHSM_CONFIG_REGION, (uint64_t)offset, data, count);
    if (vfu->host.removed)
        return (ssize_t)count;
    if (meets_mailbox(vfu, (size_t)offset, count) && (size_t)offset >= vfu->doe_at)
        ihsm_doe_write(vfu->doe, (size_t)offset - vfu->doe_at, (const uint8_t *)data, count);
    bool level_reset = ihsm_config_space_write(&vfu->config, (size_t)offset, (const uint8_t *)data, count);
    vfu->host.msix.function_mask = ihsm_config_space_function_mask(&vfu->config);
    follow_config(vfu);
    if (level_reset && on_reset(context, VFU_RESET_PCI_FLR) < 0)
        return -1;
    return (ssize_t)count;
}

static struct ihsm_file *take_file(struct ihsm_vfu *vfu) {
    struct ihsm_regions *regions = &vfu->host.regions;
    if (vfu->made.fd < 0)
        return NULL;
    ihsm_regions_write_lock(regions);
    struct ihsm_file *file = ihsm_fills_take(&regions->fills, vfu->made.fd, vfu->made.reserved);
    ihsm_regions_write_unlock(regions);
    vfu->made.fd = -1; /* the library closes it */
    return file;
}

static void leave_file(struct ihsm_vfu *vfu, struct ihsm_file *file) {
    struct ihsm_regions *regions = &vfu->host.regions;
    ihsm_regions_write_lock(regions);
    ihsm_fills_leave(&regions->fills, file);
    ihsm_regions_write_unlock(regions);
}

static void on_map(vfu_ctx_t *context, vfu_dma_info_t *info) {
    struct ihsm_vfu *vfu = of(context);
    uint64_t iova = (uint64_t)(uintptr_t)info->iova.iov_base;
    bool watched = info->vaddr != NULL && ihsm_holes_watch(info->mapping.iov_base, info->mapping.iov_len);
    struct ihsm_file *file = take_file(vfu);
    int error =
        ihsm_host_map(&vfu->host, &(struct ihsm_region){
                                      .iova = iova,
                                      .last = iova + (info->iova.iov_len - 1),
                                      .vaddr = info->vaddr,
                                      .readable = info->prot & PROT_READ,
                                      .writable = info->prot & PROT_WRITE,
                                      .mapping = {info->mapping.iov_base, info->mapping.iov_len, info->page_size},
                                      .file = file,
                                      .offset = vfu->made.offset & ~((int64_t)info->page_size - 1),
                                      .watched = watched,
                                  });
    if (error != 0) {
        leave_file(vfu, file);
        return;
    }
    vfu->regions++;
    vfu->mapped_bytes += info->mapping.iov_len;
    ihsm_py_dma(vfu->handle, true, iova, info->iova.iov_len, info->vaddr != NULL, vfu->file.st_dev, vfu->file.st_ino);
}

static void on_unmap(vfu_ctx_t *context, vfu_dma_info_t *info) {
    struct ihsm_vfu *vfu = of(context);
    uint64_t iova = (uint64_t)(uintptr_t)info->iova.iov_base;
    if (ihsm_host_unmap(&vfu->host, iova, info->iova.iov_len) != 0)
        return;
    vfu->regions--;
    vfu->mapped_bytes -= info->mapping.iov_len;
    ihsm_py_dma(vfu->handle, false, iova, info->iova.iov_len, info->vaddr != NULL, 0, 0);
}

#ifdef VFU_DESCRIPTOR_CALLBACKS
static bool is_memory(vfu_ctx_t *context, int fd, uint64_t iova, uint64_t size) {
    if (ihsm_is_memory_file(fd) && fstat(fd, &of(context)->file) == 0)
        return true;
    struct statx status = {0};
    (void)!statx(fd, "", AT_EMPTY_PATH | AT_STATX_DONT_SYNC, 0, &status); /* what is known already: nobody is asked */
    ihsm_py_refused_memory(of(context)->handle, iova, size, fd, status.stx_dev_major, status.stx_dev_minor);
    return false;
}

static int at_limit(struct ihsm_vfu *vfu, enum ihsm_vfu_limit limit) {
    ihsm_py_at_limit(vfu->handle, limit);
    return -1;
}

/* Holes in a file that the device may not write to cannot be watched: all that there may be count as filled. */
static int64_t unwatched(int fd, uint64_t size) {
    const int sealed = F_SEAL_WRITE | F_SEAL_FUTURE_WRITE;
    struct stat status;
    if (ihsm_holes_init() != 0 || fstat(fd, &status) != 0)
        return 0;
    int seals = fcntl(fd, F_GET_SEALS); /* -1: there are none in this file system */
    if ((fcntl(fd, F_GETFL) & O_ACCMODE) != O_RDONLY && (seals < 0 || (seals & sealed) == 0))
        return 0;
    int64_t holes = status.st_size - (int64_t)status.st_blocks * 512;
    if (holes < 0)
        holes = 0;
    return (uint64_t)holes < size ? holes : (int64_t)size;
}

static bool may_fill(struct ihsm_vfu *vfu, int64_t bytes) {
    struct ihsm_regions *regions = &vfu->host.regions;
    ihsm_regions_read_lock(regions);
    bool may = ihsm_fills_may(&regions->fills, bytes);
    ihsm_regions_unlock(regions);
    return may;
}

static int admit(vfu_ctx_t *context, int fd, uint64_t offset, uint64_t size) {
    struct ihsm_vfu *vfu = of(context);
    vfu->made.fd = -1;
    if (vfu->regions >= vfu->limits.regions)
        return at_limit(vfu, IHSM_LIMIT_REGIONS);
    if (fd == -1)
        return 0;
    if (size > vfu->limits.mapped_bytes || vfu->mapped_bytes > vfu->limits.mapped_bytes - size)
        return at_limit(vfu, IHSM_LIMIT_MAPPED_BYTES);
    int64_t reserved = unwatched(fd, size);
    if (reserved > 0 && !may_fill(vfu, reserved))
        return at_limit(vfu, IHSM_LIMIT_UNWATCHED_BYTES);
    vfu->made.fd = fd;
    vfu->made.offset = (int64_t)offset;
    vfu->made.reserved = reserved;
    return 0;
}

static bool is_event(vfu_ctx_t *context, int fd) {
    (void)context;
    return ihsm_is_eventfd(fd);
}

static int notify(vfu_ctx_t *context, int fd) {
    (void)context;
    errno = -ihsm_notify(fd);
    return errno == 0 ? 0 : -1;
}

static void discard(vfu_ctx_t *context, int fd) {
    (void)context;
    ihsm_discard(fd);
}

static const vfu_descriptor_callbacks_t descriptor_callbacks = {is_memory, admit, is_event, notify, discard};
#endif

static bool raise_vector(struct ihsm_host *host, unsigned vector) {
    struct ihsm_vfu *vfu = (struct ihsm_vfu *)host;
    vfu->triggering = true;
    bool raised = vfu_irq_trigger(vfu->context, vector) == 0;
    vfu->triggering = false;
    return raised;
}

static void restore_config(struct ihsm_host *host) { reset_config((struct ihsm_vfu *)host, VFU_RESET_PCI_FLR); }

int ihsm_vfu_prepare(void) {
    (void)ihsm_holes_init(); /* the device works without */
    return ihsm_descriptors_init();
}

int ihsm_vfu_watches_holes(void) { return ihsm_holes_init(); }

void ihsm_vfu_set_limits(struct ihsm_vfu *vfu, const struct ihsm_vfu_limits *limits) {
    vfu->limits = *limits;
    forget_fills(vfu);
}

void ihsm_vfu_usage(struct ihsm_vfu *vfu, struct ihsm_vfu_usage *usage) {
    /* No lock: whoever holds it may wait for its client. */
    *usage = (struct ihsm_vfu_usage){.regions = vfu->regions,
                                     .mapped_bytes = vfu->mapped_bytes,
                                     .filled_bytes = (uint64_t)ihsm_fills_total(&vfu->host.regions.fills)};
}

int ihsm_vfu_new(const char *path, uint64_t handle, int log_level, struct ihsm_vfu **out) {
    struct ihsm_vfu *vfu = calloc(1, sizeof *vfu);
    if (vfu == NULL)
        return -ENOMEM;
    ihsm_guard_guest_memory();
    int error = ihsm_host_init(&vfu->host, raise_vector);
    if (error) {
        free(vfu);
        return error;
    }
    vfu->host.restore_config = restore_config;
    vfu->handle = handle;
    vfu->made.fd = -1;
    vfu->limits = (struct ihsm_vfu_limits){INT64_MAX, INT64_MAX, INT64_MAX, INT64_MAX};
    vfu->context = vfu_create_ctx(VFU_TRANS_SOCK, path, LIBVFIO_USER_FLAG_ATTACH_NB, vfu, VFU_DEV_TYPE_PCI);
    if (vfu->context == NULL || vfu_setup_log(vfu->context, on_log, log_level) < 0 ||
        vfu_pci_init(vfu->context, VFU_PCI_TYPE_EXPRESS, PCI_HEADER_TYPE_NORMAL, 0) < 0 ||
        vfu_setup_region(vfu->context, VFU_PCI_DEV_CFG_REGION_IDX, PCI_CFG_SPACE_EXP_SIZE, config_access,
                         VFU_REGION_FLAG_RW | VFU_REGION_FLAG_ALWAYS_CB, NULL, 0, -1, 0) < 0 ||
        vfu_setup_device_reset_cb(vfu->context, on_reset) < 0 ||
        vfu_setup_device_dma(vfu->context, on_map, on_unmap) < 0 ||
        /* The library keeps the eventfds of these two in the places of MSI-X vectors: offer none. */
        vfu_setup_device_nr_irqs(vfu->context, VFU_DEV_ERR_IRQ, 0) < 0 ||
        vfu_setup_device_nr_irqs(vfu->context, VFU_DEV_REQ_IRQ, 0) < 0) {
        error = -errno;
        if (vfu->context != NULL)
            vfu_destroy_ctx(vfu->context);
        ihsm_host_destroy(&vfu->host);
        free(vfu);
        return error;
    }
#ifdef VFU_DESCRIPTOR_CALLBACKS
    vfu_setup_descriptor_callbacks(vfu->context, &descriptor_callbacks);
#endif
    *out = vfu;
    return 0;
}

void ihsm_vfu_free(struct ihsm_vfu *vfu) {
    ihsm_host_lock(&vfu->host);
    vfu_destroy_ctx(vfu->context); /* calls back: unmaps every region, then a reset of type 'lost connection' */
    pthread_mutex_unlock(&vfu->host.mutex);
    ihsm_host_destroy(&vfu->host);
    free(vfu);
}

int ihsm_vfu_set_ids(struct ihsm_vfu *vfu, unsigned vendor, unsigned device, unsigned subsystem_vendor,
                     unsigned subsystem) {
    vfu_pci_set_id(vfu->context, (uint16_t)vendor, (uint16_t)device, (uint16_t)subsystem_vendor, (uint16_t)subsystem);
    return 0;
}

int ihsm_vfu_set_class(struct ihsm_vfu *vfu, unsigned base, unsigned sub, unsigned interface, unsigned revision) {
    vfu_pci_set_class(vfu->context, (uint8_t)base, (uint8_t)sub, (uint8_t)interface);
    vfu_pci_get_config_space(vfu->context)->hdr.rid = (uint8_t)revision;
    return 0;
}

int ihsm_vfu_add_capability(struct ihsm_vfu *vfu, uint8_t *data, unsigned position, bool extended) {
    ssize_t offset = vfu_pci_add_capability(vfu->context, position, extended ? VFU_CAP_FLAG_EXTENDED : 0, data);
    if (offset < 0)
        return -errno;
    if (!extended && data[0] == PCI_CAP_ID_PM)
        vfu->config.power_management = (size_t)offset;
    else if (!extended && data[0] == PCI_CAP_ID_EXP)
        vfu->config.express = (size_t)offset;
    else if (!extended && data[0] == PCI_CAP_ID_MSIX)
        vfu->config.msix = (size_t)offset;
    return (int)offset;
}

int ihsm_vfu_place_capability(struct ihsm_vfu *vfu, const uint8_t *data, size_t size, unsigned position) {
    uint8_t *bytes = ihsm_vfu_config_space(vfu);
    uint32_t header;
    size_t last = PCI_CFG_SPACE_SIZE, end = last + sizeof header;
    if (position % sizeof header != 0 || position < PCI_CFG_SPACE_SIZE || size < sizeof header ||
        position + size > PCI_CFG_SPACE_EXP_SIZE)
        return -EINVAL;
    for (;;) {
        memcpy(&header, bytes + last, sizeof header);
        size_t next = header >> IHSM_EXTENDED_HEADER_NEXT_SHIFT;
        if (next == 0)
            break;
        last = next;
        end = last + sizeof header;
    }
    if (header == 0 || position < end)
        return -EINVAL; /* it would be the first, or before the last */
    header |= position << IHSM_EXTENDED_HEADER_NEXT_SHIFT;
    memcpy(bytes + last, &header, sizeof header);
    memcpy(bytes + position, data, size);
    return 0;
}

void ihsm_vfu_set_mailbox(struct ihsm_vfu *vfu, struct ihsm_doe *doe, unsigned position) {
    ihsm_host_lock(&vfu->host);
    vfu->doe = doe;
    vfu->doe_at = position;
    ihsm_host_unlock(&vfu->host);
}

void ihsm_vfu_set_interface(struct ihsm_vfu *vfu, struct ihsm_tdi *tdi, unsigned position) {
    ihsm_host_lock(&vfu->host);
    vfu->tdi = tdi;
    vfu->ide_at = position;
    ihsm_host_unlock(&vfu->host);
}

int ihsm_vfu_region(struct ihsm_vfu *vfu, int index, size_t size, int access, int mmap_fd, bool bits64) {
    if (index < VFU_PCI_DEV_BAR0_REGION_IDX || index > VFU_PCI_DEV_BAR5_REGION_IDX - bits64)
        return -EINVAL;
    vfu->access[index] = access;
    vfu->bits64[index] = bits64;
    if (vfu_setup_region(vfu->context, index, size, bar_access[index], VFU_REGION_FLAG_RW | VFU_REGION_FLAG_MEM, NULL,
                         0, mmap_fd, 0) < 0)
        return -errno;
    return 0;
}

int ihsm_vfu_io_fd(struct ihsm_vfu *vfu, int index, int fd, size_t size) {
    int result = vfu_create_ioeventfd(vfu->context, (uint32_t)index, fd, 0, (uint32_t)size, 0, 0 IHSM_IOEVENTFD_MORE);
    return result < 0 ? -errno : 0;
}

int ihsm_vfu_irqs(struct ihsm_vfu *vfu, int type, unsigned count) {
    return vfu_setup_device_nr_irqs(vfu->context, type, count) < 0 ? -errno : 0;
}

int ihsm_vfu_realize(struct ihsm_vfu *vfu, const uint8_t *writable, const uint8_t *clearable) {
    if (vfu_realize_ctx(vfu->context) < 0)
        return -errno;
    /* The library knows 32-bit BARs alone, and gives those that do not exist the type of I/O space. */
    vfu_pci_hdr_t *header = &vfu_pci_get_config_space(vfu->context)->hdr;
    for (int index = VFU_PCI_DEV_BAR0_REGION_IDX; index <= VFU_PCI_DEV_BAR5_REGION_IDX; index++)
        header->bars[index].raw = vfu->bits64[index] ? IHSM_BAR_64_BITS : 0;
    ihsm_config_space_begin(&vfu->config, ihsm_vfu_config_space(vfu), writable, clearable);
    follow_config(vfu);
    return 0;
}

uint8_t *ihsm_vfu_config_space(struct ihsm_vfu *vfu) { return (uint8_t *)vfu_pci_get_config_space(vfu->context); }

int ihsm_vfu_poll_fd(struct ihsm_vfu *vfu) { return vfu_get_poll_fd(vfu->context); }

int ihsm_vfu_attach(struct ihsm_vfu *vfu) {
    ihsm_host_lock(&vfu->host);
    int result = vfu_attach_ctx(vfu->context) < 0 ? -errno : 0;
    ihsm_host_unlock(&vfu->host);
    return result;
}

/* One message of the client; 0 or a negative errno. */
static int run_once(struct ihsm_vfu *vfu) {
    ihsm_host_lock(&vfu->host);
    int result = vfu_run_ctx(vfu->context) < 0 ? -errno : 0;
    ihsm_host_unlock(&vfu->host);
    return result;
}

int ihsm_vfu_run(struct ihsm_vfu *vfu, int stop_fd, int timeout_ms) {
    for (unsigned failures = 0;;) {
        struct pollfd fds[] = {{.fd = vfu_get_poll_fd(vfu->context), .events = POLLIN},
                               {.fd = stop_fd, .events = POLLIN}};
        int ready = poll(fds, 2, timeout_ms);
        if (ready < 0)
            return errno == EINTR ? IHSM_VFU_INTERRUPTED : -errno;
        if (ready == 0)
            return IHSM_VFU_TIMEOUT;
        if (fds[1].revents != 0)
            return IHSM_VFU_STOPPED;
        int error = run_once(vfu);
        if (error == -ENOTCONN)
            return IHSM_VFU_DISCONNECTED;
        if (error == 0) {
            failures = 0;
        } else if (++failures == MAX_FAILURES) {
            /* The stream is beyond repair: end it, and let the next round see a lost connection. */
            shutdown(fds[0].fd, SHUT_RDWR);
        } else if (failures > 2 * MAX_FAILURES) {
            return error;
        }
    }
}

int ihsm_vfu_trigger(struct ihsm_vfu *vfu, unsigned vector) {
    if (vector >= IHSM_MSIX_VECTORS)
        return -EINVAL;
    ihsm_host_request_vector(&vfu->host, (int)vector);
    ihsm_host_kick(&vfu->host);
    return 0;
}

int ihsm_vfu_dma_read(struct ihsm_vfu *vfu, uint64_t iova, uint8_t *to, size_t len) {
    ihsm_regions_read_lock(&vfu->host.regions);
    bool done = ihsm_regions_read(&vfu->host.regions, iova, to, len);
    ihsm_regions_unlock(&vfu->host.regions);
    return done ? 0 : -EFAULT;
}

int ihsm_vfu_dma_write(struct ihsm_vfu *vfu, uint64_t iova, const uint8_t *from, size_t len) {
    ihsm_regions_read_lock(&vfu->host.regions);
    bool done = ihsm_regions_write(&vfu->host.regions, iova, from, len);
    ihsm_regions_unlock(&vfu->host.regions);
    return done ? 0 : -EFAULT;
}

struct ihsm_host *ihsm_vfu_host(struct ihsm_vfu *vfu) { return &vfu->host; }

void ihsm_vfu_set_engine(struct ihsm_vfu *vfu, struct ihsm_engine *engine) {
    ihsm_host_lock(&vfu->host);
    vfu->engine = engine;
    ihsm_host_unlock(&vfu->host);
}
