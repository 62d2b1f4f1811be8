# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""`ihsm serve` as a process: sockets, start, stop, several functions, clients that misbehave."""

from __future__ import annotations

import os
import re
import signal
import socket
import stat
import struct
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ihsm.bus import VfioUserFunction
from ihsm.control import ControlClient
from ihsm_abi.admin import IDENTIFY, AdminOpcode, AdminStatus
from ihsm_abi.control import SUFFIX
from ihsm_abi.ddi import GetApiRevReq, GetApiRevResp, decode_response, encode_request
from ihsm_abi.fault_actions import FaultAction
from ihsm_abi.faults import Fault, Match
from ihsm_abi.pci import Bar
from ihsm_abi.registers import GONE, Register
from ihsm_abi.resources import FIRST_AES_QUEUE_ID
from ihsm_device import serve_options
from support.polled import PolledDriver, admin_sqe
from support.process import json_lines, run_serve, serve
from support.shown import Sender
from support.waiting import HANG_S, until

HEADER = struct.Struct("<HHIII")
"""Message id, command, size, flags, error: the header of every vfio-user message."""


def use(path: Path) -> None:
    """The whole way once: enable, Identify, an HSM queue, GetApiRev."""
    with VfioUserFunction(path) as function:
        driver = PolledDriver(function)
        driver.enable()
        assert driver.run_admin(AdminOpcode.IDENTIFY, prp1=driver.page.iova).status == AdminStatus.SUCCESS
        driver.create_pair(1)
        _, response = decode_response(driver.run_hsm(encode_request(GetApiRevReq())).message, GetApiRevResp)
        assert response is not None
        driver.disable()


@pytest.mark.parametrize("queue_id", [1, FIRST_AES_QUEUE_ID])
def test_the_end_waits_for_no_command_that_is_held(socket_folder: Path, queue_id: int) -> None:
    """Nor for the deletion that waits for it."""
    path = socket_folder / "a.sock"
    with serve("--socket", str(path)) as server, VfioUserFunction(path) as function, ControlClient(path) as control:
        driver = PolledDriver(function)
        driver.enable()
        driver.create_pair(queue_id)
        fault = control.add_fault(Fault(FaultAction.HOLD_COMMAND, Match(queue=queue_id)))
        Sender(driver, queue_id).send()
        control.wait_fault(fault)
        driver.admin.submit(admin_sqe(AdminOpcode.DELETE_SQ, driver.next_cid(), dw10=queue_id))
        until(lambda: server.status()["queues"][0]["sq_head"] == driver.admin.tail, "the device to have read it")
        assert server.stop() == 0
    assert not [line for line in server.errors if "did not end" in line]


def test_first_use_and_end(socket_folder: Path) -> None:
    path = socket_folder / "a.sock"
    with serve("--socket", str(path)) as server:
        assert server.paths == [path]
        for socket_path in (path, path.with_name(path.name + SUFFIX)):
            assert stat.S_IMODE(socket_path.lstat().st_mode) == 0o600
        use(path)
        use(path)
        status = server.status()
        assert (status["pid"], status["socket"], status["resources"]) == (server.pid, str(path), 1)
        assert status["registers"]["CSTS"] == 0
        assert status["counters"]["hsm_commands"] == 2
        assert 0 < status["open_files"] < 50
        assert server.stop() == 0
    assert list(socket_folder.iterdir()) == []
    assert not any("Traceback" in line for line in server.errors)


@pytest.mark.parametrize(
    ("option", "value", "reason"),
    [
        ("--socket", "", "'.' names no socket"),
        ("--socket", "/", "'/' names no socket"),
        ("--socket", "two\nlines", "'two\\\\nlines' is more than one line"),
        ("--socket", "a.sock.lock", "is where another socket has its lock"),
        ("--state", "/dev/null", "'/dev/null' is not a folder"),
        ("--state", "two\nlines", "'two\\\\nlines' is more than one line"),
        ("--user", "9" * 20, "no user has this number: 0 to 4294967294 possible"),
        ("--user", "9" * 5000, "no user has this number: 0 to 4294967294 possible"),
        ("--user", "4294967295", "no user has this number: 0 to 4294967294 possible"),
        ("--allow-uid", "4294967295", "4294967295 is not in the range 0<=x<=4294967294"),
        ("--allow-uid", "9" * 20, "is not in the range"),
        ("--allow-uid", "9" * 5000, "is not a valid integer range"),
        ("--allow-uid", "-1", "-1 is not in the range"),
    ],
)
def test_values_that_options_cannot_have(option: str, value: str, reason: str) -> None:
    done = run_serve(option, value)
    assert (done.returncode, done.stdout) == (2, "")
    assert re.search(rf"^Error: Invalid value for '{option}': .*{reason}", done.stderr.splitlines()[-1])
    assert "Traceback" not in done.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_the_last_user_that_there_can_be(open_folder: Path) -> None:
    last = str(serve_options.MAX_UID)
    with serve("--socket", str(open_folder / "a.sock"), "--user", last, "--allow-uid", last) as server:
        assert server.status()["sandbox"]["user"] == serve_options.MAX_UID


