# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""The management node: resources of the VFs, given out by the PF (spec 02 A.12, 01 §10).

A PF whose NumVFs was not 0 at its probe has one; VFs that are made later go unnoticed (01 §1.1).
"""

from __future__ import annotations

import errno
from typing import Any

from ihsm_abi.uapi import RES_CNT, VF_COUNT, VF_COUNT_COPIED, Ioctl, MgmtStatus
from ihsm_kmod.hsm.controller import Controller
from ihsm_kmod.hsm.device_info import give_device_info
from ihsm_kmod.hsm.nodes import NodeClass
from ihsm_kmod.hsm.user_memory import UserBuffer
from ihsm_kmod.kernel.cdev import File, FileOperations, Inode
from ihsm_kmod.kernel.errors import Errno


class ManagementDevice:
    """The management node of one PF. It has no owner: every process that has it open may use it."""

    def __init__(self, controller: Controller, nodes: NodeClass) -> None:
        """Make the node; `Errno` leaves nothing."""
        self.controller = controller
        self._nodes = nodes
        minor = nodes.take_minor()
        try:
            operations = FileOperations(open=self._open, unlocked_ioctl=self._ioctl, release=self._release)
            self._node = nodes.create(controller.pdev, minor, operations)
        except BaseException:
            nodes.give_minor(minor)
            raise

    def destroy(self) -> None:
        """Remove the node and free its minor."""
        self._nodes.remove(self._node)
        self._nodes.give_minor(self._node.minor)

    def _open(self, inode: Inode, file: File) -> None:
        """Nothing is kept of an open."""

    def _release(self, inode: Inode, file: File) -> None:
        """Nothing was kept."""

    def _ioctl(self, file: File, number: int, argument: int) -> int:
        """`Errno` EBADRQC for a number that is none; else as the table of A.12 says."""
        match number:
            case Ioctl.SET_RES_CNT:
                return self._resource_count(argument, is_set=True)
            case Ioctl.GET_RES_CNT:
                return self._resource_count(argument, is_set=False)
            case Ioctl.GET_VF_COUNT:
                return self._vf_count(argument)
            case Ioctl.MGMT_GET_DEV_INFO:
                return give_device_info(self.controller, argument)
        raise Errno(errno.EBADRQC, f"ioctl {number:#x}")

    def _resource_count(self, argument: int, *, is_set: bool) -> int:
        """Set the resources of a VF, or tell them."""
        buffer = UserBuffer(argument, RES_CNT)
        buffer.read()
        if buffer.fields["argsz"] < RES_CNT.itemsize:
            raise Errno(errno.EINVAL, "argsz too small")
        failure = None
        try:
            self._ask_device(buffer.fields, is_set=is_set)
        except Errno as error:
            failure = error
        buffer.answer()
        if failure is not None:
            raise failure
        return 0

    def _ask_device(self, request: Any, *, is_set: bool) -> None:
        if not self._has_vfs:
            request["status"] = MgmtStatus.NOT_PF
            raise Errno(errno.EINVAL, "no PF with VFs")
        if request["vf_idx"] >= self.controller.num_vfs:
            request["status"] = MgmtStatus.INVALID_VF_IDX
            raise Errno(errno.EINVAL, f"no VF {request['vf_idx']}")
        ctrl_id = int(request["vf_idx"]) + 1
        # What the admin command fails with is the caller's error, and the status says which command it was.
        request["status"] = MgmtStatus.SET_RES_CNT_FAILED if is_set else MgmtStatus.GET_RES_CNT_FAILED
        if is_set:
            self.controller.admin().set_resource_count(ctrl_id, int(request["res_cnt"]))
        else:
            request["res_cnt"] = self.controller.admin().get_resource_count(ctrl_id)
        request["status"] = MgmtStatus.SUCCESS

    def _vf_count(self, argument: int) -> int:
        buffer = UserBuffer(argument, VF_COUNT)
        buffer.read(VF_COUNT_COPIED)
        if buffer.fields["argsz"] < VF_COUNT.itemsize:
            raise Errno(errno.EINVAL, "argsz too small")
        if not self._has_vfs:
            raise Errno(errno.EINVAL, "no PF with VFs")
        buffer.fields["vf_count"] = self.controller.num_vfs
        buffer.answer(VF_COUNT_COPIED)
        return 0

    @property
    def _has_vfs(self) -> bool:
        return self.controller.is_pf and self.controller.num_vfs > 0
