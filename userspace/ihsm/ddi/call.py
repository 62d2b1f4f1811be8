# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""An operation as a value, to be performed at once or awaited; `ihsm.ddi.calls` makes them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from ihsm_abi.mbor import MborMap

T_co = TypeVar("T_co", covariant=True)


@dataclass(frozen=True, slots=True)
class Call(Generic[T_co]):
    """One operation: its request, what it answers with, and what becomes of the answer."""

    request: MborMap
    response: type[MborMap]
    result: Callable[[Any], T_co]
    """Of an answer of the class `response`."""
