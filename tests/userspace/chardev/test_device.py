# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""HSM commands through a driver's node: sessions and their files, resets, and what the driver refuses."""

from __future__ import annotations

import asyncio
import errno
import os
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, utils
from cryptography.hazmat.primitives.hashes import SHA256, Hash

from ihsm.chardev import Calls, NodeDevice
from ihsm.ddi import AsyncTransport, KeyRequest, Partition, Session
from ihsm.ddi.errors import StatusError
from ihsm.driver import OpenDevice
from ihsm.errors import (
    ArgumentError,
    ArgumentTypeError,
    ControllerLostError,
    ControllerNotReadyError,
    DeviceGoneError,
    DeviceNotFoundError,
    ForkedError,
    HsmCommandError,
    IhsmError,
    QueueClosedError,
    RequestRefusedError,
    ResourceError,
    SessionClosedError,
    UnsupportedDeviceError,
)
from ihsm_abi.aes_queue import GCM_SQE
from ihsm_abi.ddi import DdiStatus, EccCurve, HashAlgorithm, KeyUsage, decode_response_header
from ihsm_abi.ddi.limits import BK3_BYTES, MAX_SESSIONS
from ihsm_abi.hsm_queue import ControlKind, HsmStatus
from ihsm_abi.uapi import CpStatus, InternalCode
from ihsm_kmod.kernel.process import Process
from support.children import FORKS, in_child, refusal
from support.hsm_driver import BDF, Driver, driver_on
from support.hsm_program import ANCHOR, CREDENTIAL, api_revision_request
from support.ioctls import Script, hsm_cqe
from support.nodes import PairedCalls, another, node_of, open_files
from support.process import ServeProcess
from support.waiting import HANG_S, ended, until

SIGN = KeyRequest(KeyUsage.SignVerify)


def provisioned(node: NodeDevice, bmk: bytes = b"", masked_bk3: bytes = b"") -> Partition:
    partition = Partition(node)
    masked = masked_bk3 or partition.init_bk3(bytes(BK3_BYTES)).masked_bk3
    partition.establish_credential(CREDENTIAL, masked, ANCHOR, bmk=bmk)
    return partition


def check_signature(session: Session) -> None:
    key = session.generate_ecc_key(EccCurve.P256, SIGN)
    hashed = Hash(SHA256())
    hashed.update(b"message")
    digest = hashed.finalize()
    raw = session.ecc_sign(key, digest, HashAlgorithm.Sha256)
    numbers = [int.from_bytes(part, "big") for part in (raw[:32], raw[32:64])]
    public = key.public_key
    assert isinstance(public, ec.EllipticCurvePublicKey)
    public.verify(utils.encode_dss_signature(*numbers), digest, ec.ECDSA(utils.Prehashed(SHA256())))


def test_what_the_driver_tells(node: NodeDevice, driver: Driver) -> None:
    told = node.information()
    assert (told.driver_version, told.pci_address) == ("3.2.0", BDF)
    identity = driver.controller.identity
    assert identity is not None
    assert told.serial_number == bytes(identity["sn"]).decode().rstrip(" \0")
    assert told.entropy == driver.controller.entropy
    assert node.information() == told


def test_it_is_what_commands_and_clients_take(node: NodeDevice) -> None:
    taken: OpenDevice = node
    assert isinstance(taken, AsyncTransport)
    assert (node.uri, node.outlives_us) == ("chardev:/dev/azihsm0", True)


def test_a_command_without_session(node: NodeDevice) -> None:
    reply = node.exchange(api_revision_request(), ControlKind.NONE, None)
    assert decode_response_header(reply.message)[0].status == DdiStatus.Success
    assert (reply.sc, reply.session_id, reply.byte_count) == (0, None, len(reply.message))


def test_a_coroutine_has_the_same(node: NodeDevice) -> None:
    async def ask() -> bytes:
        return (await node.exchange_async(api_revision_request(), ControlKind.NONE, None)).message

    assert asyncio.run(ask()) == node.exchange(api_revision_request(), ControlKind.NONE, None).message


def test_each_session_has_a_file(node: NodeDevice, process: Process, driver: Driver) -> None:
    partition = provisioned(node)
    assert open_files(process) == 1
    with partition.open_session(CREDENTIAL) as first, partition.open_session(CREDENTIAL) as second:
        assert first.session_id != second.session_id
        assert open_files(process) == 3
        check_signature(first)
        check_signature(second)
    assert open_files(process) == 1
    assert driver.controller.counters.session_flush_cnt == 0, "they were closed by messages"


