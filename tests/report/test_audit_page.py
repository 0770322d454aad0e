"""The audit's page in a real browser, and what it says."""

from __future__ import annotations

import re
import time
from itertools import pairwise

import numpy as np
import polars as pl
import pytest
from audit_cases import dataset, labels

from denoise import audit
from denoise.quality.finding import LEVELS
from denoise.report.audit import actions, buying, enough, page
from denoise.report.compare import page as compare_page
from denoise.report.words import QUESTIONS, agreement_in_words, effect, headline, interval
from denoise.stages.audit_compare import compare
from denoise.stages.audit_tables import FLAG

HOSTILE = "</script><script>alert('data')</script><img src=x onerror=alert(1)>"


@pytest.fixture(scope="module")
def troubled():
    """Labels with one who spams and one who copies him, known answers, and hostile names."""
    reliability = np.append(np.linspace(0.75, 0.95, 11), 1 / 3)
    frame, truth = labels(400, 12, each=6, reliability=reliability, hostile=HOSTILE)
    return audit(dataset(frame), truth=truth.head(100), slices=("topic",))


@pytest.fixture
def file(troubled, tmp_path):
    path = tmp_path / "report.html"
    path.write_text(page(troubled, f"labels{HOSTILE}.csv"), encoding="utf-8")
    return path


def test_it_asks_for_nothing_complains_of_nothing_and_runs_nothing_of_the_data(file, opened):
    seen = opened(file)
    assert seen.requests == [file.as_uri()]
    assert seen.errors == []
    assert seen.page.locator("script").count() == 1
    assert seen.page.locator("img").count() == 0
    assert HOSTILE in seen.page.locator("h1").inner_text()
    assert HOSTILE[:9] in seen.page.locator("#people tbody").inner_text()


def test_a_script_that_got_in_would_not_run(file, opened):
    """The content security policy names the one script by its hash."""
    text = file.read_text(encoding="utf-8")
    file.write_text(text.replace("</main>", "<script>alert('in')</script></main>"))
    seen = opened(file)
    assert len(seen.errors) == 1 and "Content Security Policy" in seen.errors[0]


def test_tables_sort_by_number_and_by_name(file, opened):
    seen = opened(file)
    rows = seen.page.locator("#people tbody tr")
    heading = seen.page.locator("#people th", has_text="lower bound")

    def bounds() -> list[float]:
        cells = rows.locator("td:nth-child(4)").evaluate_all("c => c.map(x => x.dataset.value)")
        return [float(value) for value in cells]

    assert bounds() == sorted(bounds())
    heading.locator("button").click()
    heading.locator("button").click()
    assert heading.get_attribute("aria-sort") == "descending"
    assert bounds() == sorted(bounds(), reverse=True)
    seen.page.locator("#people th", has_text="annotator").locator("button").press("Enter")
    names = rows.locator("td:nth-child(1)").all_inner_texts()
    assert names == sorted(names) and len(names) == 12
    assert heading.get_attribute("aria-sort") is None
    assert seen.errors == []


def test_tables_filter_by_text_and_by_flag(file, opened):
    seen = opened(file)
    rows = seen.page.locator("#people tbody tr:visible")
    search = seen.page.locator("[data-table=people] input[type=search]")
    search.fill("w03")
    assert rows.count() == 1
    assert "1 of 12" in seen.page.locator("[data-table=people] output").inner_text()
    search.fill("")
    seen.page.locator("[data-table=people] input[type=checkbox]").check()
    assert rows.count() == 1
    assert "spammer" in rows.inner_text()


def test_without_scripts_the_tables_are_whole(file, opened):
    seen = opened(file, java_script_enabled=False)
    assert seen.page.locator("#people tbody tr").count() == 12
    assert not seen.page.locator(".filters").first.is_visible()


@pytest.mark.parametrize("width", [360, 1200])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_a_phone_and_has_contrast_in_light_and_dark(file, opened, width, scheme):
    seen = opened(file, width, color_scheme=scheme)
    wide = seen.page.evaluate("document.documentElement.scrollWidth")
    assert wide <= width
    worst = seen.page.evaluate(CONTRAST)
    assert worst["ratio"] >= 4.5, worst  # WCAG 2.2, 1.4.3


CONTRAST = """() => {
  const channel = (v) => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
  const light = (c) => { const [r, g, b] = c.match(/[0-9.]+/g).map(Number).map(channel);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
  const behind = (e) => { for (; e; e = e.parentElement) {
      const c = getComputedStyle(e).backgroundColor; if (!c.endsWith(', 0)')) return c; }
    return 'rgb(255, 255, 255)'; };
  let worst = { ratio: 99 };
  for (const e of document.querySelectorAll('main *:not(svg *)')) {
    if (![...e.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim())) continue;
    const a = light(getComputedStyle(e).color), b = light(behind(e));
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (ratio < worst.ratio) worst = { ratio, text: e.textContent.slice(0, 40), tag: e.tagName };
  }
  return worst;
}"""


