# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""`ihsm conformance`: what a driver does, whatever happens to it, and which rule it breaks."""

from __future__ import annotations

import fnmatch
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import click

from ihsm.cli.common import EXISTING_FILE, print_json, printable
from ihsm.cli.output_files import OUTPUT_FILE, write_output
from ihsm.conformance.catalogue import all_scenarios
from ihsm.conformance.drivers import DriverOptions, driver_names, load_driver
from ihsm.conformance.findings import Result, Suite, Verdict, counts
from ihsm.conformance.junit import to_xml
from ihsm.conformance.run import RunOptions, run
from ihsm.conformance.scenario import Scenario

NOTHING_RAN: Final = 3


@click.command(
    help="""Have a driver meet what can happen to one, and say which rules it breaks.

    Programs use the driver; devices do what faults make them do; functions are bound, reset and taken away. Programs,
    the kernel's log and the trace of the device say what was wrong. Exit status: 0 all that was tried has passed, 1
    something has failed, 3 nothing could be tried.
    """,
)
@click.option(
    "--driver", "driver_name", type=click.Choice(driver_names()), required=True,
    help="The driver model, or a module in guests.",
)  # fmt: skip
@click.option("--module", type=EXISTING_FILE, metavar="KO", help="The module's .ko file.")
@click.option(
    "--exercise", type=EXISTING_FILE, metavar="PROGRAM",
    help="Program in the guest that uses the driver, for one that has other ioctls than ours; it ends with 0 if all "
    "was well.",
)  # fmt: skip
@click.option("--quick", is_flag=True, help="Only what is soon done, on one kind of machine.")
@click.option(
    "--only",
    "patterns",
    metavar="NAME",
    multiple=True,
    help="Only scenarios of that name, or pattern; may be repeated.",
)
@click.option("--list", "lists", is_flag=True, help="Say what would be tried, and try nothing.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="What is drawn is drawn by it.")
@click.option("--junit", type=OUTPUT_FILE, metavar="FILE", help="Write a JUnit report.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def conformance(
    driver_name: str,
    module: Path | None,
    exercise: Path | None,
    quick: bool,
    patterns: tuple[str, ...],
    lists: bool,
    seed: int,
    junit: Path | None,
    as_json: bool,
) -> None:
    """Run `ihsm conformance`."""
    scenarios = _chosen(quick, patterns)
    if lists:
        for scenario in scenarios:
            click.echo(f"{scenario.name:<34} {scenario.about} ({scenario.section})")
        return
    driver = load_driver(driver_name, DriverOptions(module=module, exercise=exercise))
    variants = [driver.variants[0]] if quick or patterns else None
    tell = (lambda result: None) if as_json else _tell
    suites = run(driver, scenarios, RunOptions(seed=seed, variants=variants, tell=tell))
    if as_json:
        print_json({"seed": seed, "suites": [suite.to_json() for suite in suites], "counts": _counted(suites)})
    else:
        _print_findings(suites)
    if junit is not None:  # last: whatever becomes of the file, what was found has been said
        write_output(junit, to_xml(suites))
    sys.exit(exit_status(suites))


def _chosen(quick: bool, patterns: Sequence[str]) -> list[Scenario]:
    """The scenarios that were asked for; a pattern finds those that `--quick` has not, too."""
    every = all_scenarios()
    for pattern in patterns:
        if not any(fnmatch.fnmatchcase(scenario.name, pattern) for scenario in every):
            raise click.BadParameter(
                f"{pattern!r}: no scenario has such a name; --list shows them", param_hint="--only"
            )
    if patterns:
        return [one for one in every if any(fnmatch.fnmatchcase(one.name, pattern) for pattern in patterns)]
    return [scenario for scenario in every if scenario.is_quick or not quick]


def exit_status(suites: Sequence[Suite]) -> int:
    """0 passed, 1 failed, 3 nothing ran."""
    found = counts(suites)
    if found[Verdict.FAILED]:
        return 1
    return 0 if found[Verdict.PASSED] else NOTHING_RAN


def _counted(suites: Sequence[Suite]) -> dict[str, int]:
    return {str(verdict): number for verdict, number in counts(suites).items()}


def _tell(result: Result) -> None:
    """One line, as soon as the scenario is over."""
    verdict = "…" if result.verdict is Verdict.PASSED else result.verdict
    click.echo(f"{verdict} {result.name} {result.seconds:.1f} s", err=True)


def _print_findings(suites: Sequence[Suite]) -> None:
    for suite in suites:
        for result in suite.results:
            if result.verdict is Verdict.SKIPPED:
                click.echo(f"skipped {result.name}: {printable(result.skipped)}")
            shown: set[str] = set()
            for finding in result.findings:
                if finding.rule not in shown:  # one of a kind: the report has them all
                    shown.add(finding.rule)
                    click.echo(f"failed {result.name}: {finding.rule}: {printable(str(finding))}")
                    for line in finding.proof:
                        click.echo(f"  | {printable(line)}")
    click.echo(", ".join(f"{number} {verdict}" for verdict, number in _counted(suites).items()))