def test_there_are_as_many_sessions_as_the_device_has(node: NodeDevice, process: Process) -> None:
    partition = provisioned(node)
    sessions = [partition.open_session(CREDENTIAL) for _ in range(MAX_SESSIONS)]
    with pytest.raises(StatusError) as refused:
        partition.open_session(CREDENTIAL)
    assert refused.value.status == DdiStatus.VaultSessionLimitReached
    assert open_files(process) == 1 + MAX_SESSIONS, "the file of the one that is not open is closed"
    sessions.pop().close()
    partition.open_session(CREDENTIAL)


def test_the_driver_ends_sessions_that_nobody_closed(node: NodeDevice, driver: Driver) -> None:
    partition = provisioned(node)
    kept = partition.open_session(CREDENTIAL)
    with another(driver) as other:
        for _ in range(MAX_SESSIONS - 1):
            Partition(other).open_session(CREDENTIAL)
    assert driver.controller.counters.session_flush_cnt == MAX_SESSIONS - 1
    for _ in range(MAX_SESSIONS - 1):
        partition.open_session(CREDENTIAL)
    node.flush_session(kept.session_id)
    partition.open_session(CREDENTIAL)
    node.flush_session(0xFFFF)  # nobody's


def test_a_closed_session_is_refused_by_the_driver(node: NodeDevice) -> None:
    session = provisioned(node).open_session(CREDENTIAL)
    session.close()
    with pytest.raises(SessionClosedError, match="not open here"):
        node.exchange(api_revision_request(), ControlKind.IN_SESSION, session.session_id)


def test_a_session_of_another_program_is_refused(node: NodeDevice, driver: Driver) -> None:
    session = provisioned(node).open_session(CREDENTIAL)
    with another(driver) as other, pytest.raises(SessionClosedError):
        other.exchange(api_revision_request(), ControlKind.IN_SESSION, session.session_id)
    check_signature(session)


def test_a_session_is_reopened_after_a_reset(node: NodeDevice, process: Process) -> None:
    partition = Partition(node)
    masked = partition.init_bk3(bytes(BK3_BYTES)).masked_bk3
    bmk = partition.establish_credential(CREDENTIAL, masked, ANCHOR)
    session = partition.open_session(CREDENTIAL)
    before = node.information().entropy
    node.reset(subsystem=True)
    assert node.information().entropy != before
    with pytest.raises(StatusError):
        session.unwrapping_key()
    provisioned(node, bmk, masked)
    files = open_files(process)
    with partition.reopen_session(CREDENTIAL, session.ticket) as again:
        assert again.session_id == session.session_id
        assert open_files(process) == files
        check_signature(again)


def test_an_id_that_comes_again_has_the_new_file(node: NodeDevice, process: Process, driver: Driver) -> None:
    """The file of the former session stays: its end would be that of the session that has the id now."""
    partition = provisioned(node)
    partition.open_session(CREDENTIAL)
    driver.run(driver.controller.execute, driver.controller.hsm_pool, flush_of(0))  # behind the driver's back
    second = partition.open_session(CREDENTIAL)
    assert second.session_id == 0
    assert open_files(process) == 3
    check_signature(second)


def flush_of(session_id: int) -> bytearray:
    from ihsm_kmod.hsm.hsm_command import flush_entry

    return bytearray(flush_entry(session_id))


def test_another_program_resets_the_controller(node: NodeDevice, driver: Driver) -> None:
    session = provisioned(node).open_session(CREDENTIAL)
    with another(driver) as other:
        other.reset()
    with pytest.raises(ControllerLostError, match="reset meanwhile"):
        node.check_life("AES")
    with pytest.raises(StatusError):
        session.unwrapping_key()
    node.recover()
    node.check_life("AES")


def test_a_driver_that_may_not_reset(server: ServeProcess) -> None:
    from ihsm.bus import VfioUserFunction

    with (
        VfioUserFunction(server.paths[0], timeout_s=HANG_S) as function,
        driver_on(function, pf_lvl2_abort_enabled=False) as driver,
    ):
        driver.controller.is_pf = True
        with node_of(driver) as node, pytest.raises(UnsupportedDeviceError, match="not done"):
            node.reset()


def test_stop_and_recover(node: NodeDevice) -> None:
    node.stop(QueueClosedError("for a while"))
    with pytest.raises(QueueClosedError, match="for a while"):
        node.exchange(api_revision_request(), ControlKind.NONE, None)
    node.recover()
    node.exchange(api_revision_request(), ControlKind.NONE, None)


def test_a_closed_device(node: NodeDevice, process: Process) -> None:
    provisioned(node).open_session(CREDENTIAL)
    node.close()
    node.close()
    assert open_files(process) == 0
    with pytest.raises(QueueClosedError):
        node.exchange(api_revision_request(), ControlKind.NONE, None)
    with pytest.raises(QueueClosedError):
        node.information()


