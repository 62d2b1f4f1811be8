# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Resources of a partition that someone outside says there are none left of."""

from collections.abc import Callable
from dataclasses import dataclass

from ihsm_abi.fault_actions import Resource


@dataclass(slots=True)
class Shortage:
    """Nothing is short, until there is someone to ask; what he says holds for the one who wants some now."""

    ask: Callable[[Resource], bool] | None = None

    def of(self, resource: Resource) -> bool:
        """Whether there is none left."""
        return self.ask is not None and self.ask(resource)
