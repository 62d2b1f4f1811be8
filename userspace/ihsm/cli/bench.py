# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""`ihsm bench`: figures of the device beside its peers."""

from __future__ import annotations

import functools
import resource
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from ihsm.cli.common import Number, print_json, print_table, wait_option
from ihsm.cli.output_files import OUTPUT_FILE, write_output

if TYPE_CHECKING:
    from ihsm.bench.compare import Change

NAMES: Final = ("targets", "ring", "aes", "ddi", "client", "api", "attest", "kmod", "scale", "trace", "guest", "soak")


@click.command(
    help="""Measure rings, AES, DDI operations, the Python client, the key API, attestation, the driver model, scale and
    traces, with peers beside them.

    SUITE is targets, ring, aes, ddi, client, api, kmod, scale, trace, guest or soak; without any: the quick figures.
    targets has these and every other target of a device but those of api, kmod, trace and guest. soak puts mixed load
    on 16 queues and fails if a completion is lost, comes twice or tells of an error.
    """,
)
@click.argument("suites", nargs=-1, type=click.Choice(NAMES), metavar="[SUITE]...")
@click.option("--quick", is_flag=True, help="Those figures with targets that fit into a minute.")
@click.option("--device", metavar="URI", help="Measure this unprovisioned function; default: private devices.")
@wait_option
@click.option("--seconds", type=Number(min=1), default=600.0, show_default=True, help="How long soak goes on.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--report", type=OUTPUT_FILE, metavar="FILE", help="Write an HTML page.")
@click.option(
    "--compare", type=click.Path(exists=True, dir_okay=False, path_type=Path), metavar="FILE",
    help="Show changes against results printed with --json before.",
)  # fmt: skip
@click.option(
    "--fail-on", type=Number(min=0), metavar="PERCENT",
    help="With --compare: exit status 1 if a figure is worse by more than PERCENT and its spread, or none is judged.",
)  # fmt: skip
def bench(
    suites: tuple[str, ...],
    quick: bool,
    device: str | None,
    wait_s: float,
    seconds: float,
    as_json: bool,
    report: Path | None,
    compare: Path | None,
    fail_on: float | None,
) -> None:
    """Run `ihsm bench`."""
    from ihsm.bench.compare import HEADERS, changes, load

    if fail_on is not None and compare is None:
        raise click.UsageError("--fail-on needs --compare")
    old = load(compare) if compare else None
    document = measure(suites, quick or not suites, device, seconds, wait_s)
    found = [] if old is None else changes(old, document)
    if old is not None:
        document["changes"] = [change.to_json() for change in found]
    if report:
        from ihsm.bench.report import render

        write_output(report, render(document).encode(errors="replace"))
    if as_json:
        print_json(document)
    else:
        _print(document)
        if found:
            click.echo()
            print_table([change.row() for change in found], HEADERS)
        elif old is not None:
            click.echo("nothing to compare")
    if fail_on is not None:
        _judge(found, fail_on)


def _judge(found: Sequence[Change], fail_on: float) -> None:
    """End with status 1 if a figure has become worse by more than `fail_on` percent, or nothing could be judged."""
    failed = [change for change in found if change.fails(fail_on)]
    if failed:
        worst = max(failed, key=lambda change: change.worse_by)
        others = f", and {len(failed) - 1} more" if len(failed) > 1 else ""
        raise click.ClickException(f"{worst.id} is worse by {worst.worse_by:.1%}{others}; allowed: {fail_on:g}%")
    if all(change.noisy for change in found):
        raise click.ClickException("no figure could be judged: they are noisy, or none is in both documents")


