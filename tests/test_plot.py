"""Pictures are parsed as XML, and what they draw is measured against the numbers."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from denoise.plot import Line, Panel, histogram_svg, lines_svg

SVG = "{http://www.w3.org/2000/svg}"


def draw(counts: list[int], **changes) -> ElementTree.Element:
    edges = [i / len(counts) for i in range(len(counts) + 1)]
    words = {"title": "Weights", "x_label": "weight", "y_label": "rows", "ticks": [0, 1]}
    return ElementTree.fromstring(histogram_svg(counts, edges, **{**words, **changes}))


def bars(picture: ElementTree.Element) -> list[ElementTree.Element]:
    return [each for each in picture.iter(f"{SVG}rect") if each.get("class") == "bar"]


@given(st.lists(st.integers(0, 10**7), min_size=1, max_size=30))
def test_bars_are_as_high_as_their_counts_and_stay_inside(counts: list[int]) -> None:
    picture = draw(counts)
    drawn = bars(picture)
    assert len(drawn) == sum(count > 0 for count in counts)
    heights = [float(bar.get("height")) for bar in drawn]
    present = [count for count in counts if count]
    for count, height in zip(present, heights, strict=True):
        assert height == pytest.approx(max(1, count / max(present) * max(heights)), abs=0.11)
    _, _, width, high = map(float, picture.get("viewBox").split())
    for bar in drawn:
        x, y = float(bar.get("x")), float(bar.get("y"))
        assert x >= 0
        assert x + float(bar.get("width")) <= width
        assert y >= 0
        assert y + float(bar.get("height")) <= high


def test_axes_counts_and_both_schemes_are_named() -> None:
    picture = draw([1234, 0, 5_600_000, 34_000], x_label="w, a probability", y_label="votes")
    texts = [each.text for each in picture.iter(f"{SVG}text")]
    for text in ("Weights", "w, a probability", "votes", "1.2k", "34k", "5.6M", "0", "1"):
        assert text in texts
    assert "prefers-color-scheme: dark" in picture.find(f"{SVG}style").text


def test_hostile_words_stay_words() -> None:
    title = '</text><script>alert("x")</script>\u202e\x1b['
    picture = draw([1], title=title)
    assert not list(picture.iter(f"{SVG}script"))
    assert "\u202e" not in ElementTree.tostring(picture, encoding="unicode")


def test_edges_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="2 counts need 3 edges"):
        histogram_svg([1, 2], [0, 1], title="", x_label="", y_label="", ticks=[])


def chart(*lines: Line, **changes) -> ElementTree.Element:
    panel = Panel("Panel", "share", "error", lines, [(1, "one"), (100, "hundred")])
    return ElementTree.fromstring(lines_svg([panel._replace(**changes)], title="Chart"))


def points(picture: ElementTree.Element) -> list[tuple[float, float]]:
    return [
        (float(each.get("cx")), float(each.get("cy")))
        for each in picture.iter(f"{SVG}circle")
        if each.find(f"{SVG}title") is not None
    ]


@given(st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=20))
def test_points_keep_the_order_of_their_values_and_stay_inside(values: list[float]) -> None:
    picture = chart(Line("a", range(len(values)), values))
    _, _, width, height = map(float, picture.get("viewBox").split())
    drawn = points(picture)
    assert [x for x, _ in drawn] == sorted(x for x, _ in drawn)
    for x, y in drawn:
        assert 0 < x < width
        assert 0 < y < height
    for (_, y), (_, z), value, other in zip(drawn, drawn[1:], values, values[1:], strict=False):
        assert y >= z or value > other or y == pytest.approx(z, abs=0.11)


def test_equal_ratios_are_equal_distances_where_asked() -> None:
    (first, _), (second, _), (third, _) = points(
        chart(Line("a", [1, 10, 100], [0, 1, 2]), ratio=True)
    )
    assert second - first == pytest.approx(third - second, abs=0.11)


def test_a_missing_value_is_a_gap() -> None:
    picture = chart(Line("a", [1, 2, 3, 4], [1.0, float("nan"), 2.0, 3.0]))
    assert len(points(picture)) == 3
    (path,) = picture.iter(f"{SVG}path")
    assert path.get("d").count("M") == 2


def test_charts_name_their_axes_lines_and_ticks_once_in_a_legend() -> None:
    panel = Panel("P", "votes", "AUC", [Line("paper & co", [1, 2], [0, 1])], [(1, "1"), (2, "2")])
    text = lines_svg([panel, panel._replace(title="Q")], title="T")
    texts = [each.text for each in ElementTree.fromstring(text).iter(f"{SVG}text")]
    assert [texts.count(word) for word in ("T", "P", "Q", "paper & co")] == [1, 1, 1, 1]
    assert texts.count("votes") == texts.count("AUC") == 2


def test_a_tick_beyond_the_lines_is_not_shown() -> None:
    ticks = [(0, "none"), (1, "one"), (2, "two"), (3, "three")]
    text = lines_svg([Panel("P", "x", "y", [Line("l", [1, 2], [0, 1])], ticks)], title="T")
    texts = [each.text for each in ElementTree.fromstring(text).iter(f"{SVG}text")]
    assert [name for _, name in ticks if name in texts] == ["one", "two"]


def test_a_chart_without_a_point_is_refused() -> None:
    with pytest.raises(ValueError, match="nothing to draw in 'Panel'"):
        chart(Line("a", [1], [float("nan")]))
