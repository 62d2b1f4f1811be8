# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""The faults that `ihsm serve --faults FILE` begins with."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ihsm_abi import fault_file
from ihsm_abi.faults import Fault
from ihsm_device.errors import FaultFileUnusable


def read_faults(path: Path) -> Sequence[Fault]:
    """The faults of a file.

    Raises:
        FaultFileUnusable: it cannot be read, or is none of faults.
    """
    try:
        with path.open("rb") as file:
            text = file.read(fault_file.MAX_BYTES + 1)
        return fault_file.parse(text)
    except OSError as error:
        raise FaultFileUnusable(str(path), error.strerror or str(error)) from None
    except fault_file.FaultFileError as error:
        raise FaultFileUnusable(str(path), str(error)) from None