def test_so_many_threads_for_hsm_commands_as_are_asked_for(socket_folder: Path) -> None:
    def tasks(pid: int) -> int:
        return len(list(Path(f"/proc/{pid}/task").iterdir()))

    with (
        serve("--socket", str(socket_folder / "a.sock"), "--hsm-threads", "1") as one,
        serve("--socket", str(socket_folder / "b.sock"), "--hsm-threads", "7") as seven,
    ):
        use(one.paths[0])
        use(seven.paths[0])
        # Some threads come and go, such as that which makes keys ahead.
        until(lambda: tasks(seven.pid) - tasks(one.pid) == 6, "six threads more")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_stop_with_a_client_attached(socket_folder: Path, number: int) -> None:
    with serve("--socket", str(socket_folder / "a.sock")) as server:
        with VfioUserFunction(server.paths[0]) as function:
            PolledDriver(function).enable()
            assert server.stop(number) == 0
        assert list(socket_folder.iterdir()) == []


def test_only_one_thread_takes_the_signals_that_end_it(socket_folder: Path) -> None:
    """Any other that does would end the process on the spot, with its sockets left."""
    ending = 1 << (signal.SIGTERM - 1) | 1 << (signal.SIGINT - 1)
    with serve("--socket", str(socket_folder / "a.sock"), "--doorbell", "page") as server:
        use(server.paths[0])
        for task in Path(f"/proc/{server.pid}/task").iterdir():
            blocked = next(line for line in (task / "status").read_text().splitlines() if line.startswith("SigBlk"))
            if task.name != str(server.pid):
                assert int(blocked.split()[1], 16) & ending == ending, (task / "comm").read_text()


def test_stop_with_a_silent_client(socket_folder: Path) -> None:
    """A client that connects and says nothing does not keep the process from ending."""
    with serve("--socket", str(socket_folder / "a.sock")) as server, socket.socket(socket.AF_UNIX) as client:
        before = server.open_files()
        client.connect(str(server.paths[0]))
        until(lambda: server.open_files() > before, "a connection that is accepted")
        assert server.stop() == 0
    assert list(socket_folder.iterdir()) == []
    assert not any("Traceback" in line for line in server.errors)


def test_functions_of_one_process_share_nothing(socket_folder: Path) -> None:
    first = socket_folder / "a.sock"
    with serve("--socket", str(first), "--count", "3", "--resources", "2") as server:
        assert server.paths == [first, Path(f"{first}.1"), Path(f"{first}.2")]
        functions = [VfioUserFunction(path) for path in server.paths]
        drivers = [PolledDriver(function) for function in functions]
        serials, ids = set(), []
        for driver in drivers:
            driver.enable()
            assert driver.run_admin(AdminOpcode.IDENTIFY, prp1=driver.page.iova).status == AdminStatus.SUCCESS
            identity = driver.page.view[: IDENTIFY.itemsize].view(IDENTIFY)[0]
            serials.add(bytes(identity["sn"]))
            ids.append(int(identity["ctrl_id"]))
        assert (len(serials), ids) == (3, [1, 2, 3])
        drivers[1].disable()
        assert [driver.csts.rdy for driver in drivers] == [1, 0, 1]
        assert [server.status(index)["registers"]["CSTS"] for index in range(3)] == [1, 0, 1]
        for index, driver in enumerate(drivers):
            assert driver.run_admin(AdminOpcode.GET_RES_CNT, dw10=index + 1).dw0 == 2 if index != 1 else True
        for function in functions:
            function.close()


def test_default_paths(socket_folder: Path) -> None:
    environment = {**os.environ, "XDG_RUNTIME_DIR": str(socket_folder)}
    with serve(environment=environment) as first, serve("--count", "2", environment=environment) as second:
        folder = socket_folder / "ihsm"
        assert first.paths == [folder / "0.sock"]
        assert second.paths == [folder / "1.sock", folder / "2.sock"]
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_stale_socket_is_replaced_and_a_live_one_is_not(socket_folder: Path) -> None:
    path = socket_folder / "a.sock"
    with serve("--socket", str(path)) as server:
        refused = run_serve("--socket", str(path))
        assert refused.returncode == 1
        assert "taken" in refused.stderr
        assert refused.stderr.count("\n") == 1
        use(path)
        server.process.kill()
        server.process.wait()
        assert path.exists()
        with serve("--socket", str(path)):
            use(path)


def test_failure_of_a_later_function_leaves_nothing_behind(socket_folder: Path) -> None:
    path = socket_folder / "a.sock"
    (socket_folder / "a.sock.1").write_text("precious")
    refused = run_serve("--socket", str(path), "--count", "2")
    assert refused.returncode == 1
    assert "no socket" in refused.stderr
    assert [entry.name for entry in socket_folder.iterdir()] == ["a.sock.1"]
    assert (socket_folder / "a.sock.1").read_text() == "precious"


@pytest.fixture(scope="module")
def shared_server(tmp_path_factory: pytest.TempPathFactory) -> object:
    path = tmp_path_factory.mktemp("s") / "a.sock"
    with serve("--socket", str(path)) as server:
        yield server


