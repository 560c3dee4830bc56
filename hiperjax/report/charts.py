"""Charts as plain geometry: what a template needs to draw them, and no markup."""

import dataclasses
import math
from collections.abc import Sequence

COLORS = 8
"""Colors of the style sheet; further lines begin anew."""
HUGE, TINY = 1e150, 1e-150
"""Beyond these a chart shows the bound."""
WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 360, 200, 46, 10, 10, 24


@dataclasses.dataclass(frozen=True)
class Line:
    """One curve."""

    label: str
    points: Sequence[tuple[int | float, float]]
    color: int = 0
    faint: bool = False
    """a single run behind the mean of its group"""
    dots: bool = False
    """mark every point: they are measurements far apart"""


@dataclasses.dataclass(frozen=True)
class Area:
    """A band between two curves."""

    points: Sequence[tuple[int | float, float, float]]
    """x, low, high"""
    color: int = 0


@dataclasses.dataclass(frozen=True)
class Chart:
    """What to draw."""

    title: str
    lines: Sequence[Line]
    areas: Sequence[Area] = ()
    about: str = ""
    """one sentence below the title"""
    bounds: tuple[float, float] | None = None
    """of the y axis; none: those of the data"""
    wide: bool = False


@dataclasses.dataclass(frozen=True)
class Tick:
    """A mark on an axis."""

    at: float
    label: str


@dataclasses.dataclass(frozen=True)
class Drawing:
    """Where everything stands, in units of the view box."""

    chart: Chart
    width: int
    height: int
    x_ticks: Sequence[Tick]
    y_ticks: Sequence[Tick]
    paths: Sequence[tuple[Line, str]]
    shapes: Sequence[tuple[Area, str]]
    dots: Sequence[tuple[Line, Sequence[tuple[str, str]]]]
    frame: tuple[float, float, float, float]
    """left, top, right, bottom of the plotting area"""
    window: tuple[float, float, float, float]
    """x and y of the data at the left and right, bottom and top of it"""

    @property
    def legend(self) -> list[Line]:
        """Lines that a reader must tell apart."""
        named = [line for line in self.chart.lines if line.label and not line.faint]
        return named if len(named) > 1 else []


def draw(chart: Chart) -> Drawing:
    """Lay a chart out; points that are not finite are not drawn."""
    width = 2 * WIDTH if chart.wide else WIDTH
    height = 240 if chart.wide else HEIGHT
    frame = (float(LEFT), float(TOP), float(width - RIGHT), float(height - BOTTOM))
    x0, x1 = _extent([float(x) for line in chart.lines for x, _ in line.points])
    y0, y1 = chart.bounds or _padded(*_extent(_heights(chart)))

    def place(x: int | float, y: float) -> tuple[str, str]:
        y = min(max(y, y0), y1)
        across = frame[0] + (x - x0) / (x1 - x0) * (frame[2] - frame[0])
        return _short(across), _short(frame[3] - (y - y0) / (y1 - y0) * (frame[3] - frame[1]))

    placed = [(line, [place(*p) for p in thin(line.points)]) for line in chart.lines]
    return Drawing(
        chart=chart,
        width=width,
        height=height,
        x_ticks=[Tick(float(place(x, y0)[0]), label(x)) for x in ticks(x0, x1, 6, whole=True)],
        y_ticks=[Tick(float(place(x0, y)[1]), label(y)) for y in ticks(y0, y1, 4)],
        paths=[(line, _path(points)) for line, points in placed],
        shapes=[(area, _outline(area, place)) for area in chart.areas if area.points],
        dots=[(line, points) for line, points in placed if line.dots or len(points) == 1],
        frame=frame,
        window=(x0, x1, y0, y1),
    )


def _heights(chart: Chart) -> list[float]:
    lines = [y for line in chart.lines for _, y in line.points]
    return lines + [y for area in chart.areas for point in area.points for y in point[1:]]


def _extent(values: Sequence[int | float]) -> tuple[float, float]:
    """Smallest and largest finite value, far enough apart to divide by their distance."""
    finite = [min(max(float(v), -HUGE), HUGE) for v in values if math.isfinite(v)]
    low, high = min(finite, default=0.0), max(finite, default=1.0)
    size = max(abs(low), abs(high))
    apart = high - low > 1e-9 * size and high - low > TINY
    margin = max(0.5, 0.05 * size) if size > TINY else 0.5
    return (low, high) if apart else (low - margin, high + margin)


def _padded(low: float, high: float) -> tuple[float, float]:
    margin = 0.05 * (high - low)
    return (low - margin if low < 0 or low > margin else min(low, 0.0)), high + margin


def thin(
    points: Sequence[tuple[int | float, float]], most: int = 400
) -> list[tuple[int | float, float]]:
    """At most so many points, evenly taken, first and last among them."""
    if len(points) <= most:
        return list(points)
    step = (len(points) - 1) / (most - 1)
    return [points[round(i * step)] for i in range(most)]


def _short(x: float) -> str:
    return f"{x:.1f}".removesuffix(".0")


def _path(points: Sequence[tuple[str, str]]) -> str:
    return "M" + "L".join(f"{x},{y}" for x, y in points) if points else ""


def _outline(area: Area, place) -> str:
    upper = [place(x, high) for x, _, high in area.points]
    lower = [place(x, low) for x, low, _ in reversed(area.points)]
    return _path([*upper, *lower]) + "Z"


def ticks(low: float, high: float, most: int, *, whole: bool = False) -> list[float]:
    """Round numbers within a range, about `most` of them."""
    raw = (high - low) / most
    power = 10.0 ** math.floor(math.log10(raw))
    step = next((m * power for m in (1, 2, 2.5, 5) if m * power >= raw), 10 * power)
    if whole:
        step = max(1.0, float(math.ceil(step)))
    first = math.ceil(low / step - 1e-9)
    return [n * step for n in range(first, math.floor(high / step + 1e-9) + 1)]


def label(value: float) -> str:
    """A number as an axis or a figure shows it."""
    size = abs(value)
    if size and (size < 1e-3 or size >= 1e6):
        return f"{value:.2g}"
    if size >= 1000:
        return f"{value:,.0f}"
    return f"{value:.4g}"


@dataclasses.dataclass(frozen=True)
class Share:
    """One part of a bar, in percent of it."""

    label: str
    amount: float
    start: float
    width: float
    color: int


def split_bar(parts: Sequence[tuple[str, float]]) -> list[Share]:
    """Parts of a bar in order; those of nothing are left out."""
    total = math.fsum(max(0.0, amount) for _, amount in parts)
    found, start = [], 0.0
    for color, (name, amount) in enumerate(parts):
        width = 100 * max(0.0, amount) / total if total else 0.0
        if width > 0:
            found.append(Share(name, amount, round(start, 3), round(width, 3), color))
        start += width
    return found
