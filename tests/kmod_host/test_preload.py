# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Programs with the preload library: what they see and do, in C and as everybody's tools."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ihsm_kmod.host import preload
from support.host_driver import FOLDER, NODE, Command
from support.preloaded import Preloaded
from support.waiting import HANG_S, until

SOURCES = Path(__file__).parent


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Preloaded]:
    """A kernel with the driver, and a server; nothing of any program is left when the test is over."""
    with Preloaded(tmp_path) as host:
        yield host
        until(lambda: not len(host.server), "the end of all connections")
        until(lambda: host.driver.released == host.driver.opened, "the release of all files")
        assert host.kernel.vfs.open_files == 0


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the C programs."""
    folder = tmp_path_factory.mktemp("programs")
    for source in SOURCES.glob("*.c"):
        command = ["cc", "-D_GNU_SOURCE", "-Wall", "-Wextra", "-Werror", "-O1", "-o", folder / source.stem, source]
        subprocess.run([*command, "-pthread"], check=True)
    return folder


@pytest.mark.parametrize("case", ["flags", "vforks", "few_descriptors"])
def test_calls_return_what_they_do_on_a_device(host: Preloaded, programs: Path, case: str) -> None:
    host.run(programs / "lives", case)
    assert host.driver.opened > 0


@pytest.mark.parametrize("case", ["node", "attribute", "folders"])
def test_programs_see_the_machine_s_files(host: Preloaded, programs: Path, case: str) -> None:
    host.run(programs / "looks", case)


def test_threads_have_connections_of_their_own(host: Preloaded, programs: Path) -> None:
    host.run(programs / "lives", "threads")
    assert host.driver.commands[Command.ADD_ONE] == 6000
    assert host.driver.opened == 6


def test_a_child_is_another_process_to_the_driver(host: Preloaded, programs: Path) -> None:
    host.run(programs / "lives", "forks")
    assert host.driver.commands[Command.TGID] == 6


def test_threads_may_outlive_the_first_one(host: Preloaded, programs: Path) -> None:
    host.run(programs / "lives", "outlived")
    assert host.driver.commands[Command.ADD_ONE] == 3


def test_threads_may_fork_at_the_same_time(host: Preloaded, programs: Path) -> None:
    host.run(programs / "lives", "storm")
    assert host.driver.commands[Command.COUNT] == 2 * host.driver.opened == 2000


@pytest.mark.parametrize("case", ["executes", "spawns"])
def test_an_open_device_outlives_the_program_that_opened_it(host: Preloaded, programs: Path, case: str) -> None:
    host.run(programs / "lives", case)
    assert host.driver.opened == 1


def test_the_last_of_several_descriptors_releases(host: Preloaded, programs: Path) -> None:
    host.run(programs / "lives", "copies")
    assert (host.driver.opened, host.driver.commands[Command.COUNT]) == (1, 4)


def test_nothing_is_left_of_files_that_were_closed(host: Preloaded, programs: Path) -> None:
    host.run(programs / "lives", "opens")
    before = len(os.listdir("/proc/self/fd"))
    host.run(programs / "lives", "opens")
    assert host.driver.opened == 4002
    until(lambda: not len(host.server) and len(os.listdir("/proc/self/fd")) <= before, "the server's descriptors")


def test_programs_may_close_what_they_do_not_know(host: Preloaded, programs: Path) -> None:
    host.run(programs / "lives", "closes_all")
    assert host.driver.commands[Command.COUNT] == 3


def test_signals_repeat_no_command_and_lose_none(host: Preloaded, programs: Path) -> None:
    assert int(host.run(programs / "lives", "timer")) == host.driver.commands[Command.COUNT]


def test_a_cancelled_thread_has_done_its_command(host: Preloaded, programs: Path) -> None:
    with host.start(programs / "lives", "cancelled") as program:
        assert program.stdin is not None
        assert program.stdout is not None
        assert program.stdout.readline() == "waits\n"
        host.wait_for_waiter()
        program.stdin.write("c")
        program.stdin.flush()
        assert program.stdout.readline() == "cancelled\n"
        host.driver.go_on(host.kernel)
        assert program.wait(HANG_S) == 0
    assert host.driver.commands[Command.COUNT] == 1


def test_a_program_that_is_killed_in_a_command_releases_its_file_once(host: Preloaded, programs: Path) -> None:
    with host.start(programs / "lives", "waits") as program:
        host.wait_for_waiter()
        program.kill()
        assert program.wait(HANG_S) == -signal.SIGKILL
        assert host.driver.released == 0
        host.driver.go_on(host.kernel)
    until(lambda: host.driver.released == 1, "the release")


def test_a_program_whose_server_has_gone_is_told(host: Preloaded, programs: Path) -> None:
    with host.start(programs / "lives", "waits") as program:
        host.wait_for_waiter()
        host.server.close()
        assert program.wait(HANG_S) == 1
        host.driver.go_on(host.kernel)
        assert program.stderr is not None
        assert "Input/output error" in program.stderr.read()
    assert host.shell(f"[ -e {NODE} ] || echo gone") == "gone\n"


def test_everybody_s_tools_see_the_files(host: Preloaded) -> None:
    assert re.match(r"crw------- 1 \S+ +\S+ +\d+, 0 .* /dev/toy0\n$", host.shell(f"ls -l {NODE}"))
    assert host.shell(f"[ -c {NODE} ] && [ -r {NODE} ] && [ ! -d {NODE} ] && echo yes") == "yes\n"
    assert host.shell("ls /dev").splitlines() == sorted({*os.listdir("/dev"), "toy0"})
    assert re.fullmatch(r"\d+:0\n", host.shell(f"cat {FOLDER}/dev"))
    assert host.shell(f"cd {FOLDER} && cat uevent | tail -1") == "DEVNAME=toy0\n"
    assert host.shell(f"cp {FOLDER}/dev copy; stat -c %s copy; rm copy") == "6\n"
    assert host.shell("echo /dev/toy*") == "/dev/toy0\n"
    assert host.shell("find /dev -maxdepth 1 -type c -name 'toy*'") == f"{NODE}\n"
    assert host.shell("find /sys/class/toys/ -name uevent") == ""
    assert host.shell(f"find {FOLDER}/ -name uevent") == f"{FOLDER}/uevent\n"
    assert host.shell(f"readlink -f {FOLDER}") == "/sys/devices/virtual/toys/toy0\n"
    assert host.shell(f"stat -c %F {NODE}") == "character special file\n"
    assert host.shell("echo fine > /dev/null; cat /dev/null; ls -d /dev/null") == "/dev/null\n"


def test_python_opens_devices_and_files(host: Preloaded) -> None:
    program = f"""
