# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Commands and clients of this project as programs that have the driver's node: `--device chardev:/dev/azihsm0`."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

from support.kmod_run import kmod_run, printed

URI = "chardev:/dev/azihsm0"
IHSM = f"{sys.executable} -P -m ihsm"

via = pytest.mark.parametrize("via", ["notify", "preload"])


@via
def test_commands(via: str, tmp_path: Path) -> None:
    """A store that is made once, and used by one program after the other."""
    (tmp_path / "message").write_bytes(os.urandom(300_000))
    script = f"""
    cd {tmp_path}
    {IHSM} info --json | tr -d '\\n'; echo
    {IHSM} list
    {IHSM} init > init
    {IHSM} key generate web > web
    {IHSM} key generate box --kind aes256-gcm > box
    {IHSM} sign web message -o message.sig
    {IHSM} verify web message --signature message.sig
    {IHSM} encrypt box message -o message.sealed
    {IHSM} decrypt box message.sealed -o message.opened
    cmp message message.opened && echo same
    {IHSM} status --json | tr -d '\\n'
    """
    environment = {"XDG_DATA_HOME": str(tmp_path), "XDG_RUNTIME_DIR": str(tmp_path), "IHSM_DEVICE": URI}
    info, *found, same, status = printed("--via", via, "--", "sh", "-ec", script, environment=environment)
    record = json.loads(info)
    assert record["uri"] == URI
    assert record["driver"]["version"] == "3.2.0"
    assert record["driver"]["entropy_bytes"] == 32
    (row,) = [line.split() for line in found if line.endswith("/dev/azihsm0")]
    assert row[0].startswith("pci:")  # as where the driver is the kernel's
    assert row[1:3] == ["azihsm", "-"]
    assert same == "same"
    assert json.loads(status)["module"]["state"] == "ready"


@via
def test_selftest(via: str) -> None:
    assert printed("--via", via, "--", *IHSM.split(), "selftest", "--device", URI)[-1].endswith(" passed, 0 failed")


@via
@pytest.mark.parametrize(
    ("device", "status", "text"),
    [("/dev/azihsm1", 3, "no such node"), ("/dev/null", 5, "no HSM node"), ("/sys", 5, "no character device")],
)
def test_a_node_that_is_none(via: str, device: str, status: int, text: str) -> None:
    done = kmod_run("--via", via, "--", *IHSM.split(), "info", "--device", f"chardev:{device}")
    assert (done.returncode, done.stdout) == (status, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith("Error: ")
    assert text in line


PROGRAM = """
import os, signal, sys
from cryptography.hazmat.primitives.asymmetric import ec
from ihsm.chardev import NodeDevice
from ihsm.ddi import Credential, Partition, SoftwareTrustAnchor
from ihsm.errors import ForkedError
from ihsm_abi.ddi.limits import BK3_BYTES, MAX_SESSIONS

credential = Credential(b"application id 1", b"personal number.")
node = NodeDevice("/dev/azihsm0")
partition = Partition(node)
if not partition.is_provisioned():
    anchor = SoftwareTrustAnchor(ec.generate_private_key(ec.SECP384R1()))
    partition.establish_credential(credential, partition.init_bk3(bytes(BK3_BYTES)).masked_bk3, anchor)
sessions = [partition.open_session(credential) for _ in range(MAX_SESSIONS)]
"""


@via
def test_a_program_that_is_killed_leaves_no_session(via: str, tmp_path: Path) -> None:
    """There are so many that the next one would get none."""
    killed = tmp_path / "killed.py"
    killed.write_text(PROGRAM + "print(len(sessions), flush=True)\nos.kill(os.getpid(), signal.SIGKILL)\n")
    script = f"for n in 1 2 3; do {sys.executable} {killed} || true; done"
    assert printed("--via", via, "--", "sh", "-c", script) == ["8", "8", "8"]


FORK = """
pid = os.fork()
if not pid:
    try:
        sessions[0].unwrapping_key()
    except ForkedError:
        os._exit(0)
    os._exit(1)
print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
sessions[0].unwrapping_key(wait_s=60)
node.close()
with NodeDevice("/dev/azihsm0") as again:
    print(len([Partition(again).open_session(credential) for _ in range(MAX_SESSIONS)]))
"""


@via
def test_a_child_disturbs_nothing(via: str) -> None:
    """The child's files are closed before the parent's, whose sessions end with them."""
    assert printed("--via", via, "--", sys.executable, "-c", PROGRAM + FORK) == ["0", "8"]
