# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""The program and the administrator of the recorded traces: what they did in each step, done with the model."""

from __future__ import annotations

import ctypes
import errno
import threading
from typing import Final

import numpy as np

from ihsm_abi import uapi
from ihsm_abi.aes_queue import GCM_SQE, SGL_DESCRIPTOR, XTS_SQE, AesAttr, Cipher
from ihsm_abi.hsm_queue import HSM_SQE, HsmCommandWord, SessionControl
from ihsm_abi.resources import ADMIN_QUEUE_ID, FIRST_AES_QUEUE_ID
from ihsm_abi.uapi import AbortType, ControllerState, Ioctl
from ihsm_abi.uapi_names import HSM_NODE_PREFIX
from ihsm_kmod.kernel.clock import HZ, StillClock
from ihsm_kmod.machine import Machine
from support.hsm_driver import ADMIN_TIMEOUT_S, BDF, COMMAND_TIMEOUT_S, GRACE_S
from support.prototype import Event, Prototype
from support.user_pages import PAGE, USABLE, UserPages
from support.waiting import ended

MARKED_SESSION: Final = {"hsm none, caller marks session id 7 (dropped by the driver)": 7}
"""Session ids that callers gave and the driver dropped, so that no entry has them."""
MONITOR_S: Final = 6


class Buffer:
    """User memory that begins at a place in a page."""

    def __init__(self, size: int, place: int = 0) -> None:
        self.size = size
        self._pages = UserPages(*[USABLE] * max(1, -(-(place + size) // PAGE)))
        self.address = self._pages.address + place


class Program:
    """The program of the recording: it calls the ioctls whose entries were recorded."""

    def __init__(self, machine: Machine) -> None:
        self.process = machine.process()
        # Its number grows with each level-2 abort of a function that was bound before (spec 02 A.1).
        (node,) = (name for name in machine.kernel.vfs.listdir("/dev") if name.startswith(HSM_NODE_PREFIX))
        self.node = f"/dev/{node}"
        self.fd = self.process.open(self.node)

    def hsm(self, entry: bytes, request: bytes, fd: int, marked: int | None) -> None:
        """The session ioctl from which an HSM entry was made; `marked`: an id that the caller says is valid."""
        sqe = np.frombuffer(entry, HSM_SQE)[0]
        word, control = HsmCommandWord(int(sqe["command"])), SessionControl(int(sqe["control"]))
        command = np.zeros(1, uapi.GENERIC_IOCTL)
        command["hdr"]["szioctldata"] = command.nbytes
        command["opc"], command["cmdset"] = word.opc, word.set
        buffers = {name: Buffer(int(sqe[f"{name}_len"])) for name in ("src", "dst")}
        ctypes.memmove(buffers["src"].address, request, len(request))
        for name, buffer in buffers.items():
            command[f"{name}_length"] = buffer.size
            command[f"{name}_buf"] = buffer.address if buffer.size else 0
        id_valid = control.id_valid or marked is not None
        command["session_control_flags"] = SessionControl.of(kind=control.kind, id_valid=id_valid)
        command["session_id"] = sqe["session_id"] if marked is None else marked
        self.process.ioctl(fd, Ioctl.GENERIC_SESSION, command)

    def aes(self, entry: bytes, events: list[Event], step: str) -> None:
        """The AES ioctl from which an entry was made, with buffers at the places in a page where the recorded were."""
        attr = AesAttr(int(np.frombuffer(entry, GCM_SQE)["attr"][0]))
        is_gcm = attr.cipher == Cipher.GCM
        sqe = np.frombuffer(entry, GCM_SQE if is_gcm else XTS_SQE)[0]
        command = np.zeros(1, uapi.GCM_IOCTL if is_gcm else uapi.XTS_IOCTL)
        command["hdr"]["szioctldata"] = command.nbytes
        command["op_code"], command["cipher"], command["frame_type"] = attr.decrypt, attr.cipher, sqe["frame_type"]
        command["session_id"], command["short_app_id"] = sqe["session_id"], sqe["short_app_id"]
        tail = next((bytes.fromhex(event["bytes"]) for event in events if event["op"] == "tail"), b"")
        sizes = {name: int(sqe[f"{name}_len"]) + len(tail) for name in ("src", "dst")}
        buffers = {name: Buffer(size, _place(events, name)) for name, size in sizes.items()}
        if step.endswith("in place"):
            buffers["dst"] = buffers["src"]
        for name, buffer in buffers.items():
            command[f"{name}_ptr"], command[f"{name}_len"] = buffer.address, buffer.size
        if is_gcm:
            command["key_id"], command["tag"], command["init_vector"] = sqe["key_id"], sqe["tag"], sqe["iv"]
            command["actual_aad_data_len"], command["aligned_aad_len"] = sqe["actual_aad_len"], sqe["aligned_aad_len"]
            command["enable_gcm_workaround"] = "workaround byte 0" not in step
        else:
            for name in ("key_id1", "key_id2", "tweak"):
                command[name] = sqe[name]
            command["data_unit_len"] = attr.dul
        ctypes.memmove(buffers["src"].address + sizes["src"] - len(tail), tail, len(tail))
        self.process.ioctl(self.fd, Ioctl.AES_GCM if is_gcm else Ioctl.AES_XTS, command)

    def reset(self, kind: AbortType) -> None:
        """The reset ioctl."""
        command = np.zeros(1, uapi.RESET_DEVICE)
        command["hdr"]["szioctldata"], command["abort_type"] = command.nbytes, kind
        assert self.process.ioctl(self.fd, Ioctl.RESET, command) == 0


def _place(events: list[Event], direction: str) -> int:
    """Where in its page the recorded buffer began."""
    segment = next((event for event in events if event["op"] == "sgl" and event["dir"] == direction), None)
    return int(np.frombuffer(bytes.fromhex(segment["bytes"]), SGL_DESCRIPTOR)["addr"][0]) % PAGE if segment else 0


class Playback:
    """The recorded steps, done again by a machine with the prototype."""

    def __init__(self, machine: Machine, clock: StillClock, prototype: Prototype) -> None:
        self.machine, self.clock, self.prototype = machine, clock, prototype
        self._program: Program | None = None
        self._last: list[Event] = []
        """A step with a single HSM command."""

    @property
    def program(self) -> Program:
        """The program, which has the node open."""
        if self._program is None:
            self._program = Program(self.machine)
        return self._program

    def perform(self, step: str, events: list[Event]) -> None:
        """Do what the name of a step says."""
        bus = self.machine.kernel.pci
        match step.split(" ")[0].rstrip(":"):
            case "bind":
                bus.bind(BDF)
                assert bus.probe_error(BDF) == 0
            case "unbind":
                bus.unbind(BDF)
                self._program = None
            case "guest":
                self.machine.kernel.power_off()
            case "function":
                bus.reset(BDF)
                if "one hsm none command" in step:
                    self._time_out(self._last, admin_answers=False)
            case "file":
                self.program.process.close(self.program.fd)
            case "reset":
                self.program.reset(AbortType.L2_NSSR if "NSSR" in step else AbortType.L2_RESET)
            case "CSTS.CFS":
                self.prototype.fail()
                self.clock.advance(MONITOR_S)
                # The monitor is due again once it has recovered the controller, to the last doorbell.
                self.clock.await_timer(MONITOR_S)
                assert self._is_well()
            case "burst":
                self._together(events)
            case "second":
                other = self.program.process.open(self.program.node)
                self._command(step, events, other)
                self.program.process.close(other)
            case _ if "never answered" in step:
                self._time_out(events, admin_answers=True)
            case _:
                self._command(step, events, self.program.fd)
                if step == "hsm none, 31 bytes (GetDeviceInfo)":
                    self._last = events

    def _is_well(self) -> bool:
        controller = self.machine.kernel.pci.device(BDF).driver_data.controller
        return controller.state is ControllerState.READY and not self.prototype.unanswered

    def _command(self, step: str, events: list[Event], fd: int) -> None:
        """The ioctl behind the first entry of the step."""
        entry = next(event for event in events if event["op"] == "sqe" and event["sqid"] != ADMIN_QUEUE_ID)
        if entry["sqid"] >= FIRST_AES_QUEUE_ID:
            self.program.aes(bytes.fromhex(entry["bytes"]), events, step)
        else:
            request = next((bytes.fromhex(event["bytes"]) for event in events if event["op"] == "prp"), b"")
            self.program.hsm(bytes.fromhex(entry["bytes"]), request, fd, MARKED_SESSION.get(step))

    def _together(self, events: list[Event]) -> None:
        """A thread for each command, all under way at once."""
        starts = [number for number, event in enumerate(events) if event["op"] == "sqe"]
        threads = [threading.Thread(target=self._command, args=("", events[n:], self.program.fd)) for n in starts]
        for thread in threads:
            thread.start()
        ended(*threads)

    def _time_out(self, events: list[Event], *, admin_answers: bool) -> None:
        """A command that the device does not answer, and for level 1 answers admin commands or does not."""
        failed: list[int] = []

        def call() -> None:
            try:
                self._command("", events, self.program.fd)
            except OSError as error:
                failed.append(error.errno)

        self.clock.advance(1 / HZ)  # so that no other timer, such as the health monitor's, is due with the command's
        thread = threading.Thread(target=call)
        thread.start()
        self._pass(COMMAND_TIMEOUT_S)
        self._pass(GRACE_S)
        if not admin_answers:
            self._pass(ADMIN_TIMEOUT_S)
        ended(thread)
        is_aes = any(event.get("sqid", 0) >= FIRST_AES_QUEUE_ID for event in events)
        assert failed == ([] if is_aes else [errno.EAGAIN])  # of AES commands the answer tells (spec 02 A.7)

    def _pass(self, seconds: float) -> None:
        """Move on to what is due in so many seconds.

        The health monitor's looks until then are over before it comes: one in the middle of an abort looks like a part
        of that.
        """
        self.clock.await_timer(seconds)
        while due := [left for left in self.clock.timers if 0 < left < seconds - 0.5 / HZ]:
            self.clock.advance(due[0])
            self.clock.await_timer(MONITOR_S)
            seconds -= due[0]
        self.clock.expire(seconds)
