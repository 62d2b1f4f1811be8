# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""A fault as people write it: its action and named values, without the objects that JSON has around them.

`drop-completion queue=1 nth=2` is ``{"action": "drop-completion", "match": {"queue": 1}, "when": {"nth": 2}}``. No
action has two values of one name.
"""

from collections.abc import Mapping
from typing import Any

from ihsm_abi.fault_actions import ActionSpec, FaultAction, FaultError
from ihsm_abi.fault_table import ACTIONS
from ihsm_abi.faults import Fault


def places(spec: ActionSpec) -> dict[str, str]:
    """Each value that an action takes, with the member of the fault that holds it."""
    return {
        **dict.fromkeys(spec.matches, "match"),
        **dict.fromkeys((parameter.name for parameter in spec.parameters), "parameters"),
        **dict.fromkeys(spec.whens, "when"),
    }


def from_words(action: str, given: Mapping[str, Any]) -> Fault:
    """The fault of an action's name and named values, each as in JSON.

    Raises:
        FaultError: there is none like that; its `field` is the name of the value, or `action`.
    """
    if not isinstance(action, str) or action not in list(FaultAction):
        raise FaultError("action", f"{action!r} is none of {', '.join(FaultAction)}")
    known = places(ACTIONS[FaultAction(action)])
    record: dict[str, Any] = {"action": str(action)}
    for name, value in given.items():
        if name not in known:
            raise FaultError(name, f"{action} takes only {', '.join(known)}")
        record.setdefault(known[name], {})[name] = value
    try:
        return Fault.from_json(record)
    except FaultError as error:
        raise FaultError(error.field.rpartition(".")[2], error.reason) from None


def to_text(fault: Fault) -> str:
    """One line, in the order of `places`, without what is as it is by default."""
    record = fault.to_json()
    values = [(name, record.get(place, {}).get(name)) for name, place in places(fault.spec).items()]
    return " ".join([record["action"], *(f"{name}={value}" for name, value in values if value is not None)])
