# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""`ihsm trace check` and `ihsm trace rules`: what a driver did wrong, by its recording."""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import Any, Final

import click

from ihsm.cli.common import Number, json_option, print_json, print_table, printable
from ihsm.cli.recordings import RecordingFile, warn_of_cut
from ihsm.trace.decoding import to_line
from ihsm.trace.files import Recording
from ihsm.trace.rules import RULES, Limits, Undecided, Verdict, judge

BREACHES: Final = 1
"""Exit status of a driver that has broken a rule."""
CUT: Final = 2
"""Exit status of a file without its end, the rest of which breaks no rule."""
MAX_LIMIT_S: Final = 86400.0
_DEFAULTS: Final = Limits()


@click.command(
    "check",
    help="""Say which rules of a correct driver a recording breaks, with the records that prove it. Needs no device.

    FILE is pcapng of `ihsm trace --write`, without filters, or JSON lines; - is standard input. `ihsm trace rules` has
    the rules. Exit status: 0 none is broken, 1 some are, 2 the file cannot be read, or lacks its end.
    """,
)
@click.argument("recording", type=RecordingFile(), metavar="FILE")
@click.option(
    "--answer-limit", "answer_s", type=Number(min=0, max=MAX_LIMIT_S), metavar="SECONDS", default=_DEFAULTS.answer_s,
    show_default=True, help="Longest that a driver may wait for a command before it recovers.",
)  # fmt: skip
@click.option(
    "--head-limit", "head_s", type=Number(min=0, max=MAX_LIMIT_S), metavar="SECONDS", default=_DEFAULTS.head_s,
    show_default=True, help="Longest from an interrupt to the head doorbell.",
)  # fmt: skip
@json_option
@click.pass_context
def check(context: click.Context, recording: Recording, answer_s: float, head_s: float, as_json: bool) -> None:
    """Run `ihsm trace check`."""
    if recording.chosen:
        text = f"it was recorded with --filter {recording.chosen}, and rules would take what that left out for not done"
        raise click.BadParameter(text, context, param_hint="FILE")
    warn_of_cut("check", recording)
    verdict = judge(recording.records, Limits(answer_s=answer_s, head_s=head_s))
    if as_json:
        print_json(_document(verdict))
    else:
        _show(verdict)
    if verdict.breaches:
        context.exit(BREACHES)
    if recording.cut is not None:
        context.exit(CUT)


def _document(verdict: Verdict) -> dict[str, Any]:
    return {
        "records": verdict.records,
        "breaches": [breach.as_json() for breach in verdict.breaches],
        "undecided": [
            {"rule": one.rule.name, "reason": str(one.reason), "record": one.number} for one in verdict.undecided
        ],
    }


def _show(verdict: Verdict) -> None:
    for breach in verdict.breaches:
        click.echo(f"{breach.rule.name} ({breach.rule.section}): {printable(breach.message)}")
        for seen in breach.records:
            click.echo(f"  {seen.number:>8}  {printable(to_line(seen.record))}")
    for reason, rules in _by_reason(verdict.undecided).items():
        click.echo(f"not decided, for {reason}: {', '.join(rules)}")
    counted = Counter(breach.rule.name for breach in verdict.breaches)
    click.echo(f"{verdict.records} records, {len(verdict.breaches)} breaches of {len(counted)} rules")


def _by_reason(undecided: list[Undecided]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = defaultdict(list)
    for one in undecided:
        found[str(one.reason)].append(one.rule.name)
    return found


@click.command("rules", help="List the rules that `ihsm trace check` knows. Needs no device.")
@json_option
def rules(as_json: bool) -> None:
    """Run `ihsm trace rules`."""
    if as_json:
        print_json([{"name": rule.name, "section": rule.section, "sentence": rule.sentence} for rule in RULES])
    else:
        print_table([(rule.name, rule.section, rule.sentence) for rule in RULES], ("RULE", "SECTION", "A DRIVER"))
