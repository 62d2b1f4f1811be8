# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Figures of working with guests: what is taken for one, and what is refused; the guests themselves are long."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ihsm.bench import guest_loop
from ihsm.bench.in_guest import GuestBenchError
from ihsm.bench.targets import TARGETS
from ihsm.embedded import EmbeddedDevice


def test_the_first_run_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guest_loop, "_guest", lambda shell: "10.00\n40.00\n44.00\n47.00\n51.00\n")
    record = guest_loop._info().to_json()
    assert (record["id"], record["value"], record["unit"], record["first_s"]) == ("guest-info", 4.0, "s", 30.0)
    assert record["runs"]["tcg"]["runs"] == 3
    verdicts = [target.met(record) for target in TARGETS if target.id == "guest-info"]
    assert verdicts == [True]
    for said in ("", "1 2", "1 2 3 4 5 6"):
        monkeypatch.setattr(guest_loop, "_guest", lambda shell, said=said: said)
        with pytest.raises(GuestBenchError, match="clock"):
            guest_loop._info()


def test_a_guest_that_fails_gives_no_figure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guest_loop, "_guest", lambda shell: "signed, or not\n")
    with pytest.raises(GuestBenchError, match="signed, or not"):
        guest_loop._first_signature()
    monkeypatch.undo()
    monkeypatch.setattr(guest_loop, "MODULE_OPTIONS", ["-c", "import sys; sys.exit('no such guest')"])
    with pytest.raises(GuestBenchError, match="status 1: no such guest"):
        guest_loop._guest("true")


def test_the_program_that_signs_does_so_on_any_device(tmp_path: Path) -> None:
    program = tmp_path / "sign.py"
    program.write_text(guest_loop.SIGN)
    with EmbeddedDevice() as device:
        environment = {
            **os.environ,
            "IHSM_DEVICE": f"vfio-user:{device.socket_path}",
            "XDG_DATA_HOME": str(tmp_path),
            "XDG_RUNTIME_DIR": str(tmp_path),
        }
        done = subprocess.run([sys.executable, program], capture_output=True, text=True, check=False, env=environment)
    assert (done.returncode, done.stdout) == (0, "signed\n"), done.stderr


@pytest.mark.long
@pytest.mark.guest
def test_both_are_measured() -> None:
    records = guest_loop.guest_loop_records()
    assert [record["id"] for record in records] == ["guest-info", "guest-first-signature"]
    assert all(record["value"] > 0 for record in records)
    json.dumps(records)
