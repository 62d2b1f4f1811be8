# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Runs `ihsm` commands in this process."""

from __future__ import annotations

import json
from typing import Any

from click.testing import CliRunner, Result

from ihsm.cli import main
from ihsm.embedded import EmbeddedDevice


def run(*arguments: str) -> Result:
    """Output and exit status of a command."""
    return CliRunner().invoke(main, arguments)


def run_json(*arguments: str) -> Any:
    """What a command that succeeds prints with --json."""
    result = run(*arguments, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.output)


def uri(device: EmbeddedDevice) -> str:
    """URI of a device's first function."""
    return f"vfio-user:{device.socket_path}"
