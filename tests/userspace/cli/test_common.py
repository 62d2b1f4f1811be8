# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""What commands print."""

from __future__ import annotations

import os

import pytest

from ihsm.cli.common import print_table


def test_bytes_that_are_no_characters_are_shown(capsys: pytest.CaptureFixture[str]) -> None:
    print_table([("uri", os.fsdecode(b"vfio-user:/tmp/caf\xe9/0.sock")), ("é", "ß")], ("NAME", "VALUE"))
    shown = capsys.readouterr().out
    assert shown.encode()  # strict UTF-8
    assert r"/tmp/caf\xe9/0.sock" in shown
    assert "é" in shown
