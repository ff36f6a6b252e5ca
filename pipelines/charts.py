"""The geometry of the reports' charts: numbers -> places in a drawing. `templates/charts.html.j2` draws them as SVG.

- A chart is a frozen record of rounded coordinates: the same numbers give the same bytes on any machine.
- No chart stands alone: the table beside it has the numbers, so colour and size never carry meaning alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

WIDTH, HEIGHT = 720, 250
LEFT, RIGHT, TOP, BOTTOM = 56, 12, 14, 34
MAX_LABELS = 12
MAX_COLUMN = 96.0  # units: few columns do not become slabs


@dataclass(frozen=True, slots=True)
class Tick:
    """A number or name on an axis, and where it stands."""

    at: float
    label: str


@dataclass(frozen=True, slots=True)
class Box:
    """One rectangle: of which series, and what it says when pointed at."""

    x: float
    y: float
    width: float
    height: float
    series: int
    title: str


@dataclass(frozen=True, slots=True)
class Columns:
    """Columns side by side, each a stack of series."""

    title: str
    boxes: tuple[Box, ...]
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    x_title: str
    names: tuple[str, ...]  # of the series; empty where there is one


@dataclass(frozen=True, slots=True)
class Mark:
    """A measured point with its standard error."""

    x: float
    y: float
    low: float
    high: float
    title: str


@dataclass(frozen=True, slots=True)
class Curve:
    """A curve over 0..1, points measured beside it, and a place on the x axis worth a line."""

    title: str
    points: str  # of an SVG polyline
    marks: tuple[Mark, ...]
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    x_title: str
    line: Tick | None


def nice_ticks(largest: float, count: int = 4) -> list[float]:
    """Round numbers from 0 to at least `largest`, about `count` steps of 1, 2 or 5 times a power of ten, from 1 up."""
    if largest <= 0:
        return [0.0, 1.0]
    rough = max(1.0, largest / count)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)
    return [step * index for index in range(math.ceil(largest / step - 1e-9) + 1)]


def short(number: float) -> str:
    """A number in few characters: 1,200 -> 1.2k."""
    for limit, suffix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(number) >= limit:
            return f"{number / limit:.3g}{suffix}"
    return f"{number:.3g}"


def columns(
    title: str,
    labels: Sequence[str],
    values: Sequence[Sequence[float]],
    *,
    x_title: str = "",
    names: Sequence[str] = (),
    show: Callable[[float], str] = lambda value: f"{value:,.0f}",
) -> Columns:
    """Stacked columns: values[i] are the parts of the column over labels[i], from the bottom up."""
    ticks = nice_ticks(max((sum(parts) for parts in values), default=0))
    plot_width, plot_height = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM
    step = min(MAX_COLUMN, plot_width / max(1, len(labels)))
    gap = min(4.0, step * 0.15)
    boxes = []
    for index, (label, parts) in enumerate(zip(labels, values, strict=True)):
        floor = float(TOP + plot_height)
        for series, value in enumerate(parts):
            height = plot_height * value / ticks[-1]
            floor -= height
            if value:
                name = f"{names[series]}, " if names else ""
                text = f"{label}: {name}{show(value)}"
                x = round(LEFT + index * step + gap / 2, 2)
                boxes.append(Box(x, round(floor, 2), round(step - gap, 2), round(height, 2), series, text))
    every = max(1, math.ceil(len(labels) / MAX_LABELS))
    x_ticks = tuple(
        Tick(round(LEFT + (index + 0.5) * step, 2), label) for index, label in enumerate(labels) if index % every == 0
    )
    return Columns(title, tuple(boxes), x_ticks, _y_ticks(ticks, short), x_title, tuple(names))


def _y_ticks(ticks: Sequence[float], show: Callable[[float], str]) -> tuple[Tick, ...]:
    height = HEIGHT - TOP - BOTTOM
    return tuple(Tick(round(TOP + height * (1 - tick / ticks[-1]), 2), show(tick)) for tick in ticks)


def curve(
    title: str,
    function: Callable[[float], float],
    measured: Sequence[tuple[float, float, float, str]],
    *,
    x_title: str,
    line: tuple[float, str] | None = None,
) -> Curve:
    """`function` over 0..1 and the `measured` (x, y, standard error, what it is) beside it; all y are in 0..1."""
    plot_width, plot_height = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM

    def across(value: float) -> float:
        return round(LEFT + plot_width * value, 2)

    def up(value: float) -> float:
        return round(TOP + plot_height * (1 - min(1.0, max(0.0, value))), 2)

    points = " ".join(f"{across(step / 100)},{up(function(step / 100))}" for step in range(101))
    marks = tuple(Mark(across(x), up(y), up(y - error), up(y + error), text) for x, y, error, text in measured)
    x_ticks = tuple(Tick(across(step / 5), f"{step / 5:.1f}") for step in range(6))
    y_ticks = _y_ticks([0, 0.25, 0.5, 0.75, 1], lambda value: f"{value:.0%}")
    place = Tick(across(line[0]), line[1]) if line else None
    return Curve(title, points, marks, x_ticks, y_ticks, x_title, place)
