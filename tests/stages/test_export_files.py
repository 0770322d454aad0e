"""What is written: `datasets` reads it back, TRL trains on it, and data in the card is inert."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

import polars as pl
import pytest
import yaml
from huggingface_hub import DatasetCard
from markdown_it import MarkdownIt

from denoise.dataset import Dataset
from denoise.errors import InputError
from denoise.stages import card, formats
from denoise.stages.export import Export, export, write_export
from denoise.stages.strategies import with_strategy
from denoise.tables import Provenance, read_manifest, read_provenance

HOSTILE = [
    "</script><script>alert(1)</script>",
    "a | b | c |\n| d",
    "`code` ```fence``` ~~~",
    "[click](javascript:alert(1)) ![x](https://evil.example/x.png)",
    "<img src=x onerror=alert(1)> &lt;b&gt; <!-- -->",
    "www.evil.example https://evil.example <https://evil.example> [r]: /x",
    "\x1b[31mred\x07 \u202egnp.exe\u2066 \u200b",
    "**bold** _em_ # head\n---\n$x$ {{ 7 * 7 }} {% raw %}",
]


def make(texts: dict[str, list], provenance: Provenance | None = None, **columns: list) -> Dataset:
    """One vote a pair; `columns` belong to the votes."""
    n = len(texts["prompt"])
    pairs = pl.DataFrame({"pair_id": [f"p{i}" for i in range(n)], **texts})
    votes = {
        "vote_id": range(n),
        "pair_id": pairs["pair_id"],
        "annotator_id": ["all"] * n,
        "vote": ["a", "b"] * (n // 2) + ["a"] * (n % 2),
        **columns,
    }
    return Dataset(provenance or Provenance("import"), pairs, pl.DataFrame(votes, strict=False))


def exported(data: Dataset, rows: str = "votes", **options) -> Export:
    n = len(data.votes)
    weights = pl.DataFrame(
        {"vote_id": range(n), "confidence": [0.55 + 0.4 * i / n for i in range(n)]}
    )
    return export(data, weights, rows=rows, **options)


TEXTS = {
    "prompt": ["Grüße, 北京?", "a\nb\r\nc\u2028d", "", '"quoted" \\ \x00'],
    "response_a": ["", "🙂 naïve", "x", "tab\there"],
    "response_b": ["ok", "", "y", "</script>"],
}
CHAT = {
    "prompt": [[{"role": "user", "content": t}] for t in TEXTS["prompt"]],
    "response_a": [[{"role": "assistant", "content": t}] for t in TEXTS["response_a"]],
    "response_b": [[{"role": "assistant", "content": t}] for t in TEXTS["response_b"]],
}
SOURCE = {
    "tags": [["x", "y"], [], None, [None]],
    "info": [{"who": {"age": 3}, "seen": [1]}, None, {"who": None, "seen": []}, None],
    "nothing": [None] * 4,
    "score": [1.5, None, -0.0, 1e300],
    "flag": [True, None, False, True],
}


def load(directory: Path, cache: Path):
    from datasets import load_dataset

    return load_dataset(str(directory), split="train", cache_dir=str(cache))


@pytest.mark.parametrize("texts", [TEXTS, CHAT], ids=["text", "chat"])
@pytest.mark.parametrize("format", ["hf", "jsonl"])
def test_datasets_reads_back_what_was_exported(texts, format: str, tmp_path: Path) -> None:
    data = make(texts, **SOURCE)
    data.votes[3, "vote"] = "tie"  # so that there is a skipped.parquet to be left alone
    result = exported(data)
    write_export(result, tmp_path / "out", format)
    assert (tmp_path / "out" / "skipped.parquet").is_file()
    read = load(tmp_path / "out", tmp_path / "cache")
    assert read.column_names == result.frame.columns
    assert read.to_list() == result.frame.to_dicts()


@pytest.mark.parametrize("texts", [TEXTS, CHAT], ids=["text", "chat"])
def test_the_trl_form_has_only_what_trl_reads(texts, tmp_path: Path) -> None:
    result = exported(make(texts, **SOURCE))
    write_export(result, tmp_path / "out", "trl")
    read = load(tmp_path / "out", tmp_path / "cache")
    assert read.column_names == ["prompt", "chosen", "rejected", "weight"]
    assert read.to_list() == result.frame.select(read.column_names).to_dicts()


def test_jsonl_is_one_object_a_line_in_utf8(tmp_path: Path) -> None:
    result = exported(make(CHAT, **SOURCE), rows="pairs")
    write_export(result, tmp_path / "out", "jsonl")
    lines = (tmp_path / "out" / "train.jsonl").read_bytes().rstrip(b"\n").split(b"\n")
    assert [json.loads(line) for line in lines] == result.frame.to_dicts()
    assert "Grüße, 北京?".encode() in lines[0]
    pictures = exported(make(TEXTS, picture=[{"bytes": b"\xff"}] * 4))
    with pytest.raises(InputError, match="column 'picture': JSON has no form for bytes"):
        write_export(pictures, tmp_path / "new", "jsonl")
    assert not (tmp_path / "new").exists()


def test_equal_inputs_give_equal_files(tmp_path: Path) -> None:
    def digests(name: str, format: str) -> dict[str, str]:
        rows = with_strategy(exported(make(CHAT, **SOURCE)), "flip")
        write_export(rows, tmp_path / name, format)
        files = (p for p in (tmp_path / name).rglob("*") if p.is_file())
        return {
            str(p.relative_to(tmp_path / name)): hashlib.sha256(p.read_bytes()).hexdigest()
            for p in files
        }

    for format in formats.FORMATS:
        assert digests("one", format) == digests("two", format) == digests("one", format)


def test_large_sets_are_written_in_shards_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(formats, "MAX_SHARD_ROWS", 4)
    n = 10
    texts = {c: [f"{c} {i}" for i in range(n)] for c in ("prompt", "response_a", "response_b")}
    result = exported(make(texts))
    write_export(result, tmp_path / "out", "hf")
    names = sorted(p.name for p in (tmp_path / "out" / "data").iterdir())
    assert names == [f"train-{i:05d}-of-00003.parquet" for i in range(3)]
    assert load(tmp_path / "out", tmp_path / "cache").to_list() == result.frame.to_dicts()
    made = read_provenance(tmp_path / "out" / "data" / names[0])
    assert made == read_manifest(tmp_path / "out")
    assert made.settings == {"rows": "votes", "format": "hf"}


def test_a_directory_of_someone_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("x")
    with pytest.raises(InputError, match="would replace it"):
        write_export(exported(make(TEXTS)), tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["mine.txt"]
    with pytest.raises(InputError, match="no such format, found 'csv'; give one of hf, trl, jsonl"):
        write_export(exported(make(TEXTS)), tmp_path / "out", "csv")
    with pytest.raises(InputError, match="not a licence identifier"):
        write_export(exported(make(TEXTS)), tmp_path / "out", license="mit\ntags: [x]")


@pytest.mark.parametrize("format", ["hf", "trl", "jsonl"])
def test_the_next_step_can_be_typed(format: str, tmp_path: Path) -> None:
    out = tmp_path / "it's here"
    write_export(exported(make(TEXTS)), out, format)
    step = formats.next_step(format, out)
    loading = re.search(r"load_dataset\(.*?split=\"train\"\)", step)[0]
    scope: dict = {}
    exec(f"from datasets import load_dataset; train = {loading}", scope)
    assert len(scope["train"]) == 4


@pytest.mark.parametrize("kind", ["text", "chat", "mixed"])
def test_trl_trains_on_the_export(kind: str, policy_dir: Path, tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import DPOConfig, DPOTrainer

    texts = {
        "prompt": ["Is a mouse larger? ", "Wie ist das Wetter? ", "Please help: ", "How many? "],
        "response_a": ["No.", "Schön 🙂", "", "Three."],
        "response_b": ["Yes, it is.", "北京", "I will be glad to.", "No"],
    }
    roles = {"prompt": "user", "response_a": "assistant", "response_b": "assistant"}
    as_messages = {"text": (), "chat": tuple(roles), "mixed": ("prompt",)}[kind]
    for column in as_messages:
        texts[column] = [[{"role": roles[column], "content": t}] for t in texts[column]]
    write_export(exported(make(texts, extra=[1, 2, 3, 4])), tmp_path / "out", "trl")
    data = load(tmp_path / "out", tmp_path / "cache")
    model = AutoModelForCausalLM.from_pretrained(policy_dir, dtype=torch.float32)
    before = model.model.embed_tokens.weight.detach().clone()
    trainer = DPOTrainer(
        model=model,
        args=DPOConfig(
            output_dir=str(tmp_path / "run"),
            max_steps=2,
            per_device_train_batch_size=2,
            learning_rate=1e-2,
            bf16=False,
            use_cpu=True,
            report_to="none",
            save_strategy="no",
            logging_steps=1,
            disable_tqdm=True,
        ),
        train_dataset=data,
        processing_class=AutoTokenizer.from_pretrained(policy_dir),
    )
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert len(losses) == 2
    assert losses[0] == pytest.approx(0.6931, abs=1e-3)  # the policy begins at its reference
    assert not torch.equal(before, model.model.embed_tokens.weight)


def hostile_annotators() -> pl.DataFrame:
    n = len(HOSTILE)
    return pl.DataFrame(
        {
            "annotator_id": HOSTILE,
            "reliability": [None, *(i / n for i in range(1, n))],
            "reliability_low": [None, *([0.1] * (n - 1))],
            "reliability_high": [None, *([0.9] * (n - 1))],
            "n_votes": [1000] * n,
            "agreement": [0.5] * n,
            "flags": [["few votes", HOSTILE[0]]] * n,
        }
    )


@pytest.mark.parametrize("rows", ["pairs", "votes"])
def test_the_card_is_read_by_the_hub_and_data_in_it_is_inert(rows: str, tmp_path: Path) -> None:
    made = Provenance(
        "import",
        inputs={"/home/bob/secret dir/x.jsonl": "ab"},
        settings={
            "source": "https://user:pass@hub.example/data?token=abc",
            "paths": ["~/x/y.csv", "C:\\Users\\bob\\z.csv", "--map /home/bob/w.csv", "file:///home/bob/f"],
            "text": "``` </script> \u202e",
            "key": "hf_abcdefghijklmnop",
        },
    )  # fmt: skip
    columns = {name: [1] * 4 for name in HOSTILE}
    result = exported(make(TEXTS, made, **columns), rows, annotators=hostile_annotators())
    write_export(result, tmp_path / "out", "hf", license="Apache-2.0")
    text = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")

    header = DatasetCard(text).data.to_dict()
    version = header["configs"][0].pop("version")  # of the content, for `datasets`' cache
    assert re.fullmatch(r"\d+\.\d+\.\d+", version)
    assert header == {
        "license": "apache-2.0",
        "size_categories": ["n<1K"],
        "tags": ["preference", "dpo", "denoise"],
        "configs": [
            {
                "config_name": "default",
                "data_files": [{"split": "train", "path": "data/train-*.parquet"}],
            }
        ],
    }
    for secret in ("/home", "bob", "user:pass", "token=abc", "hf_abcdef", "C:\\\\"):
        assert secret not in text
    assert not re.search(
        "[\x00-\x09\x0b-\x1f\x7f-\x9f\u200b-\u200f\u202a-\u202e\u2066-\u2069]", text
    )

    body = text.split("---\n", 2)[2]
    markdown = MarkdownIt("commonmark", {"html": True}).enable("table")
    html = markdown.render(body)
    for tag in ("<script", "<img src=x", "<b>", "<!--", 'javascript:alert(1)"'):
        assert tag not in html
    assert re.findall(r'<a href="([^"]*)"', html) == ["https://arxiv.org/abs/2509.24159"]
    assert re.findall(r'<img src="([^"]*)"', html) == ["weights.svg"]
    table = html[html.index("Annotators") :]
    assert table.count("<tr>") == len(HOSTILE)  # a header, and the row of the unknown one missing
    assert {len(re.findall("<td", row)) for row in re.findall("(?s)<tr>.*?</tr>", table)[1:]} == {5}
    assert "For 1 of 8 annotators the data do not identify a reliability." in text
    assert (tmp_path / "out" / "weights.svg").is_file()


def test_an_unknown_licence_is_not_invented(tmp_path: Path) -> None:
    write_export(exported(make(TEXTS)), tmp_path / "out", "hf")
    text = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert "license" not in yaml.safe_load(text.split("---\n")[1])
    assert "every vote of the source is in a row" in text


def test_only_the_ends_of_many_annotators_are_shown(tmp_path: Path) -> None:
    names = [f"annotator {i:02d}" for i in range(24)]
    many = pl.DataFrame(
        {
            "annotator_id": names,
            "reliability": [i / 24 for i in range(24)],
            "reliability_low": pl.Series([None] * 24, dtype=pl.Float64),
            "reliability_high": pl.Series([None] * 24, dtype=pl.Float64),
            "n_votes": [1] * 24,
            "agreement": [None] * 24,
            "flags": pl.Series([[]] * 24, dtype=pl.List(pl.String)),
        }
    )
    write_export(exported(make(TEXTS), annotators=many), tmp_path / "out")
    text = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert re.findall(r"annotator \d\d", text) == [*names[:5], *names[-5:]]


@pytest.mark.parametrize("text", HOSTILE)
def test_inert_text_reads_as_it_was_written(text: str) -> None:
    html = MarkdownIt("commonmark").render(f"x {card.inert(text, 500)}")
    shown = re.sub(r"</?p>\n?", "", html)
    assert "<" not in shown.replace("&lt;", "")
