# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""A driver that hangs, for docs/laboratory.md: three commands on the one device that is served.

    python hanging_driver.py [repaired]

The driver is the model of the Linux driver with one mistake, or without it. Ctrl-C ends it, as a reset button would.
"""

import signal
import sys

from ihsm.chardev import Calls, NodeDevice
from ihsm.ddi import Partition
from ihsm.errors import IhsmError
from ihsm.uri import open_function
from ihsm_kmod.hsm.controller import Controller
from ihsm_kmod.hsm.execute import Outcome
from ihsm_kmod.hsm.module import HsmModule
from ihsm_kmod.hsm.pci import HsmPciDriver
from ihsm_kmod.hsm.queue_pool import QueuePool
from ihsm_kmod.hsm.tags import Command
from ihsm_kmod.kernel.completion import wait_for_completion
from ihsm_kmod.machine import Machine


class HangingController(Controller):
    """Takes it for granted that the device answers."""

    def execute(self, pool: QueuePool, sqe: bytearray) -> Outcome:
        """One command."""
        queue = pool.select()
        assert queue is not None
        command = Command()
        queue.submit(sqe, command)
        wait_for_completion(command.done)  # the mistake: wait_for_completion_timeout, and recovery
        return Outcome(command.code, command.cqe, 0)


class HangingPciDriver(HsmPciDriver):
    """Probes functions with it."""

    controller = HangingController


class HangingModule(HsmModule):
    """What is loaded."""

    pci_driver = HangingPciDriver


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    module = HsmModule if sys.argv[1:] == ["repaired"] else HangingModule
    with open_function() as function, Machine(function, module_class=module) as machine:
        app = machine.process("app")
        with NodeDevice("/dev/azihsm0", calls=Calls(app.open, app.ioctl, app.close)) as node:
            for number in range(1, 4):
                print(f"command {number}: ", end="", flush=True)
                try:
                    print("answered, revision", Partition(node).api_revisions().max.major)
                except IhsmError as error:
                    print(error)
