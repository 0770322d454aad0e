"""A histogram as SVG text: no plotting library, readable on a light and on a dark page."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from denoise.plain import plain

_WIDTH, _HEIGHT = 720, 340
_LEFT, _RIGHT, _TOP, _BOTTOM = 78, 20, 58, 52
_GAP = 2.0  # between neighbouring bars

# The picture brings its own background: a page may be dark while the system is light, and the
# other way round, and an <img> can only ask the system.
_STYLE = """\
  .page { fill: #ffffff; stroke: #d0d7de }
  .bar { fill: #2f6fb3 }
  .grid { stroke: #d8dee4 }
  .axis { stroke: #57606a }
  text { fill: #24292f; font: 12px system-ui, "Segoe UI", Helvetica, Arial, sans-serif }
  .title { font-size: 15px; font-weight: 600 }
  .count { font-size: 10px; fill: #57606a; stroke: #ffffff; stroke-width: 3px; paint-order: stroke }
  @media (prefers-color-scheme: dark) {
    .page { fill: #161b22; stroke: #30363d }
    .bar { fill: #6cb0f5 }
    .grid { stroke: #2b323b }
    .axis { stroke: #9aa4af }
    text { fill: #e6edf3 }
    .count { fill: #9aa4af; stroke: #161b22 }
  }"""


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