@settings(max_examples=40)
@given(
    greeting=st.booleans(),
    chunks=st.lists(
        st.one_of(
            st.binary(max_size=64),
            st.builds(
                lambda number, command, size, flags, body: HEADER.pack(number, command, size, flags, 0) + body,
                st.integers(0, 3), st.integers(0, 16), st.sampled_from([0, 15, 16, 32, 48, 2**20, 2**32 - 1]),
                st.integers(0, 3), st.binary(max_size=64),
            ),
        ),
        max_size=8,
    ),
)  # fmt: skip
def test_garbage_on_the_socket(shared_server: object, greeting: bool, chunks: list[bytes]) -> None:
    path = shared_server.paths[0]  # type: ignore[attr-defined]
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(HANG_S)
        client.connect(str(path))
        try:
            if greeting:
                body = struct.pack("<HH", 0, 1) + b'{"capabilities":{"max_msg_fds":8}}\0'
                client.sendall(HEADER.pack(1, 1, HEADER.size + len(body), 0, 0) + body)
                client.recv(4096)
            for chunk in chunks:
                client.sendall(chunk)
        except OSError:
            pass  # the server hung up
    use(path)


def test_json_log(socket_folder: Path) -> None:
    with serve("--socket", str(socket_folder / "a.sock"), "--log-format", "json", "--log-level", "debug") as server:
        use(server.paths[0])
        assert server.stop() == 0
    records = json_lines(server.errors)
    assert {"time", "level", "logger", "thread", "message"} <= set(records[0])
    assert any("enabled" in record["message"] for record in records)


def test_cost_of_doing_nothing(socket_folder: Path) -> None:
    """Memory has a limit; the time figures of an idle server are printed by the benchmark, not asserted here."""
    with serve("--socket", str(socket_folder / "a.sock")) as server:
        use(server.paths[0])
        assert server.status_field("VmRSS") < 80 * 1024


def test_descriptor_limit_is_raised(socket_folder: Path) -> None:
    with serve("--socket", str(socket_folder / "a.sock")) as server:
        limits = Path(f"/proc/{server.pid}/limits").read_text()
        soft, hard = next(line for line in limits.splitlines() if line.startswith("Max open files")).split()[3:5]
        assert soft == hard


def test_memory_without_pointer(socket_folder: Path) -> None:
    """QEMU without share=on: RDY stays 0 and one error says what to do; other regions without pointer do not matter."""
    with serve("--socket", str(socket_folder / "a.sock")) as server:
        with VfioUserFunction(server.paths[0]) as function:
            function.map_dma(None, 0, 0x10000, 0x10000)
            driver = PolledDriver(function)
            driver.enable()
            driver.disable()
            driver.write(Register.ASQ, 0x10000, 8)
            driver.write(Register.ACQ, 0x11000, 8)
            driver.write(Register.CC, 1)
            assert driver.csts == 0
        assert server.stop() == 0
    assert sum("share=on" in line for line in server.errors) == 1


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "not JSON: "),
        ("{}", "an array of faults is required"),
        ('[{"action": "wrong-cap-to"}]', "fault 1: parameters.to: wrong-cap-to needs it"),
        ('[{"action": "wrong-bar-size", "parameters": {"bar": "msix", "size": 3}}]', "fault 1: parameters.size: 3 is"),
    ],
)
def test_a_file_of_faults_that_is_wrong(socket_folder: Path, text: str, reason: str) -> None:
    file = socket_folder / "faults.json"
    file.write_text(text)
    refused = run_serve("--socket", str(socket_folder / "s"), "--faults", str(file))
    assert refused.returncode == 1
    (line,) = refused.stderr.splitlines()
    assert line.startswith(f"Error: faults '{file}': {reason}")
    assert [entry.name for entry in socket_folder.iterdir()] == ["faults.json"]


def test_a_file_of_faults_that_cannot_be_read(socket_folder: Path) -> None:
    refused = run_serve("--socket", str(socket_folder / "s"), "--faults", str(socket_folder / "none.json"))
    assert refused.returncode == 2
    assert "does not exist" in refused.stderr.splitlines()[-1]


def test_each_function_begins_with_the_faults_of_the_file(socket_folder: Path) -> None:
    file = socket_folder / "faults.json"
    file.write_text('[{"action": "wrong-vectors", "parameters": {"vectors": 4}}, {"action": "all-ones"}]')
    with serve("--socket", str(socket_folder / "s"), "--count", "2", "--faults", str(file)) as server:
        for index, path in enumerate(server.paths):
            texts = [entry["text"] for entry in server.status(index)["faults"]]
            assert texts == ["wrong-vectors vectors=4", "all-ones"]
            with VfioUserFunction(path) as function:
                assert function.vectors == 4
                assert function.read_bar(Bar.REGISTERS, Register.CSTS, 4) == GONE
        cleared = server.control("fault.clear").result
        assert cleared is not None
        assert cleared["cleared"] == 1
        refused = server.control("fault.clear", id=1)
        assert (refused.error_code, "is of the start" in refused.message) == ("bad-request", True)
        assert server.control("fault.add", action="wrong-cap-to", parameters={"to": 1}).error_code == "bad-request"
