# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Rules that a correct driver keeps, and judges of recordings by them."""

from ihsm.trace.rules.judge import Undecided, Verdict, check, judge
from ihsm.trace.rules.rule import Breach, Need, Rule
from ihsm.trace.rules.seen import Limits, Seen, clock_mark
from ihsm.trace.rules.table import RULES

__all__ = [
    "RULES",
    "Breach",
    "Limits",
    "Need",
    "Rule",
    "Seen",
    "Undecided",
    "Verdict",
    "check",
    "clock_mark",
    "judge",
]
