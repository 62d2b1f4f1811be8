# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""One self-contained HTML page from a result document."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator, Sequence
from typing import Any, Final

from ihsm.bench.results import CPU, WALL, decoded_histogram
from ihsm.bench.svg import Point, bar_chart, line_chart, number
from ihsm.bench.targets import verdict

STYLE: Final = """
:root { color-scheme: light dark; --ink: #1c1e21; --paper: #fff; --line: #d5d9de; --weak: #5b6470; }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e7eb; --paper: #15181c; --line: #363c44; --weak: #97a1ad; } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); max-width: 70rem;
       margin: 2rem auto; padding: 0 1rem; }
.wide { overflow-x: auto; margin: 1rem 0; } table { border-collapse: collapse; }
td, th { padding: .25rem .8rem; border-bottom: 1px solid var(--line); text-align: left; }
td.n { text-align: right; font-variant-numeric: tabular-nums; }
figure { display: inline-block; width: 100%; max-width: 40rem; margin: 1rem 1rem 1rem 0; overflow-x: auto; }
svg { width: 100%; min-width: 32rem; }
figcaption { font-weight: 600; } svg text { fill: var(--ink); font-size: 12px; }
svg .grid { stroke: var(--line); } svg .mark { stroke: #c23b3b; stroke-dasharray: 4 3; }
.yes { color: #2c9c69; } .no { color: #c23b3b; } .weak { color: var(--weak); } .noisy { color: #b06a00; }
@media (max-width: 40rem) { body { margin: .5rem auto; padding: 0 .5rem; } td, th { padding: .2rem .4rem; } }
"""
NOISY_MARK: Final = "≈"
"""Stands behind the name of a figure that should not be trusted."""
VERDICTS: Final = {"met": "yes", "missed": "no", "noisy": "noisy", "not measured": "weak"}
PEERS: Final = ("openssl", "aws_lc", "softhsm2", "pyca", "single_queue")
CDF_PERCENTILES: Final = (*range(100), 99.5, 99.9, 99.99, 100)

Record = dict[str, Any]


def render(document: Record) -> str:
    """The page."""
    records: list[Record] = document["results"]
    machine: Record = document["machine"]
    body = [
        "<h1>ihsm bench</h1>",
        f'<p class="weak">{html.escape(machine["time"])} · {html.escape(machine["cpu"])}</p>',
        _noise(document),
        _targets(document["targets"], machine),
        *_charts(records),
        _results(records),
        _changes(document.get("changes", [])),
        _machine(machine),
    ]
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><title>ihsm bench</title>'
        f"<style>{STYLE}</style></head><body>{''.join(body)}</body></html>\n"
    )


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Cells are HTML already; numbers go to the right."""
    lines = ['<div class="wide"><table><tr>', *(f"<th>{cell}</th>" for cell in head), "</tr>"]
    for row in rows:
        cells = (f'<td class="n">{cell}</td>' if re.match(r"^[\d.]", cell) else f"<td>{cell}</td>" for cell in row)
        lines.append(f"<tr>{''.join(cells)}</tr>")
    return "".join(lines) + "</table></div>"


def _noise(document: Record) -> str:
    reasons = document["machine"].get("noise", [])
    text = ""
    if reasons:
        text = f'<p class="no">The machine was too noisy for these figures: {html.escape("; ".join(reasons))}.</p>'
    if any(record.get("noisy") for record in document["results"]):
        text += f'<p class="noisy">{NOISY_MARK}: noisy, not to be trusted; the results below say why.</p>'
    return text


def _name(record: Record) -> str:
    """A record's id, marked if it is noisy."""
    return f"{record['id']} {NOISY_MARK}" if record.get("noisy") else str(record["id"])


def _targets(lines: Sequence[Record], machine: Record) -> str:
    rows = []
    for line in lines:
        word = verdict(line)
        shown = "–" if line["found"] is None else f"{line['found']:.2f}"
        marked = f'<span class="{VERDICTS[word]}">{word}</span>'
        rows.append((line["id"], html.escape(line["what"]), html.escape(line["target"]), shown, marked))
    if not rows:
        return ""
    held = "" if machine["vector_aes"] else "<p>The CPU lacks AVX-512 or VAES; the targets assume both.</p>"
    return f"<h2>Targets</h2>{held}" + _table(("id", "what", "target", "found", ""), rows)


