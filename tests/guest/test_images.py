# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""A guest's Python programs come from images; what is edited on the host meanwhile is seen, and host files are left."""

from __future__ import annotations

import io
import os
from pathlib import Path

import pytest

from ihsm.guest import Accelerator, GuestConfig, Streams, environment
from ihsm.guest.bench import Bench
from ihsm.guest.initramfs import GuestCommand
from ihsm.guest.session import Session, guest_environment
from support.waiting import GUEST_HANG_S

pytestmark = pytest.mark.guest
SHOW = "python -c 'import edited, shared_one; print(edited.VALUE, shared_one.VALUE)'"


def test_a_kept_guest_sees_edits_of_files_in_its_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    project, shared = tmp_path / "project", tmp_path / "project" / "shared"
    shared.mkdir(parents=True)
    edited, shared_one = project / "edited.py", shared / "shared_one.py"
    edited.write_text("VALUE = 1\n")
    shared_one.write_text("VALUE = 'a'\n")
    monkeypatch.setattr(environment, "project_roots", lambda: [project])
    config = GuestConfig(
        accelerator=Accelerator.TCG,
        boot_limit_s=None,
        command_limit_s=None,
        silence_limit_s=GUEST_HANG_S,
        shares=(shared,),
    )
    variables = {**guest_environment(), "PYTHONPATH": f"{project}:{shared}"}
    with Bench(Session(config=config, shell=None, devices=0)) as bench:

        def run(shell: str) -> str:
            out, err = io.BytesIO(), io.BytesIO()
            status = bench.run(Streams(None, out, err), GuestCommand(shell, tmp_path, variables))
            assert status == 0, err.getvalue().decode()
            return out.getvalue().decode()

        lines = [
            "cat /proc/mounts",
            SHOW,
            f"echo guest > {edited}.mine && cat {edited}.mine",
        ]
        said = run(" && ".join(lines)).splitlines()
        (root,) = [line.split() for line in said if line.startswith("overlay / ")]
        assert "lowerdir=/images/ihsm.project:/images/ihsm.python:/low," in root[3]
        assert said[-2:] == ["1 a", "guest"]
        status = edited.stat()
        edited.write_text("VALUE = 2\n")
        os.utime(edited, ns=(status.st_atime_ns, status.st_mtime_ns + 10**9))
        shared_one.write_text("VALUE = 'b'\n")
        assert run(SHOW) == "2 b\n"
        assert shared_one.read_text() == "VALUE = 'b'\n"
        edited.unlink()
        (project / "edited").mkdir()
        (project / "edited" / "__init__.py").write_text("VALUE = 'package'\n")
        assert run(f"{SHOW}; ls {project}").splitlines()[0] == "package b"
    assert not Path(f"{edited}.mine").exists()
