# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""`ihsm doctor` on a machine that is set up, and on one that is not."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path


def doctor(**environment: str) -> tuple[int, dict[str, dict[str, str]]]:
    done = subprocess.run(
        [sys.executable, "-m", "ihsm", "doctor", "--json"],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, {finding["part"]: finding for finding in json.loads(done.stdout)}


def test_a_machine_that_is_set_up() -> None:
    status, findings = doctor()
    assert status == 0
    broken = {part: finding for part, finding in findings.items() if finding["health"] == "broken"}
    assert not broken
    assert set(findings) == {
        "QEMU", "guest kernel", "kernel headers", "busybox", "KVM", "libvfio-user", "memory sharing"
    }  # fmt: skip


def test_a_machine_without_qemu_and_kernel(tmp_path: Path) -> None:
    status, findings = doctor(XDG_CACHE_HOME=str(tmp_path), IHSM_QEMU=str(tmp_path / "absent"))
    assert status == 1
    for part in ("QEMU", "guest kernel", "kernel headers"):
        assert findings[part]["health"] == "broken"
        assert "scripts/setup" in findings[part]["mend"]
    assert "absent" in findings["QEMU"]["detail"]
    assert findings["KVM"]["health"] == "note"
    assert findings["memory sharing"]["health"] == "ok"
