# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Resources of a function and the queue ids they give (spec 01 §14.2)."""

from typing import Final

MAX_RESOURCES: Final = 65
MAX_CONTROLLER_ID: Final = 64
ADMIN_QUEUE_ID: Final = 0
FIRST_HSM_QUEUE_ID: Final = 1
LAST_HSM_QUEUE_ID: Final = 65
FIRST_AES_QUEUE_ID: Final = 256
LAST_AES_QUEUE_ID: Final = 385
AES_QUEUES_PER_RESOURCE: Final = 2
MAX_QUEUE_ENTRIES: Final = 65536


def hsm_queue_ids(resources: int) -> range:
    """Ids of the HSM queue pairs a function with `resources` resources owns."""
    return range(FIRST_HSM_QUEUE_ID, FIRST_HSM_QUEUE_ID + resources)


def aes_queue_ids(resources: int) -> range:
    """Ids of the AES queue pairs a function with `resources` resources owns."""
    return range(FIRST_AES_QUEUE_ID, FIRST_AES_QUEUE_ID + AES_QUEUES_PER_RESOURCE * resources)


def is_hsm_queue_id(queue_id: int) -> bool:
    """True if the id is classified as an HSM queue, whether or not it exists on any device."""
    return FIRST_HSM_QUEUE_ID <= queue_id < FIRST_AES_QUEUE_ID
