# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""The files that this process runs, measured when it starts, before it gives up reading files."""

from __future__ import annotations

import importlib.util
import threading
from pathlib import Path
from typing import Final

from ihsm_abi.spdm import manifest
from ihsm_abi.spdm.manifest import MeasuredFile
from ihsm_device.errors import StartError

_NATIVE_MODULE: Final = "ihsm_device._native"


def measure_code() -> tuple[MeasuredFile, ...]:
    """Every file of code, as it is now; raises OSError."""
    native = importlib.util.find_spec(_NATIVE_MODULE)
    elsewhere = None if native is None or native.origin is None else Path(native.origin)
    return manifest.measure(manifest.installed(), elsewhere)


class CodeMeasurement:
    """`measure_code` beside other work of a start, most of which is reading the same files."""

    def __init__(self) -> None:
        """Begin."""
        self._found: tuple[MeasuredFile, ...] = ()
        self._error: OSError | None = None
        self._thread = threading.Thread(target=self._run, name="measure-code", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._found = measure_code()
        except OSError as error:
            self._error = error

    def result(self) -> tuple[MeasuredFile, ...]:
        """Wait for the end.

        Raises:
            StartError: a file cannot be read.
        """
        self._thread.join()
        if self._error is not None:
            raise StartError(self._error) from self._error
        return self._found