def test_wrong_arguments(node: NodeDevice) -> None:
    with pytest.raises(ArgumentError):
        node.exchange(bytes(8193), ControlKind.NONE, None)
    with pytest.raises(ArgumentTypeError):
        node.exchange("text", ControlKind.NONE, None)  # type: ignore[arg-type]
    with pytest.raises(ArgumentTypeError):
        NodeDevice(b"/dev/azihsm0")  # type: ignore[arg-type]
    with pytest.raises(ArgumentTypeError):
        NodeDevice("/dev/azihsm0", 3)  # type: ignore[arg-type]
    with pytest.raises(ArgumentError):
        node.allocate(0)


# -- what the driver refuses -------------------------------------------------------------------------------------------


def test_a_status_of_the_device(node: NodeDevice) -> None:
    """A request longer than the device takes."""
    with pytest.raises(HsmCommandError) as refused:
        node.exchange(bytes(5000), ControlKind.NONE, None)
    assert refused.value.sc == HsmStatus.INVALID_SRC_LENGTH


ENDS: dict[InternalCode, type[IhsmError]] = {
    InternalCode.ABORTED: QueueClosedError,
    InternalCode.QDISABLED: QueueClosedError,
    InternalCode.ABORT_IN_PROGRESS: ControllerNotReadyError,
    InternalCode.QSELECT_FAILED: ControllerNotReadyError,
    InternalCode.CTRL_NOT_READY: ControllerNotReadyError,
    InternalCode.UNDEFINED: ControllerNotReadyError,
}


@pytest.mark.parametrize("code", ENDS, ids=[code.name for code in ENDS])
def test_a_command_that_ends_in_the_driver(
    node: NodeDevice, driver: Driver, monkeypatch: pytest.MonkeyPatch, code: InternalCode
) -> None:
    script = Script()
    script.end(code, errno.EAGAIN)
    monkeypatch.setattr(driver.controller, "execute", script)
    with pytest.raises(ENDS[code]) as refused:
        node.exchange(api_revision_request(), ControlKind.NONE, None)
    assert type(refused.value) is ENDS[code]


def test_an_abort_is_under_way(node: NodeDevice, driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver.controller, "abort_in_progress", True)
    for call in (lambda: node.exchange(api_revision_request(), ControlKind.NONE, None), node.information, node.reset):
        with pytest.raises(ControllerNotReadyError):
            call()


