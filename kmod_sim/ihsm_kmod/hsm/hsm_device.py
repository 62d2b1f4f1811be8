# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""The HSM node of a function: when what of it is there, and where its opens, ioctls and releases go (spec 02 A.1-A.4).

Who brings the function up and down calls, in this order:

| At | Call | What |
|---|---|---|
| start of the HSM part, in a probe and in a re-initialisation | `begin` | minor, sysfs tree, DMA page pool |
| a queue of either pool created | `add_queue` | its folder in sysfs |
| HSM queues created, AES queues not yet | `publish` | the node; a re-initialisation finds it there |
| level 2, and a re-initialisation that fails | `dismantle` | page pool and sysfs tree go, the node stays |
| removal, AES queues deleted, HSM queues not yet (01 §13) | `withdraw` | sysfs tree, node, minor |
| removal, HSM queues deleted | `end` | page pool |
"""

from __future__ import annotations

import errno

from ihsm_abi.aes_queue import Cipher
from ihsm_abi.uapi import ControllerState, Ioctl
from ihsm_kmod.hsm.aes_ioctl import aes_ioctl
from ihsm_kmod.hsm.bounce import PagePool
from ihsm_kmod.hsm.controller import Controller
from ihsm_kmod.hsm.device_info import device_info_ioctl
from ihsm_kmod.hsm.flush import flush_sessions
from ihsm_kmod.hsm.nodes import Node, NodeClass
from ihsm_kmod.hsm.queue import IoQueue
from ihsm_kmod.hsm.queue_pool import QueuePool
from ihsm_kmod.hsm.reset_ioctl import reset_ioctl
from ihsm_kmod.hsm.session_ioctl import session_ioctl
from ihsm_kmod.hsm.sessions import OpenFile
from ihsm_kmod.hsm.sysfs import FunctionSysfs
from ihsm_kmod.hsm.test_hooks import test_hooks_ioctl
from ihsm_kmod.kernel.cdev import File, FileOperations, Inode
from ihsm_kmod.kernel.errors import Errno
from ihsm_kmod.kernel.task import current


class HsmDevice:
    """What programs see of one function: its node, and its folder in sysfs."""

    def __init__(self, controller: Controller, nodes: NodeClass) -> None:
        """For one function; nothing is there before `begin`."""
        self.controller = controller
        self.open_files: set[OpenFile] = set()
        """Contexts that are allocated; one that leaks stays here."""
        self._nodes = nodes
        self._minor: int | None = None
        self._pages = PagePool()
        self._sysfs: FunctionSysfs | None = None
        self._node: Node | None = None
        self._is_gone = False

    # Its life.

    def begin(self) -> None:
        """Take a minor, make the sysfs tree and the page pool; `Errno` leaves nothing but what was there before."""
        if not self.controller.quirks.session_survives_reset:
            for file in tuple(self.open_files):
                file.forget_sessions()
        if self._minor is None or self.controller.quirks.minor_leaks_at_level_2:
            self._minor = self._nodes.take_minor()  # a former one is forgotten: nothing frees it any more
        try:
            self._sysfs = FunctionSysfs(self.controller)
            self._pages.create(self.controller.pdev)
        except BaseException:
            self.dismantle()
            if self._node is None:
                self._give_minor()
            raise

    def add_queue(self, pool: QueuePool, queue: IoQueue) -> None:
        """Show the counters of a queue that was created."""
        if self._sysfs is not None:
            self._sysfs.add_queue(pool, queue)

    def publish(self) -> None:
        """Make the node; programs can open it from now on, before there are AES queues."""
        if self._node is None:
            assert self._minor is not None, "begin() first"
            operations = FileOperations(open=self._open, unlocked_ioctl=self._ioctl, release=self._release)
            self._node = self._nodes.create(self.controller.pdev, self._minor, operations)

    def dismantle(self) -> None:
        """Let page pool and sysfs tree go, and keep node and minor."""
        self.end()
        self._remove_sysfs()

    def withdraw(self) -> None:
        """Remove sysfs tree and node, and free the minor that was taken last; files that are open are of no use now."""
        self._is_gone = True
        self._remove_sysfs()
        if self._node is not None:
            self._nodes.remove(self._node)
            self._node = None
        self._give_minor()

    def end(self) -> None:
        """Let the page pool go."""
        self._pages.drop()

    def _remove_sysfs(self) -> None:
        if self._sysfs is not None:
            self._sysfs.destroy()
            self._sysfs = None

    def _give_minor(self) -> None:
        if self._minor is not None:
            self._nodes.give_minor(self._minor)
            self._minor = None

    # File operations.

    def _open(self, inode: Inode, file: File) -> None:
        """A context for each open, however many, whatever state the controller is in (A.3)."""
        file.private_data = context = OpenFile(current().tgid)
        self.open_files.add(context)

    def _ioctl(self, file: File, number: int, argument: int) -> int:
        """The owner's commands; `Errno` EBADRQC, not ENOTTY, for a number that is none (A.4)."""
        context = file.private_data
        if context is None or self._is_gone:
            raise Errno(errno.ENOTTY, "no context, or the function is gone")
        if current().tgid != context.owning_task:
            self.controller.counters.add("proc_not_own_fd_cnt")
            raise Errno(errno.EACCES, "not the process that opened the file")
        match number:
            case Ioctl.GENERIC_SESSION:
                return session_ioctl(self.controller, self._pages, context, argument)
            case Ioctl.AES_XTS:
                return aes_ioctl(self.controller, context, Cipher.XTS, argument)
            case Ioctl.AES_GCM:
                return aes_ioctl(self.controller, context, Cipher.GCM, argument)
            case Ioctl.GET_DEV_INFO:
                return device_info_ioctl(self.controller, argument)
            case Ioctl.RESET:
                return reset_ioctl(self.controller, argument)
            case Ioctl.GET_TEST_HOOKS if self.controller.module.test_hooks:
                return test_hooks_ioctl(self.controller, argument)
        raise Errno(errno.EBADRQC, f"ioctl {number:#x}")

    def _release(self, inode: Inode, file: File) -> None:
        """The last reference is gone: flush the file's session, free its context (A.3)."""
        context = file.private_data
        if context is None or self._is_gone:
            raise Errno(errno.EINVAL, "no context, or the function is gone")
        if current().tgid != context.owning_task:
            self.controller.counters.add("close_by_not_own_proc_cnt")
            if self.controller.quirks.foreign_release_leaks:
                raise Errno(errno.EINVAL, "not the process that opened the file")
        if self.controller.state is ControllerState.READY:
            flush_sessions(self.controller, context)
        else:
            self.controller.log.err("release: controller not ready, sessions are not flushed")
        file.private_data = None
        self.open_files.discard(context)
