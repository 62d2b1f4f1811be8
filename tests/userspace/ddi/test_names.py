# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""The package's names are loaded when used."""

from __future__ import annotations

import subprocess
import sys


def test_commands_load_no_large_libraries_that_they_do_not_use() -> None:
    commands = "from ihsm.cli import info, init, selftest, status, verify_report"
    program = f"{commands}; import sys; print(*{{'cwt', 'cbor2', 'cryptography'}} & set(sys.modules))"
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ended.stdout.split() == []