def _charts(records: Sequence[Record]) -> Iterator[str]:
    yield "<h2>Charts</h2>"
    cdf = {_name(record): _cdf(record) for record in records if _histogram(record)}
    yield line_chart("Latency, cumulative", cdf, "microseconds", "% of operations", log_x=True)
    for cipher in ("gcm", "xts"):
        yield _by_size(records, cipher)
    for stem, label in (("ring-depth", "depth"), ("ring-load", "load")):
        lines = _percentile_lines(records, stem, label)
        yield line_chart(f"Latency by {label}", lines, label, "microseconds", log_y=True)
    for peer in PEERS:
        for clock, words in ((CPU, "CPU time"), (WALL, "wall time")):
            ratios = {
                _name(record): record["ratio"][peer]
                for record in records
                if peer in record["ratio"] and record["ratio_clock"] == clock
            }
            label = f"times {peer} for the same {words}, higher is better"
            yield bar_chart(f"Against {peer}, {words}", ratios, label, mark=1.0)


def _histogram(record: Record) -> str | None:
    first: Record = next(iter(record["runs"].values()), {})
    return first.get("histogram_ns")


def _cdf(record: Record) -> list[Point]:
    histogram = decoded_histogram(_histogram(record) or "")
    return [(histogram.get_value_at_percentile(p) / 1000, float(p)) for p in CDF_PERCENTILES]


def _by_size(records: Sequence[Record], cipher: str) -> str:
    lines: dict[str, list[Point]] = {}
    for record in records:
        if re.fullmatch(rf"{cipher}-\d+", record["id"]):
            for name, run in record["runs"].items():
                cost_ns = run.get("device_cpu_ns", run["client_cpu_ns"])
                if cost_ns > 0:  # a run can be too short for the CPU's clock
                    lines.setdefault(name, []).append((record["bytes"], record["bytes"] / cost_ns * 1e9))
    for line in lines.values():
        line.sort()
    return line_chart(
        f"AES-256-{cipher.upper()} by size", lines, "bytes", "bytes per CPU second", log_x=True, log_y=True, tick=number
    )


def _percentile_lines(records: Sequence[Record], stem: str, label: str) -> dict[str, list[Point]]:
    lines: dict[str, list[Point]] = {}
    for record in records:
        if record["id"].startswith(stem):
            run = next(iter(record["runs"].values()))
            if "latency_us" not in run:
                continue
            for name in ("p50", "p99", "p99.9"):
                lines.setdefault(name, []).append((float(record[label]), run["latency_us"][name]))
    return lines


def _results(records: Sequence[Record]) -> str:
    rows = []
    for record in records:
        noisy = html.escape("; ".join(record.get("noisy", [])))
        for name, run in record["runs"].items() or [("", {})]:
            latency = run.get("latency_us", {})
            rows.append(
                (
                    html.escape(_name(record)),
                    html.escape(name),
                    number(round(run["operations_per_s"], 1)) if run else f"{record['value']:.2f} {record['unit']}",
                    *(
                        f"{run[key]:.0f}" if key in run else "–"
                        for key in ("wall_ns", "client_cpu_ns", "device_cpu_ns")
                    ),
                    *(f"{latency[key]:.2f}" if key in latency else "–" for key in ("p50", "p99", "p99.9", "p100")),
                    f"{run['involuntary_switches']}" if run else "–",
                    f'<span class="noisy">{noisy}</span>',
                )
            )
            noisy = ""  # once for each record
    head = ("id", "variant", "per second of wall time", "wall ns", "client CPU ns", "device CPU ns", "p50 µs, wall",
            "p99 µs, wall", "p99.9 µs, wall", "max µs, wall", "involuntary switches", "noisy")  # fmt: skip
    return "<h2>Results</h2>" + _table(head, rows)


def _changes(changes: Sequence[Record]) -> str:
    if not changes:
        return ""
    rows = [
        (
            html.escape(change["id"]), *(f"{change[when]:.4g} {change['unit']}" for when in ("before", "now")),
            change["clock"], f"{change['change']:+.1%}", f"±{change['spread']:.0%}", html.escape(change["verdict"]),
        )
        for change in changes
    ]  # fmt: skip
    return "<h2>Changes</h2>" + _table(("id", "before", "now", "time", "change", "spread", ""), rows)


def _machine(machine: Record) -> str:
    rows = []
    for name, value in machine.items():
        shown = value
        if isinstance(value, dict):
            shown = ", ".join(f"{key.replace('_', ' ')} {part}" for key, part in value.items() if part is not None)
        elif isinstance(value, list):
            shown = ", ".join("+".join(map(str, part)) if isinstance(part, list) else str(part) for part in value)
        rows.append((name.replace("_", " "), html.escape(str(shown))))
    return "<h2>Machine</h2>" + _table(("", ""), rows)
