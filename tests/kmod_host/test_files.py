# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""What programs see of the machine's files beside the host's: shells, coreutils and Python look."""

from __future__ import annotations

import json
import os
import stat
import sys
from typing import Any

import pytest

from support.kmod_run import kmod_run, printed

via = pytest.mark.parametrize("via", ["notify", "preload"])


def shell(via: str, script: str) -> list[str]:
    return printed("--via", via, "--", "sh", "-ec", script)


def python(via: str, script: str, **options: Any) -> Any:
    """What a script of Python prints as JSON."""
    lines = printed("--via", via, "--", sys.executable, "-c", f"import json, os, stat, errno\n{script}", **options)
    return json.loads(lines[-1])


@via
def test_a_shell_sees_a_device_a_number_and_that_nothing_is_read(via: str) -> None:
    script = "ls -l /dev/azihsm0; cat /sys/bus/pci/devices/*/azihsm/global/total_submissions /dev/azihsm0"
    done = kmod_run("--via", via, "--", "sh", "-c", script)
    node, number = done.stdout.splitlines()
    assert node.startswith("crw-------")
    assert " 254, 0 " in node
    assert int(number) >= 0
    assert done.stderr == "cat: /dev/azihsm0: Invalid argument\n"


@via
def test_the_usual_questions_to_a_node(via: str) -> None:
    script = """
    [ -c /dev/azihsm0 ] && [ -r /dev/azihsm0 ] && [ -w /dev/azihsm0 ] && [ ! -x /dev/azihsm0 ] && echo node
    [ -e /dev/azihsm1 ] || echo one
    echo /dev/azi*
    stat -c '%F %t:%T' /dev/azihsm0
    cd /dev; stat -c %F azihsm0 ./azihsm0 ../dev/azihsm0 //dev//azihsm0
    find /dev -maxdepth 1 -name 'azi*'
    cat /sys/dev/char/254:0/uevent
    """
    special = "character special file"
    assert shell(via, script) == [
        "node", "one", "/dev/azihsm0", f"{special} fe:0", *4 * [special], "/dev/azihsm0", "MAJOR=254", "MINOR=0",
        "DEVNAME=azihsm0",
    ]  # fmt: skip


@via
def test_what_the_host_has_is_as_it_was(via: str) -> None:
    script = """
    names = {folder: sorted(os.listdir(folder)) for folder in ("/dev", "/sys", "/sys/bus", "/sys/class")}
    kinds = {name: os.lstat("/dev/" + name).st_mode for name in names["/dev"]}
    with os.scandir("/dev") as found:
        followed = {entry.name: entry.stat(follow_symlinks=False).st_mode for entry in found}
    folder = os.open("/dev", os.O_RDONLY | os.O_DIRECTORY)
    relative = {name: os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode for name in names["/dev"]}
    null = os.fstat(os.open("null", os.O_RDWR, dir_fd=folder)).st_rdev
    same = os.path.samestat(os.fstat(folder), os.stat("/dev"))
    print(json.dumps([names, kinds, followed, relative, null, same]))
    """.replace("\n    ", "\n")
    names, kinds, followed, relative, null, same = python(via, script)
    ours = {"/dev": {"azihsm0"}, "/sys": set(), "/sys/bus": set(), "/sys/class": {"azihsm-hsm", "azihsm-mgmt"}}
    for folder, found in names.items():
        assert set(found) == {*os.listdir(folder), *ours[folder]}
    modes = {name: os.lstat(f"/dev/{name}").st_mode for name in os.listdir("/dev")}
    assert kinds == followed == relative == modes | {"azihsm0": stat.S_IFCHR | 0o600}
    assert null == os.stat("/dev/null").st_rdev
    assert same


@via
def test_names_that_lead_through_links(via: str) -> None:
    script = """
    readlink -f /sys/class/azihsm-hsm/azihsm0/device/azihsm/admin | sed 's/[0-9a-f]*\\.0/BDF/'
    readlink /sys/class/azihsm-hsm/azihsm0/subsystem
    ls -d /sys/class/azihsm-hsm/../mem
    cat /sys/class/azihsm-hsm/azihsm0/device/driver/module/parameters/num_hsm_slots 2>/dev/null || echo none
    cat /sys/module/azihsm/parameters/num_hsm_slots
    ls /sys/class/azihsm-hsm/azihsm0/
    """
    assert shell(via, script) == [
        "/sys/devices/pci0000:00/0000:00:BDF/azihsm/admin", "../../../../../class/azihsm-hsm",
        "/sys/class/azihsm-hsm/../mem", "none", "16", "dev", "device", "subsystem", "uevent",
    ]  # fmt: skip


@via
def test_open_files_of_the_machine_are_what_they_are(via: str) -> None:
    script = """
    node, text = os.open("/dev/azihsm0", os.O_RDWR), "/sys/module/azihsm/parameters/num_hsm_slots"
    file = os.open(text, os.O_RDONLY | os.O_CLOEXEC)
    print(json.dumps([
        stat.S_ISCHR(os.fstat(node).st_mode), os.fstat(node).st_rdev == os.makedev(254, 0),
        os.path.samestat(os.fstat(node), os.stat("/dev/azihsm0")), os.path.samestat(os.fstat(file), os.stat(text)),
        os.fstat(file).st_size, os.read(file, 9).decode(), os.get_inheritable(file),
        open("/dev/azihsm0", "rb").fileno() > 2,
    ]))
    """.replace("\n    ", "\n")
    assert python(via, script) == [True, True, True, True, 4096, "16\n", False, True]


