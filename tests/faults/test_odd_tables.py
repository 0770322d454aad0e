"""Tables of odd shapes and texts: wide ones, huge cells, marks of direction."""

import json

from faulty import denoise

from denoise.dataset import read_dataset

WIDE = 100_000
HUGE = 10_000_000


def test_a_hundred_thousand_columns_are_kept(tmp_path):
    names = [f"c{i}" for i in range(WIDE)]
    rows = [["prompt", "chosen", "rejected", *names]]
    rows += [[f"p{i}", "a", "b", *["1"] * WIDE] for i in range(2)]
    (tmp_path / "wide.csv").write_text("\n".join(map(",".join, rows)) + "\n")
    done = denoise("import", "wide.csv", "--out", "out", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    votes = read_dataset(tmp_path / "out").votes
    assert votes[f"c{WIDE - 1}"].to_list() == [1, 1]


def test_cells_of_ten_megabytes_and_marks_of_direction_are_kept_and_shown_cut(tmp_path):
    who = "\u202e\u200b" + "z" * 1_000
    lines = [
        {"prompt": "x" * HUGE, "chosen": f"a{i}", "rejected": "b" * HUGE, "annotator": who}
        for i in range(3)
    ]
    (tmp_path / "huge.jsonl").write_text("\n".join(map(json.dumps, lines)))
    for words in (
        ("import", "huge.jsonl", "--out", "data"),
        ("em", "data", "--out", "em"),
        ("audit", "data", "--out", "audit.html"),
        ("export", "data", "em", "--format", "jsonl", "--out", "weighted"),
    ):
        done = denoise(*words, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert len(done.stdout) + len(done.stderr) < 20_000
        assert "\u202e" not in done.stdout and "\u200b" not in done.stdout
    assert read_dataset(tmp_path / "data").votes["annotator_id"][0] == who
    page = (tmp_path / "audit.html").read_text()
    assert len(page) < 1_000_000 and "\u202e" not in page
