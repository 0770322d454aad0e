"""The histogram is a whole picture: parsed as XML, its bars are measured against the counts."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from denoise.plot import histogram_svg

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