REFUSED = [
    ("/dev/azihsm0", os.O_CREAT | os.O_EXCL | os.O_RDWR, "EEXIST"),
    ("/dev/azihsm0", os.O_DIRECTORY, "ENOTDIR"),
    ("/dev/azihsm7", os.O_RDWR, "ENOENT"),
    ("/sys/class/azihsm-hsm/azihsm0", os.O_NOFOLLOW, "ELOOP"),
    ("/sys/class/azihsm-hsm", os.O_RDWR, "EISDIR"),
    ("/sys/class/azihsm-hsm/azihsm0/device/azihsm/admin/num_cpqs_created", os.O_WRONLY, "EIO"),
    ("/sys/module/azihsm/parameters/num_hsm_slots", os.O_WRONLY, "EACCES"),
    ("/sys/module/azihsm/parameters/log_mask", os.O_WRONLY, "EACCES"),
    ("/sys/bus/pci/drivers/azihsm/bind", os.O_RDONLY, "EACCES"),
]


@via
def test_what_cannot_be_opened(via: str) -> None:
    script = f"""
def attempt(path, flags):
    try:
        os.open(path, flags)
    except OSError as error:
        return errno.errorcode[error.errno]
print(json.dumps([attempt(path, flags) for path, flags, _ in {REFUSED!r}]))
"""
    assert python(via, script) == [error for _, _, error in REFUSED]


CLIMBING = [
    ("/sys", "../dev/azihsm0"), ("/proc", "../dev/azihsm0"), ("/sys/class", "../../dev/azihsm0"),
    ("/", "sys/../dev/azihsm0"), ("/", "proc/.././dev/azihsm0"), ("/", "../sys/class/azihsm-hsm/../../../dev/azihsm0"),
]  # fmt: skip


@via
def test_paths_that_climb_out_of_sys_and_proc(via: str) -> None:
    script = f"""
def kinds(folder, path):
    os.chdir(folder)
    absolute = folder.rstrip("/") + "/" + path
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    found = [os.stat(path), os.stat(absolute), os.stat(path, dir_fd=descriptor), os.fstat(os.open(path, os.O_RDWR))]
    return [stat.S_ISCHR(each.st_mode) and each.st_rdev == os.makedev(254, 0) for each in found]
null = os.stat("/sys/../dev/null").st_rdev == os.stat("/dev/null").st_rdev
print(json.dumps([[kinds(*each) for each in {CLIMBING!r}], null]))
"""
    assert python(via, script) == [len(CLIMBING) * [4 * [True]], True]


PLACES = ("/dev", "/sys", "/sys/class", "/sys/class/azihsm-hsm", "/dev/azihsm0", "/proc", "/dev/null")


@via
def test_places_that_are_opened_for_their_paths_only(via: str) -> None:
    script = f"""
opened = [os.open(path, os.O_PATH) for path in {PLACES!r}]
same = [os.path.samestat(os.fstat(fd), os.stat(path)) for fd, path in zip(opened, {PLACES!r})]
node = os.fstat(os.open("azihsm0", os.O_RDWR, dir_fd=opened[0]))
print(json.dumps([same, stat.S_ISCHR(node.st_mode)]))
"""
    assert python(via, script) == [len(PLACES) * [True], True]


@via
def test_a_path_counts_where_an_empty_one_might_be(via: str) -> None:
    """AT_EMPTY_PATH, which Python does not give."""
    script = """
    import ctypes
    libc = ctypes.CDLL(None, use_errno=True)
    def kind(folder, path, flags):
        buffer = ctypes.create_string_buffer(256)
        if libc.fstatat(folder, path, buffer, flags):
            return errno.errorcode[ctypes.get_errno()]
        return stat.S_IFMT(int.from_bytes(buffer[24:28], "little"))
    node = os.open("/dev/azihsm0", os.O_RDWR)
    print(json.dumps([
        kind(-100, b"/dev/azihsm0", 0x1000), kind(node, b"/etc/passwd", 0x1000), kind(node, b"", 0x1000),
        kind(-100, b"", 0x1000), kind(node, b"", 0), kind(node, b"x", 0),
    ]))
    """.replace("\n    ", "\n")
    places = [stat.S_IFCHR, stat.S_IFREG, stat.S_IFCHR, stat.S_IFDIR]
    assert python(via, script) == [*places, "ENOENT", "ENOTDIR"]


def test_arguments_that_linux_refuses() -> None:
    """Of calls as a program makes them without libc, which refuses some itself."""
    script = """
    import ctypes
    libc, node, buffer = ctypes.CDLL(None, use_errno=True), b"/dev/azihsm0", ctypes.create_string_buffer(256)
    def error(*call):
        return errno.errorcode[ctypes.get_errno()] if libc.syscall(*call) else None
    print(json.dumps([error(262, -100, node, buffer, 1 << 30), error(332, -100, node, 1 << 30, 0x7FF, buffer),
                      error(21, node, 99), error(269, -100, node, 8)]))
    """.replace("\n    ", "\n")
    assert python("notify", script) == 4 * ["EINVAL"]


@via
def test_threads_that_outlive_the_first_one(via: str) -> None:
    """Linux knows the process by the id of a thread that has no memory any more."""
    script = """
    import ctypes, sys, threading
    def look():
        while " Z " not in open(f"/proc/self/task/{os.getpid()}/stat").read():
            pass
        fd = os.open("/dev/azihsm0", os.O_RDWR)
        text = open("/sys/module/azihsm/parameters/num_hsm_slots").read()
        print(json.dumps([stat.S_ISCHR(os.stat("/dev/azihsm0").st_mode), stat.S_ISCHR(os.fstat(fd).st_mode), text]))
        sys.stdout.flush()
        os._exit(0)
    threading.Thread(target=look).start()
    ctypes.CDLL(None).syscall(60, 0)  # of this thread alone
    """.replace("\n    ", "\n")
    assert python(via, script) == [True, True, "16\n"]
