# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Key memory that the system does not let be locked: told when it happens, in the log and in the status.

Root may lock as much as it likes, so what has few locks is a process of its own without that right.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import subprocess
import sys
from typing import Any, Final

from support.waiting import HANG_S

MIB: Final = 1 << 20
LIBC: Final = ctypes.CDLL(None)
PR_CAPBSET_DROP: Final = 24
CAP_IPC_LOCK: Final = 14
LINES: Final = """
import json, logging, sys
from ihsm_device.hsm.device import DeviceOptions, HsmDevice
from ihsm_device.hsm.keystore import Owner
from support.hsm import Scene

lines = []
class Keep(logging.Handler):
    def emit(self, record):
        lines.append(record.getMessage())
logging.getLogger().addHandler(Keep())
"""
GROW: Final = """
with HsmDevice(DeviceOptions()) as device:
    scene = Scene(device.function())
    def look():
        scene.client.certificate_chain()
        memory = scene.module.status()["key_memory"]
        return {"lines": list(lines), **memory}
    before = look()
    for _ in range(int(sys.argv[1])):
        device.store.generate_secret(4096, Owner())
    print(json.dumps([before, look()]))
"""
BY_EXPRESS: Final = """
from ihsm.ddi.keys import KeyRequest
from ihsm_abi.ddi import EccCurve, HashAlgorithm, KeyUsage
from support.express_rig import ExpressRig
from support.waiting import until

with ExpressRig() as rig:
    session = rig.scene.open_session()
    key = session.generate_ecc_key(EccCurve.P256, KeyRequest(KeyUsage.SignVerify))
    def look(taken):
        session.ecc_sign(key, bytes(32), HashAlgorithm.Sha256)
        until(lambda: rig.taken >= taken, "commands of the lane")
        return {"lines": list(lines)}
    def is_locked():
        memory = rig.device.store.statistics()
        return memory.bytes_locked == memory.bytes_reserved
    seen = [look(1)]
    while is_locked():
        rig.device.store.generate_secret(4096, Owner())
    print(json.dumps([*seen, look(1), look(2)]))
"""


def grow(limit: int, secrets: int, script: str = GROW) -> list[dict[str, Any]]:
    """What the script sees of a store in a process that may lock so much: by default lines and status of before and
    after it holds that many secrets of 4 KiB.
    """

    def without_the_right() -> None:
        resource.setrlimit(resource.RLIMIT_MEMLOCK, (limit, limit))
        LIBC.prctl(PR_CAPBSET_DROP, CAP_IPC_LOCK, 0, 0, 0)  # fails without root, who alone has it

    done = subprocess.run(
        [sys.executable, "-c", LINES + script, str(secrets)],
        stdout=subprocess.PIPE,
        text=True,
        timeout=HANG_S,
        check=True,
        preexec_fn=without_the_right,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "PYTHONDONTWRITEBYTECODE": "1"},
    )
    answer: list[dict[str, Any]] = json.loads(done.stdout)
    return answer


def test_memory_that_is_locked_is_no_news() -> None:
    for seen in grow(8 * MIB, 10):
        assert seen["lines"] == []
        assert seen["reserved_bytes"] == seen["locked_bytes"] > 0


def test_what_cannot_be_locked_later_is_told_once() -> None:
    before, after = grow(5 * MIB, 1500)
    assert before["lines"] == []
    assert before["reserved_bytes"] == before["locked_bytes"]
    assert len(after["lines"]) == 1, after
    assert "memlock" in after["lines"][0]
    assert 0 < after["locked_bytes"] <= 5 * MIB < after["reserved_bytes"]


def test_what_cannot_be_locked_is_told_with_commands_of_the_express_lane() -> None:
    """The command that finds it goes to Python, which tells; the next is the lane's again."""
    before, found, after = grow(5 * MIB, 0, BY_EXPRESS)
    assert before["lines"] == []
    assert len(found["lines"]) == len(after["lines"]) == 1, found


def test_what_cannot_be_locked_at_the_start_is_told_then() -> None:
    before, after = grow(0, 1500)
    assert len(before["lines"]) == len(after["lines"]) == 1
    assert before["locked_bytes"] == after["locked_bytes"] == 0
