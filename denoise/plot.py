"""Histograms and line charts as SVG text: no plotting library, for light and for dark pages."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from html import escape
from typing import NamedTuple

from denoise.plain import plain

_WIDTH, _HEIGHT = 720, 340
_LEFT, _RIGHT, _TOP, _BOTTOM = 78, 20, 58, 52
_GAP = 2.0  # between neighbouring bars
_PANEL_WIDTH, _PANEL_HEIGHT = 440, 330
_COLUMNS = 2  # panels beside each other

# The picture brings its own background: a page may be dark while the system is light, and the
# other way round, and an <img> can only ask the system.
_STYLE = """\
  .page { fill: #ffffff; stroke: #d0d7de }
  .bar { fill: #2f6fb3 }
  .grid { stroke: #d8dee4 }
  .axis { stroke: #57606a }
  text { fill: #24292f; font: 12px system-ui, "Segoe UI", Helvetica, Arial, sans-serif }
  .line { fill: none; stroke-width: 1.8 }
  .reference { stroke: #57606a; stroke-dasharray: 2 3 }
  .title { font-size: 15px; font-weight: 600 }
  .panel { font-weight: 600 }
  .count { font-size: 10px; fill: #57606a; stroke: #ffffff; stroke-width: 3px; paint-order: stroke }
  @media (prefers-color-scheme: dark) {
    .page { fill: #161b22; stroke: #30363d }
    .bar { fill: #6cb0f5 }
    .grid { stroke: #2b323b }
    .axis { stroke: #9aa4af }
    text { fill: #e6edf3 }
    .reference { stroke: #9aa4af }
    .count { fill: #9aa4af; stroke: #161b22 }
  }"""

# One a line, on a light and on a dark page, told apart by people who see fewer colours too; the
# dashes tell them apart without any.
_COLOURS = (
    ("#0b62b0", "#6cb0f5"),
    ("#c4500a", "#ff9a52"),
    ("#0a7d5c", "#4fd1a5"),
    ("#a63d8f", "#e58fd0"),
    ("#8a6d00", "#e3c341"),
    ("#5b5f66", "#b6bcc4"),
    ("#b3202c", "#ff8088"),
    ("#4b3fb5", "#a79df7"),
    ("#00707f", "#4cc3d9"),
)
_DASHES = ("", "7 3", "2 2", "8 3 2 3", "", "4 4", "1 3", "10 3", "6 2 1 2")


class Line(NamedTuple):
    """A named line through the points (x, y); where y is NaN there is a gap.

    error: half the height of each point's whisker, such as a standard error, or empty. The same
    name has the same colour in every panel. joined: whether a line goes through the points.
    """

    name: str
    x: Sequence[float]
    y: Sequence[float]
    error: Sequence[float] = ()
    joined: bool = True


class Panel(NamedTuple):
    """A chart among others.

    ticks: (value, name), shown where the lines reach and there is room.
    ratio: whether equal distances on the x axis are equal ratios. references: heights to mark
    across the chart. diagonal: whether to mark y = x.
    """

    title: str
    x_label: str
    y_label: str
    lines: Sequence[Line]
    ticks: Sequence[tuple[float, str]]
    ratio: bool = False
    references: Sequence[float] = ()
    diagonal: bool = False


def histogram_svg(
    counts: Sequence[int],
    edges: Sequence[float],
    *,
    title: str,
    x_label: str,
    y_label: str,
    ticks: Sequence[float],
) -> str:
    """A histogram as the text of an SVG file, with both axes named and a count on every bar.

    Args:
        counts: how many values each bin holds, [B].
        edges: where the bins begin and end, ascending, [B + 1].
        title: what is shown.
        x_label: the name of the values, with their unit.
        y_label: what is counted.
        ticks: the values that the horizontal axis names, within the edges.

    Raises:
        ValueError: there is not one edge more than there are counts.
    """
    if len(edges) != len(counts) + 1:
        raise ValueError(f"{len(counts)} counts need {len(counts) + 1} edges, found {len(edges)}")
    step = _nice_step(max(counts, default=0))
    top = step * max(1, -(-max(counts, default=0) // step))
    base, right = _HEIGHT - _BOTTOM, _WIDTH - _RIGHT

    def x_of(value: float) -> float:
        return _LEFT + (value - edges[0]) / (edges[-1] - edges[0]) * (right - _LEFT)

    def y_of(count: float) -> float:
        return base - count / top * (base - _TOP)

    summary = f"{title}: {sum(counts):,} in {len(counts)} bins from {edges[0]:g} to {edges[-1]:g}"
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" '
        f'width="{_WIDTH}" height="{_HEIGHT}" role="img" aria-label="{_text(summary)}">',
        f"<style>\n{_STYLE}\n</style>",
        f'<rect class="page" x="0.5" y="0.5" width="{_WIDTH - 1}" height="{_HEIGHT - 1}" rx="6"/>',
        f'<text class="title" x="{_LEFT}" y="30">{_text(title)}</text>',
    ]
    for count in range(0, top + 1, step):
        y = y_of(count)
        if count:
            parts.append(
                f'<line class="grid" x1="{_LEFT}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}"/>'
            )
        parts.append(
            f'<text x="{_LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{_compact(count)}</text>'
        )
    for count, low, high in zip(counts, edges[:-1], edges[1:], strict=True):
        if not count:
            continue
        # A bin of one value among a million still shows.
        y = min(y_of(count), base - 1)
        x, width = x_of(low) + _GAP / 2, x_of(high) - x_of(low) - _GAP
        parts.append(
            f'<rect class="bar" x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" '
            f'height="{base - y:.1f}"><title>{low:g} to {high:g}: {count:,}</title></rect>'
            f'<text class="count" x="{x + width / 2:.1f}" y="{y - 4:.1f}" '
            f'text-anchor="middle">{_compact(count)}</text>'
        )
    parts.append(f'<line class="axis" x1="{_LEFT}" x2="{right}" y1="{base}" y2="{base}"/>')
    for value in ticks:
        x = x_of(value)
        parts.append(
            f'<line class="axis" x1="{x:.1f}" x2="{x:.1f}" y1="{base}" y2="{base + 5}"/>'
            f'<text x="{x:.1f}" y="{base + 19}" text-anchor="middle">{value:g}</text>'
        )
    middle = (_TOP + base) / 2
    parts += [
        f'<text x="{(_LEFT + right) / 2}" y="{_HEIGHT - 12}" text-anchor="middle">'
        f"{_text(x_label)}</text>",
        f'<text x="20" y="{middle}" text-anchor="middle" '
        f'transform="rotate(-90 20 {middle})">{_text(y_label)}</text>',
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def lines_svg(panels: Sequence[Panel], *, title: str) -> str:
    """Line charts beside and below each other, with one legend, as the text of an SVG file.

    Raises:
        ValueError: there is no finite point in a panel, or a line's x and y differ in length.
    """
    names = list(dict.fromkeys(line.name for panel in panels for line in panel.lines))
    number = {name: i % len(_COLOURS) for i, name in enumerate(names)}
    columns = min(_COLUMNS, len(panels))
    width = max(_WIDTH, columns * _PANEL_WIDTH)
    wide = width // columns
    legend, legend_height = _legend(names, number, width)
    head = 44 + legend_height
    height = head + -(-len(panels) // columns) * _PANEL_HEIGHT
    light = [
        f"  .s{i} {{ stroke: {c}; stroke-dasharray: {_DASHES[i] or 'none'} }}\n"
        f"  .p{i} {{ fill: {c}; stroke: {c} }}"
        for i, (c, _) in enumerate(_COLOURS)
    ]
    dark = [
        f"    .s{i} {{ stroke: {c} }}\n    .p{i} {{ fill: {c}; stroke: {c} }}"
        for i, (_, c) in enumerate(_COLOURS)
    ]
    summary = f"{title}: {', '.join(p.y_label for p in panels)}; lines: {', '.join(names)}"
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        f'width="{width}" height="{height}" role="img" aria-label="{_text(summary)}">',
        "<style>",
        _STYLE,
        *light,
        "  @media (prefers-color-scheme: dark) {",
        *dark,
        "  }\n</style>",
        f'<rect class="page" x="0.5" y="0.5" width="{width - 1}" height="{height - 1}" rx="6"/>',
        f'<text class="title" x="24" y="30">{_text(title)}</text>',
        *legend,
    ]
    for i, panel in enumerate(panels):
        x, y = i % columns * wide, head + i // columns * _PANEL_HEIGHT
        parts += [f'<g transform="translate({x} {y})">', *_panel(panel, number, wide), "</g>"]
    return "\n".join([*parts, "</svg>"]) + "\n"


def _legend(names: Sequence[str], number: dict[str, int], width: int) -> tuple[list[str], int]:
    """The names behind a piece of their lines, in rows, and how high that is."""
    parts, x, y = [], 24.0, 52
    for name in names:
        room = 46 + 6.6 * len(name)
        if x > 24 and x + room > width - 12:
            x, y = 24.0, y + 20
        i = number[name]
        parts.append(
            f'<line class="line s{i}" x1="{x}" x2="{x + 26}" y1="{y}" y2="{y}"/>'
            f'<circle class="p{i}" cx="{x + 13}" cy="{y}" r="2.5"/>'
            f'<text x="{x + 32:.1f}" y="{y + 4}">{_text(name)}</text>'
        )
        x += room
    return parts, y - 34


def _panel(panel: Panel, number: dict[str, int], width: int) -> list[str]:
    """The elements of one chart of that width, its own corner at (0, 0)."""
    points = [
        (x, y, error)
        for line in panel.lines
        for x, y, error in zip(line.x, line.y, line.error or [0.0] * len(line.x), strict=True)
        if math.isfinite(y)
    ]
    if not points:
        raise ValueError(f"nothing to draw in {panel.title!r}")
    left, right, top, base = 64, width - 22, 30, _PANEL_HEIGHT - 52
    scale = math.log if panel.ratio else float
    # An axis without extent gets some.
    first, last = scale(min(p[0] for p in points)), scale(max(p[0] for p in points))
    first, last = (first, last) if last > first else (first - 0.5, last + 0.5)
    heights = [y + side * error for _, y, error in points for side in (-1, 1)]
    step = _nice_fraction(max(*heights, *panel.references) - min(*heights, *panel.references))
    low = math.floor(min(*heights, *panel.references) / step + 1e-9)
    high = max(math.ceil(max(*heights, *panel.references) / step - 1e-9), low + 1)

    def x_of(value: float) -> float:
        return left + 6 + (scale(value) - first) / (last - first) * (right - left - 12)

    def y_of(value: float) -> float:
        return base - (value / step - low) / (high - low) * (base - top)

    parts = [f'<text class="panel" x="{left}" y="16">{_text(panel.title)}</text>']
    for i in range(low, high + 1):
        y, style = y_of(i * step), "axis" if i == low else "grid"
        parts.append(
            f'<line class="{style}" x1="{left}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}"/>'
            f'<text x="{left - 8}" y="{y + 4:.1f}" text-anchor="end">{i * step:.4g}</text>'
        )
    after = -math.inf
    for value, name in panel.ticks:
        if not first - 1e-9 <= scale(value) <= last + 1e-9:
            continue
        x, half = x_of(value), 3.4 * len(name)
        parts.append(f'<line class="axis" x1="{x:.1f}" x2="{x:.1f}" y1="{base}" y2="{base + 5}"/>')
        if x - half > after + 4:
            parts.append(
                f'<text x="{x:.1f}" y="{base + 19}" text-anchor="middle">{_text(name)}</text>'
            )
            after = x + half
    for value in panel.references:
        y = y_of(value)
        parts.append(
            f'<line class="reference" x1="{left}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}"/>'
        )
    if panel.diagonal:
        ends = [
            max(min(p[0] for p in points), low * step),
            min(max(p[0] for p in points), high * step),
        ]
        (x1, y1), (x2, y2) = ((x_of(v), y_of(v)) for v in ends)
        parts.append(
            f'<line class="reference" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'
        )
    for line in panel.lines:
        parts += _line(line, number[line.name], x_of, y_of)
    middle = (top + base) / 2
    return [
        *parts,
        f'<text x="{(left + right) / 2}" y="{_PANEL_HEIGHT - 14}" text-anchor="middle">'
        f"{_text(panel.x_label)}</text>",
        f'<text x="18" y="{middle}" text-anchor="middle" '
        f'transform="rotate(-90 18 {middle})">{_text(panel.y_label)}</text>',
    ]


def _line(
    line: Line, number: int, x_of: Callable[[float], float], y_of: Callable[[float], float]
) -> list[str]:
    """The pieces of a line between its gaps, its whiskers and its points."""
    path, parts, pen = [], [], "M"
    for x, y, error in zip(line.x, line.y, line.error or [0.0] * len(line.x), strict=True):
        if not math.isfinite(y):
            pen = "M"
            continue
        at, height = x_of(x), y_of(y)
        path.append(f"{pen}{at:.1f} {height:.1f}")
        pen = "L"
        if error:
            parts.append(
                f'<line class="p{number}" x1="{at:.1f}" x2="{at:.1f}" '
                f'y1="{y_of(y - error):.1f}" y2="{y_of(y + error):.1f}"/>'
            )
        parts.append(
            f'<circle class="p{number}" cx="{at:.1f}" cy="{height:.1f}" r="2.5">'
            f"<title>{_text(line.name)}: {x:g}, {y:.4g}</title></circle>"
        )
    if not line.joined:
        return parts
    return [f'<path class="line s{number}" d="{"".join(path)}"/>', *parts]


def _text(text: str) -> str:
    return escape(plain(text))


def _nice_step(largest: int) -> int:
    """1, 2 or 5 times a power of ten, so that the axis has about five ticks."""
    step = 1
    while True:
        for factor in (1, 2, 5):
            if largest <= 5 * step * factor:
                return step * factor
        step *= 10


def _nice_fraction(extent: float) -> float:
    """1, 2 or 5 times a power of ten, so that an axis of that extent has about five ticks."""
    power = 10.0 ** math.floor(math.log10(max(extent, 1e-6) / 5))
    return next(power * factor for factor in (1, 2, 5, 10) if extent <= 6 * power * factor)


def _compact(count: int) -> str:
    """A count in at most five characters: 950, 1.2k, 34k, 5.6M."""
    if count < 1000:
        return str(count)
    for scale, sign in ((1e3, "k"), (1e6, "M"), (1e9, "G")):
        value = count / scale
        if value < 9.95:
            return f"{value:.1f}".removesuffix(".0") + sign
        if value < 999.5:
            return f"{value:.0f}{sign}"
    return f"{count:.0e}"