def test_it_is_whole_on_paper_and_named_for_those_who_cannot_see_it(file, opened):
    seen = opened(file)
    for picture in seen.page.locator("svg").all():
        assert picture.get_attribute("role") == "img" and picture.get_attribute("aria-label")
    unnamed = seen.page.locator("input:not(label input), [role=region]:not([aria-label])")
    assert unnamed.count() == 0
    assert seen.page.locator("html").get_attribute("lang") == "en"
    headings = seen.page.locator("h1, h2, h3").evaluate_all("h => h.map(x => +x.tagName[1])")
    assert all(b - a <= 1 for a, b in pairwise(headings))
    seen.page.emulate_media(media="print")
    assert not seen.page.locator("nav").is_visible()
    clipped = seen.page.locator(".scroll").evaluate_all(
        "s => s.filter(x => x.scrollHeight > x.clientHeight + 2).length"
    )
    assert clipped == 0


def test_every_plot_has_a_sentence_and_every_number_of_the_headline_is_the_summarys(
    troubled, file, opened
):
    seen = opened(file)
    figures = seen.page.locator("figure")
    assert figures.count() == 4
    for figure in figures.all():
        assert figure.locator("figcaption").inner_text().endswith(".")
    said = " ".join(headline(dict(troubled.summary)))
    assert said == " ".join(seen.page.locator(".answer").inner_text().split())
    assert "2,400 votes by 12 annotators on 400 items, 6.0 each." in said
    known = troubled.summary["on_known"]
    assert f"{100 * known['accuracy_on_known']:.1f} %" in said
    assert "1 of the 12 annotators answer as if they did not know the truth" in said


def test_a_million_labels_make_a_small_page_that_opens_at_once(tmp_path, opened):
    rng = np.random.default_rng(0)
    n, n_items, n_annotators = 1_000_000, 250_000, 3_000
    truth = rng.integers(2, size=n_items)
    item = np.repeat(np.arange(n_items), 4)
    who = rng.integers(n_annotators, size=n)
    right = rng.random(n) < rng.uniform(0.55, 0.95, n_annotators)[who]
    frame = pl.DataFrame(
        {
            "item_id": pl.Series(item).cast(pl.String),
            "annotator_id": "worker-" + pl.Series(who).cast(pl.String),
            "label": pl.Series(["no", "yes"])[np.where(right, truth[item], 1 - truth[item])],
        }
    )
    path = tmp_path / "million.html"
    path.write_text(page(audit(dataset(frame), model="one-coin"), "a million labels"))
    assert path.stat().st_size < 1_000_000
    began = time.perf_counter()
    seen = opened(path)
    seen.page.locator("#people tbody tr").first.wait_for()
    assert time.perf_counter() - began < 2.0
    assert seen.page.locator("#people tbody tr").count() == 1000
    assert "1,000 of 3,000" in seen.page.locator("main").inner_text()


def test_two_batches_side_by_side(tmp_path, opened):
    frame, _ = labels(n_items=900, reliability=np.full(12, 0.9), hostile=HOSTILE)
    worse = np.full(12, 0.9)
    worse[4] = 0.5
    other, _ = labels(n_items=900, reliability=worse, seed=5, hostile=HOSTILE)
    found = compare(audit(dataset(frame)), audit(dataset(other)))
    path = tmp_path / "compared.html"
    path.write_text(compare_page(found, f"may{HOSTILE}", "june"), encoding="utf-8")
    seen = opened(path, 360)
    assert seen.errors == [] and seen.requests == [path.as_uri()]
    assert "0 became more reliable and 1 less" in seen.page.locator(".answer").inner_text()
    seen.page.locator("input[type=checkbox]").check()
    rows = seen.page.locator("#people tbody tr:visible")
    assert rows.count() == 1 and "w04" in rows.inner_text()
    assert seen.page.evaluate("document.documentElement.scrollWidth") <= 360


def test_every_question_has_its_words():
    assert QUESTIONS.keys() == FLAG.keys() == LEVELS.keys()
    assert effect("drift", -0.401) == "-40 points" and effect("spammer", -0.001) == "0 %"
    assert effect("position", None) == "–" and interval("copies", None, None) == "–"
    assert interval("drift", -0.501, 0.099) == "-50 to +10"


@pytest.mark.parametrize(
    ("alpha", "said"),
    [(0.85, "reliable"), (0.7, "tentative"), (0.2, "Below 0.667"), (float("nan"), "Nothing")],
)
def test_alpha_in_words(alpha, said):
    assert said in agreement_in_words(alpha)


def test_what_is_enough_and_what_to_buy_are_told_in_numbers(troubled):
    curve = 100 * troubled.by_votes.expected
    said = enough(troubled)
    assert f"With one vote an item {curve[0]:.1f} %" in said
    assert f"all {len(curve)} {curve[-1]:.1f} %" in said
    numbers = [float(x.replace(",", "")) for x in re.findall(r"\d[\d,]*", buying(troubled))]
    assert numbers[1] >= numbers[2] and numbers[3] == troubled.plan["labels"][-1]


def test_where_to_start_names_people_and_sums_what_is_expected(troubled):
    leave, look, *_ = actions(troubled)
    (spammer,) = troubled.annotators.filter(pl.col("flags").list.contains("spammer"))[
        "annotator_id"
    ]
    assert spammer[:20] in leave
    top = troubled.items.filter(pl.col("worth_of_a_look") > 0).head(100)["worth_of_a_look"]
    assert f"first {len(top)} labels" in look and f"about {top.sum():,.0f} of them" in look
