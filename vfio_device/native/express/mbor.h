/* SPDX-FileCopyrightText: The ihsm authors */
/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Reading and writing canonical MBOR (spec 03 §2): the steps that the generated ddi.h, which includes this, is made of.
 *
 * A step that reads says whether there was what it wants; nothing is looked at beyond the end.
 */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

/* An array of bytes in a message; of one that is written, the place for the bytes, filled in later. */
struct ihsm_octets {
    uint8_t *bytes;
    uint16_t len;
};

struct ihsm_mbor_in {
    const uint8_t *message;
    size_t at, len;
};

/* There is room for what is written: the messages have greatest lengths. */
struct ihsm_mbor_out {
    uint8_t *message;
    size_t at;
};

static inline bool ihsm_mbor_has(const struct ihsm_mbor_in *in, size_t len) { return len <= in->len - in->at; }

static inline bool ihsm_mbor_same(struct ihsm_mbor_in *in, const char *fixed, size_t len) {
    if (!ihsm_mbor_has(in, len) || memcmp(in->message + in->at, fixed, len) != 0)
        return false;
    in->at += len;
    return true;
}

static inline bool ihsm_mbor_read_number(struct ihsm_mbor_in *in, uint32_t *value, size_t len) {
    if (!ihsm_mbor_has(in, len))
        return false;
    *value = 0;
    for (size_t end = in->at + len; in->at < end; in->at++)
        *value = *value << 8 | in->message[in->at];
    return true;
}

static inline bool ihsm_mbor_read_u16(struct ihsm_mbor_in *in, uint16_t *value) {
    uint32_t number = 0;
    bool there = ihsm_mbor_read_number(in, &number, sizeof *value);
    *value = (uint16_t)number;
    return there;
}

static inline bool ihsm_mbor_read_u32(struct ihsm_mbor_in *in, uint32_t *value) {
    return ihsm_mbor_read_number(in, value, sizeof *value);
}

/* Bytes of fill between the head of an array of bytes that begins at `at` and its aligned data. */
static inline size_t ihsm_mbor_fill(size_t at) { return -(at + 1 + sizeof(uint16_t)) & IHSM_MBOR_PAD_MASK; }

static inline bool ihsm_mbor_read_octets(struct ihsm_mbor_in *in, struct ihsm_octets *value, size_t max) {
    size_t fill = ihsm_mbor_fill(in->at);
    const char marker = (char)(IHSM_MBOR_BYTES_MARKER | fill);
    if (!ihsm_mbor_same(in, &marker, 1) || !ihsm_mbor_read_u16(in, &value->len) || value->len > max ||
        !ihsm_mbor_same(in, "\0\0\0", fill) || !ihsm_mbor_has(in, value->len))
        return false;
    value->bytes = (uint8_t *)in->message + in->at;
    in->at += value->len;
    return true;
}

static inline void ihsm_mbor_put(struct ihsm_mbor_out *out, const char *fixed, size_t len) {
    memcpy(out->message + out->at, fixed, len);
    out->at += len;
}

static inline void ihsm_mbor_write_number(struct ihsm_mbor_out *out, uint32_t value, size_t len) {
    for (size_t left = len; left-- > 0; value >>= 8)
        out->message[out->at + left] = (uint8_t)value;
    out->at += len;
}

static inline void ihsm_mbor_write_u16(struct ihsm_mbor_out *out, uint16_t value) {
    ihsm_mbor_write_number(out, value, sizeof value);
}

static inline void ihsm_mbor_write_u32(struct ihsm_mbor_out *out, uint32_t value) {
    ihsm_mbor_write_number(out, value, sizeof value);
}

static inline void ihsm_mbor_write_bool(struct ihsm_mbor_out *out, bool value) {
    out->message[out->at++] = (uint8_t)(IHSM_MBOR_BOOL_MARKER | value);
}

/* Leave room for so many bytes, whose place is in value->bytes then. */
static inline void ihsm_mbor_write_octets(struct ihsm_mbor_out *out, struct ihsm_octets *value) {
    size_t fill = ihsm_mbor_fill(out->at);
    out->message[out->at++] = (uint8_t)(IHSM_MBOR_BYTES_MARKER | fill);
    ihsm_mbor_write_u16(out, value->len);
    ihsm_mbor_put(out, "\0\0\0", fill);
    value->bytes = out->message + out->at;
    out->at += value->len;
}
