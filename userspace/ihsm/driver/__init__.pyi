# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
# Written by scripts/name-stubs: what type checkers see of `ihsm.driver`, whose names are loaded when used.

from ihsm.driver.aes_commands import AesCommands, AesOutput, GcmSealed
from ihsm.driver.aes_queue import AesQueue
from ihsm.driver.controller import Controller, ControllerState
from ihsm.driver.hsm_queue import HsmQueue, HsmReply
from ihsm.driver.opened import OpenDevice
from ihsm.driver.options import DriverOptions
from ihsm.driver.queue_pair import QueuePair
from ihsm.driver.submission import Pending, Submission, Submitted
from ihsm.fast_path import FastPathSession

__all__ = [
    "AesCommands",
    "AesOutput",
    "AesQueue",
    "Controller",
    "ControllerState",
    "DriverOptions",
    "FastPathSession",
    "GcmSealed",
    "HsmQueue",
    "HsmReply",
    "OpenDevice",
    "Pending",
    "QueuePair",
    "Submission",
    "Submitted",
]
