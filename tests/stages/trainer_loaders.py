"""Read an export with the code of the trainer it is for, and print what that makes of the rows.

    python trainer_loaders.py FORMAT TOKENIZER DIRECTORY...

One line a directory, a JSON list of its rows: prompt, chosen and rejected, as text or messages. Run
with the trainers on the path (tests/loaders.txt). The modules that read data are the trainers' own,
unchanged; where a package's `__init__` imports what reading data does not need (torchaudio,
torchao, the hub of ms-swift), the package stands there without it.
"""

from __future__ import annotations

import json
import shlex
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import yaml
from datasets import Dataset, load_dataset
from transformers import AutoTokenizer


def without_init(*names: str) -> None:
    """Make packages whose modules can be imported though their `__init__` is not run."""
    for name in names:
        places = (Path(place).joinpath(*name.split(".")) for place in sys.path)
        module = types.ModuleType(name)
        module.__path__ = [str(next(place for place in places if place.is_dir()))]
        sys.modules[name] = module


def rows_of(directory: Path, file: str) -> Dataset:
    return load_dataset("json", data_files=str(directory / file), split="train")


def llamafactory(directory: Path, tokenizer: Any) -> Iterator[list[Any]]:
    without_init("llamafactory.data")
    from llamafactory.data.converter import get_dataset_converter
    from llamafactory.data.parser import get_dataset_list

    settings = yaml.safe_load((directory / "llamafactory.yaml").read_text())
    (attributes,) = get_dataset_list([settings["dataset"]], str(directory))
    converter = get_dataset_converter(attributes.formatting, attributes, SimpleNamespace())
    assert attributes.ranking
    for row in rows_of(directory, attributes.dataset_name):
        read = converter(row)
        system = [{"role": "system", "content": read["_system"]}] if read["_system"] else []
        chosen, rejected = read["_response"]
        yield [system + read["_prompt"], [chosen], [rejected]]


def axolotl(directory: Path, tokenizer: Any) -> Iterator[list[Any]]:
    from axolotl.prompt_strategies.dpo import chat_template, user_defined
    from axolotl.utils.dict import DictDefault

    settings = DictDefault(yaml.safe_load((directory / "axolotl.yaml").read_text()))
    data = settings["datasets"][0]
    if data["type"] == "chat_template.default":
        transform, _ = chat_template.default(settings)
        options = {"tokenizer": tokenizer}
    else:
        transform, options = user_defined.default(settings), {}
    for row in rows_of(directory, data["path"]):
        read = transform(dict(row), **options)
        yield [read["prompt"], read["chosen"], read["rejected"]]


def openrlhf(directory: Path, tokenizer: Any) -> Iterator[list[Any]]:
    from openrlhf.datasets.reward_dataset import RewardDataset

    words = shlex.split((directory / "openrlhf.sh").read_text())
    given = {
        word.removeprefix("--data."): True if after.startswith("--") else after
        for word, after in zip(words, [*words[1:], "--"], strict=True)
        if word.startswith("--data.")
    }
    strategy = SimpleNamespace(args=SimpleNamespace(data=SimpleNamespace(**given)))
    rows = rows_of(directory, given["dataset"])
    read = RewardDataset(rows, tokenizer, 512, strategy, is_dpo=True, num_processors=None)
    yield from map(list, zip(read.prompts, read.chosens, read.rejects, strict=True))


def ms_swift(directory: Path, tokenizer: Any) -> Iterator[list[Any]]:
    without_init("swift", "swift.dataset")
    from swift.dataset.preprocessor import AutoPreprocessor

    words = shlex.split((directory / "swift.sh").read_text())
    rows = rows_of(directory, words[words.index("--dataset") + 1])
    for row in AutoPreprocessor()(rows, strict=True):
        chosen, rejected = (
            [{"role": turn["role"], "content": turn["content"]} for turn in row[name]]
            for name in ("messages", "rejected_messages")
        )
        assert chosen[:-1] == rejected[:-1]
        yield [chosen[:-1], chosen[-1:], rejected[-1:]]


def torchtune(directory: Path, tokenizer: Any) -> Iterator[list[Any]]:
    without_init("torchtune", "torchtune.data", "torchtune.modules")
    from torchtune.data._messages import ChosenRejectedToMessages

    data = yaml.safe_load((directory / "torchtune.yaml").read_text())["dataset"]
    assert data["_component_"] == "torchtune.datasets.preference_dataset"
    transform = ChosenRejectedToMessages()
    for row in rows_of(directory, data["data_files"]):
        chosen, rejected = (
            [{"role": message.role, "content": message.text_content} for message in side]
            for side in transform(row).values()
        )
        assert chosen[:-1] == rejected[:-1]
        yield [chosen[:-1], chosen[-1:], rejected[-1:]]


def main() -> None:
    name, tokenizer, *directories = sys.argv[1:]
    read = globals()[name.replace("-", "_")]
    for directory in directories:
        rows = read(Path(directory), AutoTokenizer.from_pretrained(tokenizer))
        print("read " + json.dumps(list(rows)))


if __name__ == "__main__":
    main()