import fcntl, glob, os, stat
fd = os.open("{NODE}", os.O_RDWR)
value = bytearray(8)
fcntl.ioctl(fd, {Command.ADD_ONE:#x}, value)
assert fcntl.ioctl(fd, {Command.TGID:#x}) == os.getpid()
assert stat.S_ISCHR(os.fstat(fd).st_mode)
assert glob.glob("/dev/toy*") == ["{NODE}"]
assert open("{FOLDER}/dev").read().endswith(":0\\n")
assert sorted(os.listdir("{FOLDER}")) == ["dev", "subsystem", "uevent"]
assert os.path.realpath("{FOLDER}") == "/sys/devices/virtual/toys/toy0"
print(value[0])
"""
    assert host.run(sys.executable, "-c", program) == "1\n"


def test_a_library_that_is_loaded_already_stays_in_front(tmp_path: Path) -> None:
    environment = preload.preload_environment(tmp_path / "server", tmp_path, {"LD_PRELOAD": "/a.so"})
    assert environment["LD_PRELOAD"] == f"/a.so:{preload.LIBRARY}"


def test_the_library_may_lie_in_a_folder_with_a_space(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lying = tmp_path / "a folder" / preload.LIBRARY.name
    monkeypatch.setattr(preload, "LIBRARY", lying)
    environment = preload.preload_environment(tmp_path / "server", tmp_path, {})
    assert Path(environment["LD_PRELOAD"]).readlink() == lying


@pytest.mark.parametrize(
    "packet",
    [
        b"",
        b"short",
        preload.REQUEST.pack(99, 0, 0, 0, 0),
        preload.REQUEST.pack(preload.Operation.STAT, 0, 0, 0, 0) + b"/dev/\0",
        preload.REQUEST.pack(preload.Operation.STAT, 0, 0, 0, 0) + b"/" * 4096,
    ],
    ids=["empty", "short", "operation", "NUL", "long"],
)
def test_a_malformed_packet_ends_its_connection_and_no_other(host: Preloaded, packet: bytes) -> None:
    hello = preload.REQUEST.pack(preload.Operation.HELLO, 0, 0, os.getpid(), 0)
    question = preload.REQUEST.pack(preload.Operation.STAT, 0, 0, 0, 0) + NODE.encode()
    with (
        socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as bad,
        socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as good,
    ):
        for client in (bad, good):
            client.connect(os.fspath(host.server_path))
            client.send(hello)
        bad.send(packet)
        assert bad.recv(100) == b""
        good.send(question)
        assert preload.ANSWER.unpack_from(good.recv(1000))[0] == preload.IS_DONE


def test_the_first_packet_must_say_who_it_is(host: Preloaded) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as client:
        client.connect(os.fspath(host.server_path))
        client.send(preload.REQUEST.pack(preload.Operation.STAT, 0, 0, 0, 0) + NODE.encode())
        assert client.recv(100) == b""


def test_another_user_is_refused(host: Preloaded, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 4711)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as client:
        client.settimeout(HANG_S)
        client.connect(os.fspath(host.server_path))
        assert client.recv(100) == b""