def test_a_controller_that_does_not_come_up(driver: Driver, node: NodeDevice, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ihsm.chardev.device.READY_S", 0.0)
    monkeypatch.setattr(driver.controller, "state", None)
    for call in (
        lambda: node.exchange(api_revision_request(), ControlKind.NONE, None),
        node.information, node.reset, node.recover, lambda: node_of(driver),
    ):  # fmt: skip
        with pytest.raises(ControllerNotReadyError):
            call()


def test_recovery_waits_for_the_driver(driver: Driver, node: NodeDevice, monkeypatch: pytest.MonkeyPatch) -> None:
    state = driver.controller.state
    monkeypatch.setattr(driver.controller, "state", None)
    waits = threading.Event()
    monkeypatch.setattr("ihsm.chardev.device.time.sleep", lambda _: waits.set())
    recovering = threading.Thread(target=node.recover)
    recovering.start()
    until(waits.is_set, "recovery to wait")
    driver.controller.state = state
    ended(recovering)
    node.exchange(api_revision_request(), ControlKind.NONE, None)


def refusing(process: Process, code: int, extended: int | None) -> Calls:
    """A driver that refuses session commands so, once it has been opened."""

    def ioctl(fd: int, number: int, argument: object) -> int:
        if number != 0xC0704203:
            return process.ioctl(fd, number, argument)  # type: ignore[arg-type]
        if extended is not None:
            memoryview(argument)[104:108] = extended.to_bytes(4, "little")  # type: ignore[arg-type]
        raise OSError(code, os.strerror(code))

    return Calls(process.open, ioctl, process.close)


REFUSALS: dict[str, tuple[int, int | None, type[IhsmError], str]] = {
    "no memory": (errno.ENOMEM, CpStatus.NO_MEMORY, ResourceError, "no memory"),
    "command set": (errno.EINVAL, CpStatus.INVALID_CMDSET, RequestRefusedError, "INVALID_CMDSET"),
    "limit": (errno.EINVAL, CpStatus.OPEN_SESSION_SESSION_LIMIT_REACHED, RequestRefusedError, "LIMIT_REACHED"),
    "mismatch": (errno.EINVAL, CpStatus.SESSION_ID_MISMATCH, SessionClosedError, "not open here"),
    "status of tomorrow": (errno.EINVAL, 77, RequestRefusedError, "0x4d"),
    "not the opener": (errno.EACCES, None, ForkedError, "parent"),
    "gone": (errno.ENOTTY, None, DeviceGoneError, "let go"),
    "no word": (errno.EFAULT, None, RequestRefusedError, "Bad address"),
    "memory, no word": (errno.ENOMEM, None, ResourceError, "no memory"),
    "again, no word": (errno.EAGAIN, None, ControllerNotReadyError, "no commands now"),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_what_the_driver_refuses(process: Process, name: str) -> None:
    code, extended, kind, text = REFUSALS[name]
    with NodeDevice("/dev/azihsm0", calls=refusing(process, code, extended)) as node:
        with pytest.raises(IhsmError, match=text) as refused:
            node.exchange(api_revision_request(), ControlKind.NONE, None)
        assert type(refused.value) is kind
        with pytest.raises(kind):
            node.exchange(api_revision_request(), ControlKind.OPEN, None)
        assert open_files(process) == 1


def test_a_file_of_another_process(driver: Driver, process: Process) -> None:
    """As after a fork that only C code knows of."""
    child: list[Process] = []

    def ioctl(fd: int, number: int, argument: object) -> int:
        return (child or [process])[0].ioctl(fd, number, argument)  # type: ignore[arg-type]

    with NodeDevice("/dev/azihsm0", calls=Calls(process.open, ioctl, process.close)) as node:
        child.append(process.fork())
        with pytest.raises(ForkedError):
            node.exchange(api_revision_request(), ControlKind.NONE, None)
        child.pop().exit()


def test_a_function_that_is_pulled_out(node: NodeDevice, driver: Driver) -> None:
    driver.unbind()
    for call in (lambda: node.exchange(api_revision_request(), ControlKind.NONE, None), node.recover, node.reset):
        with pytest.raises(DeviceGoneError):
            call()
    with pytest.raises(DeviceNotFoundError):
        node_of(driver)


@FORKS
def test_a_child_of_fork(driver: Driver, process: Process) -> None:
    paired = PairedCalls(process)
    with NodeDevice("/dev/azihsm0", calls=paired.calls) as node:
        session = provisioned(node).open_session(CREDENTIAL)
        mine = list(paired.pairs)
        started = node.aes_queues[0].submit(np.zeros(0, GCM_SQE), HANG_S)

        def work() -> tuple[list[str], list[bool]]:
            refused = [
                refusal(lambda: node.exchange(api_revision_request(), ControlKind.NONE, None)),
                refusal(node.information),
                refusal(node.reset),
                refusal(node.recover),
                refusal(lambda: node.aes_queues[0].gcm_encrypt(session.fast_path, 1, b"text", timeout_s=HANG_S)),
                refusal(started.result),
                refusal(lambda: asyncio.run(started.awaited())),
            ]
            session.close()
            node.close()
            return refused, [is_open(fd) for fd in mine]

        messages, still_open = in_child(work)
        assert all("chardev:/dev/azihsm0" in message for message in messages)
        assert still_open == [False] * len(mine)
        check_signature(session)
        assert not len(started.result())
        assert driver.controller.counters.proc_not_own_fd_cnt == 0


def is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


# -- nodes that are none -----------------------------------------------------------------------------------------------


def test_the_system_has_no_such_node(tmp_path: Path) -> None:
    for path in (tmp_path / "none", tmp_path / "none" / "below"):
        with pytest.raises(DeviceNotFoundError, match="no such node"):
            NodeDevice(os.fspath(path))
    with pytest.raises(DeviceNotFoundError):
        NodeDevice("/dev/x\0y")


def test_what_is_no_character_device_is_not_opened(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    for path in (fifo, tmp_path):
        with pytest.raises(UnsupportedDeviceError, match="no character device"):
            NodeDevice(os.fspath(path))


def test_another_driver_has_the_node() -> None:
    with pytest.raises(UnsupportedDeviceError, match="no HSM node"):
        NodeDevice(os.devnull)


def test_a_node_that_may_not_be_opened(process: Process) -> None:
    def refuse(path: str) -> int:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    calls: Callable[[str], int] = refuse
    with pytest.raises(RequestRefusedError, match="Permission denied"):
        NodeDevice("/dev/azihsm0", calls=Calls(calls, process.ioctl, process.close))


def test_the_management_node_is_refused(process: Process) -> None:
    """Its ioctls are others: EBADRQC."""

    def ioctl(fd: int, number: int, argument: object) -> int:
        raise OSError(errno.EBADRQC, os.strerror(errno.EBADRQC))

    with pytest.raises(UnsupportedDeviceError, match="no HSM node"):
        NodeDevice("/dev/azihsm0", calls=Calls(process.open, ioctl, process.close))
    assert open_files(process) == 0


def test_a_response_that_is_none_opens_no_session(
    node: NodeDevice, driver: Driver, process: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = Script()
    script.complete(hsm_cqe(byte_count=9))
    monkeypatch.setattr(driver.controller, "execute", script)
    node.exchange(api_revision_request(), ControlKind.OPEN, None)
    assert open_files(process) == 1
