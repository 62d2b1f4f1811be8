# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""How a controller is brought up and taken down (spec 01 §4, §12, §13)."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from typing import Protocol

from ihsm_abi.pci import ADMIN_VECTOR
from ihsm_abi.uapi import ControllerState
from ihsm_kmod.hsm.admin import AdminCommands, AdminQueue
from ihsm_kmod.hsm.counters import ControllerCounters
from ihsm_kmod.hsm.function import ENTROPY_BYTES, HsmFunction
from ihsm_kmod.hsm.identify import IdentifyPage
from ihsm_kmod.hsm.irq import Vector
from ihsm_kmod.hsm.parameters import HsmParameters
from ihsm_kmod.hsm.queue import IoQueue
from ihsm_kmod.hsm.queue_pool import AES_POOL, HSM_POOL, QueuePool
from ihsm_kmod.kernel.errors import Errno
from ihsm_kmod.kernel.io import IoMem
from ihsm_kmod.kernel.pci import PciDev


class UserSide(Protocol):
    """What the controller tells the object behind `/dev/azihsm<N>`, in the order of spec 02 A.1.

    The last three may come without the first ones, or twice: what is not there is not removed.
    """

    def begin(self) -> None:
        """Before the HSM queues: take a minor, make the sysfs tree and the pool of DMA pages."""

    def add_queue(self, pool: QueuePool, queue: IoQueue) -> None:
        """A queue has been created: show its counters."""

    def publish(self) -> None:
        """The HSM queues are there: make the node, unless it is there from before a level-2 abort."""

    def dismantle(self) -> None:
        """Between the ends of AES and HSM queues, in level 2: remove sysfs tree and page pool, keep node and minor."""

    def withdraw(self) -> None:
        """Between the ends of AES and HSM queues, for good: remove sysfs tree, node and minor."""

    def end(self) -> None:
        """The HSM queues are gone for good: free the pool of DMA pages."""


