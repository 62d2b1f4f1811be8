/* SPDX-FileCopyrightText: The ihsm authors */
/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What Python sees of libvfio-user. Read by cffi and included by C: declarations only.
 * Functions that can fail return a negative errno.
 */
struct ihsm_vfu; /* a libvfio-user context with its region table and vectors */

enum ihsm_vfu_event {
    IHSM_VFU_TIMEOUT = 0,
    IHSM_VFU_STOPPED = 1,      /* the stop descriptor became readable */
    IHSM_VFU_DISCONNECTED = 2, /* the client is gone; attach again */
    IHSM_VFU_INTERRUPTED = 3   /* a signal arrived */
};
enum ihsm_vfu_access { IHSM_VFU_NO_ACCESS = 0, IHSM_VFU_PYTHON = 1, IHSM_VFU_DOORBELLS = 2, IHSM_VFU_MSIX = 3 };

/* What one client may have: ihsm_device.limits says why. */
struct ihsm_vfu_limits {
    uint64_t regions, mapped_bytes, filled_bytes, scratch_bytes;
};
enum ihsm_vfu_limit { IHSM_LIMIT_REGIONS = 0, IHSM_LIMIT_MAPPED_BYTES = 1, IHSM_LIMIT_UNWATCHED_BYTES = 2 };
/* What it has. */
struct ihsm_vfu_usage {
    uint64_t regions, mapped_bytes, filled_bytes;
};

/* Before the first context, once or more often. */
int ihsm_vfu_prepare(void);
/* Whether holes in clients' files can be watched; 0 or a negative errno. */
int ihsm_vfu_watches_holes(void);
int ihsm_vfu_new(const char *path, uint64_t handle, int log_level, struct ihsm_vfu **vfu);
void ihsm_vfu_free(struct ihsm_vfu *vfu);
int ihsm_vfu_set_ids(struct ihsm_vfu *vfu, unsigned vendor, unsigned device, unsigned subsystem_vendor,
                     unsigned subsystem);
int ihsm_vfu_set_class(struct ihsm_vfu *vfu, unsigned base, unsigned sub, unsigned interface, unsigned revision);
int ihsm_vfu_add_capability(struct ihsm_vfu *vfu, uint8_t *data, unsigned position, bool extended);
/* One that the library does not know, of so many bytes and behind the other extended ones: put where it says. */
int ihsm_vfu_place_capability(struct ihsm_vfu *vfu, const uint8_t *data, size_t size, unsigned position);
/* The mailbox whose capability has been placed there, which outlives the context; NULL: none. */
void ihsm_vfu_set_mailbox(struct ihsm_vfu *vfu, struct ihsm_doe *doe, unsigned position);
/* The interface whose streams have their capability there, which outlives the context; NULL: none. */
void ihsm_vfu_set_interface(struct ihsm_vfu *vfu, struct ihsm_tdi *tdi, unsigned position);
int ihsm_vfu_region(struct ihsm_vfu *vfu, int index, size_t size, int access, int mmap_fd, bool bits64);
/* Offer `fd` to the client as the descriptor to write to for accesses to a region (GET_REGION_IO_FDS). */
int ihsm_vfu_io_fd(struct ihsm_vfu *vfu, int index, int fd, size_t size);
int ihsm_vfu_irqs(struct ihsm_vfu *vfu, int type, unsigned count);
/* 4096 bytes each: the bits of configuration space that take what is written, and those that a written 1 clears. */
int ihsm_vfu_realize(struct ihsm_vfu *vfu, const uint8_t *writable, const uint8_t *clearable);
uint8_t *ihsm_vfu_config_space(struct ihsm_vfu *vfu);
int ihsm_vfu_poll_fd(struct ihsm_vfu *vfu);
int ihsm_vfu_attach(struct ihsm_vfu *vfu);
int ihsm_vfu_run(struct ihsm_vfu *vfu, int stop_fd, int timeout_ms);
int ihsm_vfu_trigger(struct ihsm_vfu *vfu, unsigned vector);
int ihsm_vfu_dma_read(struct ihsm_vfu *vfu, uint64_t iova, uint8_t *to, size_t len);
int ihsm_vfu_dma_write(struct ihsm_vfu *vfu, uint64_t iova, const uint8_t *from, size_t len);
/* Before the first client. */
void ihsm_vfu_set_limits(struct ihsm_vfu *vfu, const struct ihsm_vfu_limits *limits);
void ihsm_vfu_usage(struct ihsm_vfu *vfu, struct ihsm_vfu_usage *usage);
struct ihsm_host *ihsm_vfu_host(struct ihsm_vfu *vfu);
void ihsm_vfu_set_engine(struct ihsm_vfu *vfu, struct ihsm_engine *engine);
