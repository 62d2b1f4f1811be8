# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""The file of faults that a device has from its start, `ihsm serve --faults FILE`: a JSON array of faults.

Each is an object as `ihsm_abi.faults` has it, for every function of the process::

    [{"action": "wrong-cap-to", "parameters": {"to": 0}}, {"action": "drop-completion", "match": {"queue": 1}}]
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from ihsm_abi import json_text
from ihsm_abi.fault_actions import FaultAction, FaultError
from ihsm_abi.faults import Fault

MAX_FAULTS: Final = 64
"""So many faults a function can show at once."""
MAX_BYTES: Final = 1 << 20
"""Longest file."""
_ONE_OF_EACH: Final = {
    FaultAction.WRONG_BAR_SIZE: "bar",
    FaultAction.WRONG_VECTORS: "",
    FaultAction.WRONG_IDENTIFY: "field",
    FaultAction.WRONG_CAP_TO: "",
}
"""Actions that only one fault may have, or one of each value of a parameter."""


class FaultFileError(ValueError):
    """A text that is no file of faults; the message says in one line which fault is wrong, and how."""


def parse(text: str | bytes) -> list[Fault]:
    """The faults of a file's text.

    Raises:
        FaultFileError: there are none in it, or one is wrong.
    """
    if len(text) > MAX_BYTES:
        raise FaultFileError(f"longer than {MAX_BYTES} bytes")
    try:
        records = json_text.parse(text)
    except ValueError as error:
        raise FaultFileError(f"not JSON: {error}") from None
    if not isinstance(records, list):
        raise FaultFileError("an array of faults is required")
    if len(records) > MAX_FAULTS:
        raise FaultFileError(f"{len(records)} faults, at most {MAX_FAULTS} are possible")
    faults: list[Fault] = []
    for number, record in enumerate(records, 1):
        try:
            fault = Fault.from_json(record)
            _refuse_second(fault, faults)
        except FaultError as error:
            raise FaultFileError(f"fault {number}: {error}") from None
        faults.append(fault)
    return faults


def dump(faults: Sequence[Fault]) -> str:
    """The text of a file with these faults."""
    return json_text.dump([fault.to_json() for fault in faults], indent=2) + "\n"


def _refuse_second(fault: Fault, before: Sequence[Fault]) -> None:
    """What a client asks for once cannot be wrong in two ways."""
    name = _ONE_OF_EACH.get(fault.action)
    if name is None:
        return
    for other in before:
        if other.action is fault.action and other.parameters.get(name) == fault.parameters.get(name):
            which = f" for {fault.parameters[name]}" if name else ""
            raise FaultError("action", f"there is a {fault.action}{which} already")