def measure(suites: Sequence[str], quick: bool, device: str | None, seconds: float, wait_s: float) -> dict[str, Any]:
    """Run everything asked for; the result document."""
    from ihsm.bench.machine import BUSY_SHARE, OtherLoad, describe
    from ihsm.bench.results import FORMAT
    from ihsm.bench.targets import TARGETS

    start, others = time.monotonic(), OtherLoad()
    machine = describe()
    records: list[dict[str, Any]] = []
    if quick:
        found, machine["peers"] = _run_figures("quick")
        records += found
    for suite in suites:
        if suite == "targets":
            found, machine["peers"] = _run_figures(suite)
            records += found
        else:
            records += _run_suite(suite, device, seconds, wait_s)
    wall_s = time.monotonic() - start
    usage = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    machine |= others.since_start(sum(used.ru_utime + used.ru_stime for used in usage), wall_s)
    machine["noise"] = [
        f"{name.replace('_', ' ')} took {machine[name]:.0%} of the CPUs"
        for name in ("other_load", "steal")
        if machine[name] > BUSY_SHARE
    ]
    by_id = {record["id"]: record for record in records}
    judged = [target.judged(by_id[target.id], machine["noise"]) for target in TARGETS if target.id in by_id]
    return {"format": FORMAT, "seconds": wall_s, "results": records, "machine": machine, "targets": judged}


def _run_figures(title: str) -> tuple[list[dict[str, Any]], dict[str, str | None]]:
    """Figures of private devices that are started together: the quick ones, or all that have targets."""
    from ihsm.bench.all_targets import AllTargets
    from ihsm.bench.quick import QuickRun

    kind = AllTargets if title == "targets" else QuickRun
    with _progress(title, None) as (advance, set_total), kind(lambda: advance("")) as run:
        set_total(run.rounds)
        return [result.to_json() for group in run.groups() for result in group.step()], run.peers


def _run_suite(suite: str, device: str | None, seconds: float, wait_s: float) -> list[dict[str, Any]]:
    if suite == "guest":
        from ihsm.bench.guest_loop import guest_loop_records
        from ihsm.bench.in_guest import guest_records

        with _progress(suite, None):
            return [*guest_loop_records(), *guest_records()]
    from ihsm.bench.setups import Place
    from ihsm.bench.soak import soak
    from ihsm.bench.suites import SUITES
    from ihsm.driver import Controller
    from ihsm.errors import UriError
    from ihsm.uri import Scheme, choose_device, open_uri, patiently

    place = Place()
    if device is not None:
        uri = patiently(lambda: choose_device(device), wait_s)
        if uri is None:
            raise click.UsageError("--device auto: no device found")
        if uri.scheme == Scheme.CHARDEV:
            raise UriError(f"{uri}: rings are measured, and those are the driver's there: vfio-user:PATH or pci:BDF")
        place = Place(lambda options: Controller(open_uri(uri, wait_s=wait_s), options))
    with _progress(suite, None) as (advance, _):
        run = functools.partial(soak, seconds=seconds) if suite == "soak" else SUITES[suite]
        return [result.to_json() for result in run(place, advance)]


@contextmanager
def _progress(title: str, total: int | None) -> Iterator[tuple[Callable[[str], None], Callable[[int], None]]]:
    """A bar on a terminal, nothing in a pipe."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(file=sys.stderr)
    with Progress(console=console, disable=not sys.stderr.isatty(), transient=True) as progress:
        task = progress.add_task(title, total=total)
        yield (
            lambda what: progress.update(task, advance=1, description=what or title),
            lambda rounds: progress.update(task, total=rounds),
        )


def _print(document: dict[str, Any]) -> None:
    from ihsm.bench.targets import verdict

    rows = []
    for record in document["results"]:
        costs = "  ".join(f"{name} {value:.2f}" for name, value in record["ratio"].items())
        value = f"{record['value']:.4g} {record['unit']}"
        against = f"{costs} ({record['ratio_clock']})" if costs else ""
        rows.append((record["id"], value, record["clock"], against, "noisy" if record.get("noisy") else ""))
    print_table(rows, ("id", "value", "time", "ratios (time)", ""))
    if document["targets"]:
        click.echo()
        judged = []
        for line in document["targets"]:
            found = "" if line["found"] is None else f"{line['found']:.2f}"
            judged.append((line["id"], line["target"], found, verdict(line)))
        print_table(judged, ("id", "target", "found", ""))
        if not document["machine"]["vector_aes"]:
            click.echo("This CPU lacks AVX-512 or VAES, which the targets assume.")
    for reason in document["machine"]["noise"]:
        click.echo(f"The machine was too noisy for these figures: {reason}.")