class Lifecycle(HsmFunction):
    """A function with its queues; the controller, but for what commands and their time-outs do."""

    hsm_device: UserSide
    """Set by the probe, before `initialize`."""
    pool: type[QueuePool] = QueuePool
    """Of its HSM and of its AES queues."""

    def __init__(self, pdev: PciDev, module: HsmParameters, registers: IoMem, doorbells: IoMem, vectors: int) -> None:
        """As `HsmFunction`."""
        super().__init__(pdev, module, registers, doorbells, vectors)
        self._register_page = registers
        self.hsm_pool = self.pool(self, HSM_POOL, module.num_hsm_slots)
        self.aes_pool = self.pool(self, AES_POOL, module.num_aes_slots)
        self._admin_queue: AdminQueue | None = None
        self._admin_vector: Vector | None = None
        self._identify_page: IdentifyPage | None = None

    def admin(self) -> AdminCommands:
        """The admin commands.

        Raises:
            Errno: ENODEV, there is no admin queue.
        """
        if self._admin_queue is None:
            raise Errno(errno.ENODEV, "no admin queue")
        return AdminCommands(self._admin_queue)

    def initialize(self, *, keep_node: bool = False) -> None:
        """Bring the controller up: spec 01 §12 from step 3, of a probe and of a level-2 abort.

        With `keep_node` the character device outlives a failure.

        Raises:
            Errno: as spec 01 §12 has it by cause; nothing is left then but CC.EN where the enable timed out.
        """
        self.state = ControllerState.INIT_IN_PROGRESS
        self.registers.remap(self._register_page)
        self.counters = ControllerCounters()
        self.entropy = os.urandom(ENTROPY_BYTES)
        try:
            self._bring_up()
        except Errno:
            self.state = ControllerState.NOT_INITIALIZED
            self.release(delete_queues=False, keep_node=keep_node)
            raise

    def _bring_up(self) -> None:
        self._enable()
        self._identify()
        if self.is_pf:
            self._take_resources()
        self._start_hsm()
        self._start_aes()
        if self.quirks.ready_before_fw_caps:
            self.state = ControllerState.READY
        self.gcm_workaround = self.admin().gcm_workaround()
        if not self.quirks.ready_before_fw_caps:  # else a recovery may have failed meanwhile
            self.state = ControllerState.READY

    def _enable(self) -> None:
        """Steps 3 to 9: admin rings, CC.EN, vector 0."""
        queue = self._admin_queue = AdminQueue(self)
        en_stays = self.quirks.en_stays_after_failed_enable
        self.registers.enable(queue.sq.dma_handle, queue.cq.dma_handle, en_stays=en_stays)
        self.enabled = True
        self._admin_vector = Vector(self, ADMIN_VECTOR, f"azihsm_ctrl-{ADMIN_VECTOR}")
        self._admin_vector.attach(queue)

    def _identify(self) -> None:
        """Steps 10 and 11."""
        self._identify_page = IdentifyPage(self.pdev)
        self.identity = self._identify_page.read(self.admin(), self.log)
        self.registers.set_entry_sizes(self.identity)

    def _take_resources(self) -> None:
        """Step 12: a PF gives itself resources; a refusal shows in the SET_FEAT that follows (spec 01 §6.9)."""
        assert self.identity is not None
        if not self.module.pf_res_cnt:
            return
        try:
            self.admin().set_resource_count(int(self.identity["ctrl_id"]), self.module.pf_res_cnt)
        except Errno as error:
            self.log.err(f"SET_RES_CNT failed: {error}")

    def _start_hsm(self) -> None:
        """Steps 13 to 16; from here on user space can open the node."""
        self.hsm_device.begin()
        self.hsm_pool.negotiate(self.admin())
        if not self.hsm_pool.count:
            raise Errno(errno.ENOMEM, "no HSM queues")
        self._create_queues(self.hsm_pool)
        self.hsm_device.publish()

    def _start_aes(self) -> None:
        """Steps 17 to 19; no AES queues are no error."""
        self.aes_pool.negotiate(self.admin())
        self._create_queues(self.aes_pool)

    def _create_queues(self, pool: QueuePool) -> None:
        """Each is shown as soon as it is there."""
        for queue in pool.create_queues(self.admin()):
            self.hsm_device.add_queue(pool, queue)

    def release(self, *, delete_queues: bool, keep_node: bool = False) -> None:
        """Free what `initialize` made, as far as it got: spec 01 §13 steps 2 to 7.

        Without `delete_queues` the device is told nothing of its queues; they end with CC.EN, or have.
        """
        admin = self.admin() if delete_queues and self._admin_queue else None
        self.aes_pool.destroy(admin)
        if keep_node:
            self.hsm_device.dismantle()
        else:
            self.hsm_device.withdraw()
        self.hsm_pool.destroy(admin)
        if not keep_node:
            self.hsm_device.end()
        if self._identify_page:
            self._identify_page.free()
            self._identify_page = None
        if self._admin_vector:
            self._admin_vector.free()
            self._admin_vector = None
        if self.enabled:
            self.disable()
        if self._admin_queue:
            self._admin_queue.free_rings()
            self._admin_queue = None

    def disable(self) -> None:
        """The disable cycle (spec 01 §4.2)."""
        self._stop(self.registers.disable, "disable")

    def subsystem_reset(self) -> None:
        """NSSR (spec 01 §4.5)."""
        self._stop(self.registers.subsystem_reset, "subsystem reset")

    def _stop(self, sequence: Callable[[], None], name: str) -> None:
        """A device that does not follow is logged, for the driver goes on."""
        self.enabled = False
        try:
            sequence()
        except Errno as error:
            self.log.err(f"{name} failed: {error}")

    def remove(self) -> None:
        """Take the controller down for good: spec 01 §13 from step 2."""
        # Whoever is in the middle of an abort ends it first; who comes later finds a controller that is not READY.
        with self.abort_mutex:
            is_up, self.state = self.state is ControllerState.READY, ControllerState.NOT_INITIALIZED
        self.release(delete_queues=True)
        if not is_up and self.quirks.double_free_after_failed_recovery:
            # The recovery that failed has freed all this, and nobody looks whether one has.
            for pool in (self.aes_pool, self.hsm_pool):
                pool.destroy_again()
