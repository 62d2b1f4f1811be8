# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""The driver: rings, controller bring-up, HSM and AES commands."""

from ihsm_abi.lazy_names import loader

_HOMES = {
    "AesCommands": "aes_commands",
    "AesOutput": "aes_commands",
    "AesQueue": "aes_queue",
    "Controller": "controller",
    "ControllerState": "controller",
    "DriverOptions": "options",
    "FastPathSession": ".fast_path",
    "GcmSealed": "aes_commands",
    "HsmQueue": "hsm_queue",
    "HsmReply": "hsm_queue",
    "OpenDevice": "opened",
    "Pending": "submission",
    "QueuePair": "queue_pair",
    "Submission": "submission",
    "Submitted": "submission",
}
"""Module of each name, loaded when used."""

__all__ = sorted(_HOMES)
__getattr__ = loader(__name__, _HOMES)
