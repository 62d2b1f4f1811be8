/* SPDX-FileCopyrightText: The ihsm authors */
/* SPDX-License-Identifier: Apache-2.0 */
#include "config_space.h"

#include <string.h>

/* A field of a register, where it stands. */
#define FIELD(name) ((uint32_t)IHSM_##name##_MASK << IHSM_##name##_SHIFT)
#define POWER_STATE FIELD(POWER_MANAGEMENT_CONTROL_POWER_STATE)

void ihsm_config_space_begin(struct ihsm_config_space *space, uint8_t *bytes, const uint8_t *writable,
                             const uint8_t *clearable) {
    memcpy(space->power_on, bytes, sizeof space->power_on);
    memcpy(space->writable, writable, sizeof space->writable);
    memcpy(space->clearable, clearable, sizeof space->clearable);
    space->bytes = bytes;
}

void ihsm_config_space_reset(struct ihsm_config_space *space) {
    if (space->bytes != NULL)
        memcpy(space->bytes, space->power_on, sizeof space->power_on);
}

static uint16_t load16(const struct ihsm_config_space *space, size_t at) {
    uint16_t value;
    memcpy(&value, space->bytes + at, sizeof value);
    return value;
}

/* A power state that the function does not have is not entered (PCI Power Management 1.2 §3.2.4). */
static void check_power_state(struct ihsm_config_space *space, uint16_t before) {
    uint16_t supported = load16(space, space->power_management + IHSM_PMC_OFFSET);
    size_t at = space->power_management + IHSM_PMCSR_OFFSET;
    uint16_t now = load16(space, at);
    unsigned state = now & POWER_STATE;
    if ((state == 1 && !(supported & FIELD(POWER_MANAGEMENT_CAPABILITIES_D1_SUPPORT))) ||
        (state == 2 && !(supported & FIELD(POWER_MANAGEMENT_CAPABILITIES_D2_SUPPORT)))) {
        now = (uint16_t)((now & ~POWER_STATE) | (before & POWER_STATE));
        memcpy(space->bytes + at, &now, sizeof now);
    }
}

/* Whether a write puts 1 into this field of the 16-bit register `at`. */
static bool sets(size_t at, uint32_t field, size_t offset, const uint8_t *data, size_t count) {
    for (size_t byte = 0; byte < sizeof(uint16_t); byte++)
        if (at + byte >= offset && at + byte < offset + count && (data[at + byte - offset] & field >> 8 * byte))
            return true;
    return false;
}

bool ihsm_config_space_write(struct ihsm_config_space *space, size_t offset, const uint8_t *data, size_t count) {
    uint16_t power = load16(space, space->power_management + IHSM_PMCSR_OFFSET);
    for (size_t i = 0; i < count; i++) {
        uint8_t *byte = &space->bytes[offset + i];
        uint8_t writable = space->writable[offset + i];
        *byte = (uint8_t)((*byte & ~writable) | (data[i] & writable));
        *byte &= (uint8_t)~(data[i] & space->clearable[offset + i]);
    }
    if (space->power_management != 0)
        check_power_state(space, power);
    if (space->express == 0 ||
        !sets(space->express + IHSM_DEVICE_CONTROL_OFFSET, FIELD(DEVICE_CONTROL_INITIATE_RESET), offset, data, count))
        return false;
    uint32_t capabilities;
    memcpy(&capabilities, space->bytes + space->express + IHSM_DEVICE_CAPABILITIES_OFFSET, sizeof capabilities);
    return capabilities & FIELD(DEVICE_CAPABILITIES_FUNCTION_LEVEL_RESET);
}

bool ihsm_config_space_function_mask(const struct ihsm_config_space *space) {
    return space->msix != 0 &&
           (load16(space, space->msix + IHSM_MSIX_CONTROL_OFFSET) & FIELD(MSIX_CONTROL_FUNCTION_MASK));
}
