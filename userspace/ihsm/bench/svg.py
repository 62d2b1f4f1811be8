# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Charts as SVG text, readable without scripts and in both colour schemes."""

from __future__ import annotations

import html
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Final

WIDTH: Final = 640
HEIGHT: Final = 320
LEFT, RIGHT, TOP, BOTTOM = 72, 150, 28, 44
COLOURS: Final = ("#2f6fde", "#d9822b", "#2c9c69", "#b0459c", "#7a7a7a", "#c23b3b")

Point = tuple[float, float]


class Axis:
    """Maps values to a stretch of pixels, linearly or by decades."""

    def __init__(self, values: Sequence[float], start: float, end: float, *, log: bool) -> None:
        """From `start` for the least value to `end` for the greatest; a logarithmic axis needs positive values."""
        low, high = min(values), max(values)
        if log:
            first = math.floor(math.log10(low))
            # One decade at least, also around a single value.
            self.low, self.high = 10.0**first, 10.0 ** max(math.ceil(math.log10(high)), first + 1)
        else:
            self.low, self.high = min(0.0, low), high
            if self.low == self.high:
                self.high = self.low + 1
        self._start, self._end, self._log = start, end, log

    def place(self, value: float) -> float:
        """Pixel of a value."""
        if self._log:
            share = math.log(value / self.low) / math.log(self.high / self.low)
        else:
            share = (value - self.low) / (self.high - self.low)
        return self._start + share * (self._end - self._start)

    def ticks(self) -> list[float]:
        """Values to mark."""
        if self._log:
            count = round(math.log10(self.high / self.low))
            step = max(1, count // 6)
            return [self.low * 10**power for power in range(0, count + 1, step)]
        step = 10 ** math.floor(math.log10(self.high - self.low))
        while (self.high - self.low) / step < 4:
            step /= 2
        first = math.ceil(self.low / step)
        return [step * number for number in range(first, math.floor(self.high / step) + 1)]


def number(value: float) -> str:
    """Short form: 1.5k, 20M."""
    for factor, suffix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= factor:
            return f"{value / factor:g}{suffix}"
    return f"{value:g}"


def line_chart(
    title: str, series: Mapping[str, Sequence[Point]], x_label: str, y_label: str, *, log_x: bool = False,
    log_y: bool = False, tick: Callable[[float], str] = number,
) -> str:  # fmt: skip
    """Lines through points, a legend at the right; `tick` writes the values of the x axis.

    A line of one point is a dot. Points that a logarithmic axis has no place for are left out.
    """
    series = {
        name: [point for point in line if (point[0] > 0 or not log_x) and (point[1] > 0 or not log_y)]
        for name, line in series.items()
    }
    points = [point for line in series.values() for point in line]
    if not points:
        return ""
    x = Axis([point[0] for point in points], LEFT, WIDTH - RIGHT, log=log_x)
    y = Axis([point[1] for point in points], HEIGHT - BOTTOM, TOP, log=log_y)
    parts = [_frame(x, y, x_label, y_label, tick)]
    for index, (name, line) in enumerate(series.items()):
        colour = COLOURS[index % len(COLOURS)]
        places = [(x.place(px), y.place(py)) for px, py in line]
        if len(places) == 1:
            parts.append(f'<circle cx="{places[0][0]:.1f}" cy="{places[0][1]:.1f}" r="4" fill="{colour}"/>')
        elif places:
            path = " ".join(f"{px:.1f},{py:.1f}" for px, py in places)
            parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts.append(_legend(index, name, colour))
    return _document(title, parts)


def bar_chart(title: str, bars: Mapping[str, float], label: str, *, mark: float | None = None) -> str:
    """Horizontal bars with their values; `mark` draws a line at a value."""
    if not bars:
        return ""
    height = TOP + BOTTOM + 24 * len(bars)
    left = 190
    x = Axis([*bars.values(), mark or 0.0], left, WIDTH - 70, log=False)
    parts = []
    for index, (name, value) in enumerate(bars.items()):
        top = TOP + 24 * index
        parts.append(f'<text x="{left - 8}" y="{top + 14}" text-anchor="end">{html.escape(name)}</text>')
        width = max(1.0, x.place(value) - left)
        parts.append(f'<rect x="{left}" y="{top + 3}" width="{width:.1f}" height="15" fill="{COLOURS[0]}"/>')
        parts.append(f'<text x="{left + width + 5:.1f}" y="{top + 14}">{value:.2f}</text>')
    if mark is not None:
        at = x.place(mark)
        parts.append(f'<line class="mark" x1="{at:.1f}" y1="{TOP}" x2="{at:.1f}" y2="{height - BOTTOM}"/>')
    parts.append(f'<text x="{left}" y="{height - 14}">{html.escape(label)}</text>')
    return _document(title, parts, height)


def _frame(x: Axis, y: Axis, x_label: str, y_label: str, tick: Callable[[float], str]) -> str:
    bottom, right = HEIGHT - BOTTOM, WIDTH - RIGHT
    parts = []
    for value in y.ticks():
        at = y.place(value)
        parts.append(f'<line class="grid" x1="{LEFT}" y1="{at:.1f}" x2="{right}" y2="{at:.1f}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{at + 4:.1f}" text-anchor="end">{number(value)}</text>')
    for value in x.ticks():
        at = x.place(value)
        parts.append(f'<line class="grid" x1="{at:.1f}" y1="{TOP}" x2="{at:.1f}" y2="{bottom}"/>')
        parts.append(f'<text x="{at:.1f}" y="{bottom + 16}" text-anchor="middle">{html.escape(tick(value))}</text>')
    parts.append(f'<text x="{(LEFT + right) / 2}" y="{HEIGHT - 8}" text-anchor="middle">{html.escape(x_label)}</text>')
    parts.append(f'<text x="{LEFT - 60}" y="{TOP - 12}">{html.escape(y_label)}</text>')
    return "".join(parts)


def _legend(index: int, name: str, colour: str) -> str:
    top = TOP + 18 * index
    left = WIDTH - RIGHT + 12
    return (
        f'<rect x="{left}" y="{top}" width="12" height="12" fill="{colour}"/>'
        f'<text x="{left + 18}" y="{top + 11}">{html.escape(name)}</text>'
    )


def _document(title: str, parts: Sequence[str], height: float = HEIGHT) -> str:
    return (
        f'<figure><figcaption>{html.escape(title)}</figcaption><svg viewBox="0 0 {WIDTH} {height}" role="img" '
        f'aria-label="{html.escape(title)}">{"".join(parts)}</svg></figure>'
    )
