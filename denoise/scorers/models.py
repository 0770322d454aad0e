"""Which model is meant, what identifies it, and how it is loaded."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NoReturn

from denoise import places, published, schema, tables
from denoise.errors import RunError, refuse
from denoise.places import scheme_of
from denoise.plain import plain, quote, without_credentials

_LONGEST_NAME = 255
_ADAPTER = "adapter_model.safetensors"
_CONTENT = ("*.safetensors", "*.json", "*.jinja", "*.model", "*.txt", "*.py")


@dataclass(frozen=True)
class ModelSource:
    """A model that can be loaded: `identity` changes with its weights, tokenizer or template.

    `directory` is local; `gguf` names a file in it; `base` is the model that an adapter extends;
    `given` is the name as it was typed.
    """

    name: str
    directory: Path
    identity: str
    gguf: str | None = None
    base: ModelSource | None = None
    given: str = ""

    def tokenizer_options(self, trust_remote_code: bool) -> dict[str, Any]:
        """The keywords for transformers' `from_pretrained`."""
        options: dict[str, Any] = {"trust_remote_code": trust_remote_code}
        return options | ({"gguf_file": self.gguf} if self.gguf else {})


def resolve(
    name: str, announce: Callable[[str], None] = lambda _: None, weights: bool = True
) -> ModelSource:
    """Find a model: a directory, a PEFT adapter's directory, a `.gguf` file, or a hub id.

    The URL of a store names one of the first three, which is fetched into a cache.

    `announce` is told which base model an adapter names before that is followed. Without `weights`
    those of a hub id are not fetched: a tokenizer is all that is needed of it.

    Raises:
        InputError: nothing of that name, or what is there is no model.
    """
    return replace(_resolve(name, announce, weights), given=name)


def _resolve(name: str, announce: Callable[[str], None], weights: bool) -> ModelSource:
    if scheme_of(name):
        return _resolve(str(published.kept_copy(places.place(name))), announce, weights)
    path = Path(name).expanduser()
    shown = without_credentials(name)
    if len(name) > _LONGEST_NAME:
        refuse("neither a local directory nor a hub id", found=shown, fix="check the name")
    if path.is_file():
        if path.suffix != ".gguf":
            refuse("is a file, and not a .gguf model", file=path, fix="give a model's directory")
        return ModelSource(path.name, path.parent, tables.file_hash(path), gguf=path.name)
    if path.is_dir():
        return _directory(path.resolve().name, path, _identity(path), announce, weights)
    if path.is_absolute() or name.startswith((".", "~")) or name.count("/") > 1:
        refuse("there is no such model", file=shown, fix="give a directory, a .gguf or a hub id")
    snapshot = _download(name, weights)
    return _directory(name, snapshot, snapshot.name, announce, weights)


def _directory(
    name: str, path: Path, identity: str, announce: Callable[[str], None], weights: bool
) -> ModelSource:
    adapter = path / "adapter_config.json"
    if adapter.is_file():
        base_name = _json(adapter).get("base_model_name_or_path")
        if not isinstance(base_name, str) or not base_name:
            refuse(
                "the adapter names no base model", file=adapter, column="base_model_name_or_path"
            )
        if weights and not (path / _ADAPTER).is_file():
            # PEFT would read the pickle, which is no part of the identity.
            refuse(
                f"the adapter has no {_ADAPTER}, and weights are read from safetensors only",
                file=path,
                fix="if you trust its adapter_model.bin, PeftModel.from_pretrained(base, "
                "directory).save_pretrained(directory) writes it",
            )
        base_shown = without_credentials(base_name)
        announce(f"{name} is an adapter; its base model is {base_shown}")
        base = resolve(base_name, announce, weights)
        identity = schema.digest(identity, base.identity).hex()
        return ModelSource(name, path, identity, base=base)
    if not (path / "config.json").is_file():
        fix = "give the directory that save_pretrained wrote"
        refuse("the directory holds no config.json", file=path, fix=fix)
    return ModelSource(name, path, identity)


def _json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        refuse("is not JSON", file=path, found=str(error), fix="write it again")


def _identity(path: Path) -> str:
    files = sorted({file for pattern in _CONTENT for file in path.glob(pattern)})
    return schema.digest(*(f"{file.name}={tables.file_hash(file)}" for file in files)).hex()


def _download(repo: str, weights: bool) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError

    wanted = [pattern for pattern in _CONTENT if weights or pattern != "*.safetensors"]
    try:
        return Path(snapshot_download(repo, allow_patterns=wanted))
    except HFValidationError:
        shown = without_credentials(repo)
        refuse("neither a local directory nor a hub id", found=shown, fix="check the name")
    except Exception as error:  # the hub client raises many kinds, network errors among them
        reason = without_credentials(str(error)).splitlines()[0]
        shown = quote(without_credentials(repo))
        refuse(
            f"there is no local model {shown}, and it could not be fetched from the hub",
            found=reason,
            fix="check the name and the connection, or give a local directory",
        )


def check_vocabulary(highest: int, size: int, is_reward: bool = False) -> None:
    """Refuse token ids up to `highest` where a model has `size` embeddings.

    Raises:
        InputError: the highest is not among them.
    """
    if highest >= size:
        fix = "tokenizer and model do not belong together"
        refuse(
            f"token id {highest} is outside the model's vocabulary of {size}",
            fix=fix if is_reward else "policy and reference must share the tokenizer",
        )


def load_tokenizer(source: ModelSource, trust_remote_code: bool = False) -> Any:
    """The tokenizer of a model; an adapter without one of its own has its base's."""
    from transformers import AutoTokenizer

    options = source.tokenizer_options(trust_remote_code)
    if source.base and not (source.directory / "tokenizer_config.json").is_file():
        return load_tokenizer(source.base, trust_remote_code)
    try:
        return AutoTokenizer.from_pretrained(source.directory, **options)
    except Exception as error:
        refuse("its tokenizer cannot be loaded", file=source.directory, found=str(error))


def load_model(source: ModelSource, dtype: str, device: str, trust_remote_code: bool) -> Any:
    """The causal language model in evaluation mode, an adapter merged into its base.

    Raises:
        InputError: the weights cannot be loaded (cut short, no safetensors, no language model).
        RunError: they do not fit into memory.
    """
    if source.base:
        return _merged(source, load_model(source.base, dtype, device, trust_remote_code))
    model, missing = _load("AutoModelForCausalLM", source, dtype, device, trust_remote_code)
    if missing:
        fix = "give a language model; a reward model goes with --backend reward"
        lacks = f"is no language model: its weights lack {', '.join(missing[:3])}"
        refuse(lacks, file=source.directory, fix=fix)
    return model


def call_plain(model: Any, source: ModelSource) -> None:
    """Let a model from a `.gguf` file be saved: its weights are plain once they are loaded.

    Whatever still calls them quantised would be believed, by transformers and by who reads them.
    """
    if source.gguf or (source.base and source.base.gguf):
        del model.config.quantization_config
        model.is_quantized, model.hf_quantizer = False, None


def load_reward_model(source: ModelSource, dtype: str, device: str, trust_remote_code: bool) -> Any:
    """The sequence classification model with one label, in evaluation mode, an adapter merged.

    Raises:
        InputError: the weights cannot be loaded, lack the head (a language model's do, where no
            adapter brings one), or have more labels than one.
        RunError: they do not fit into memory.
    """
    model, missing = _classifier(source, dtype, device, trust_remote_code, {})
    labels = model.config.num_labels
    problem = f"its weights lack {', '.join(missing[:3])}" if missing else f"it has {labels} labels"
    if missing or labels != 1:
        fix = "give a model for sequence classification with one label"
        refuse(f"is no reward model: {problem}", file=source.directory, fix=fix)
    return model


def _classifier(
    source: ModelSource,
    dtype: str,
    device: str,
    trust_remote_code: bool,
    adapted: Mapping[str, tuple[int, ...]],
) -> tuple[Any, list[str]]:
    """The model, and which of its weights neither the checkpoint nor an adapter on top brings.

    `adapted` has the shapes of the weights that adapters bring; a head's first is the labels.
    """
    if source.base:
        brought = {**_adapted(source.directory), **adapted}
        base, missing = _classifier(source.base, dtype, device, trust_remote_code, brought)
        return _merged(source, base), missing
    heads = {shape[0] for name, shape in adapted.items() if name in _HEADS}
    labels = {"num_labels": heads.pop()} if len(heads) == 1 else {}
    kind = "AutoModelForSequenceClassification"
    model, missing = _load(kind, source, dtype, device, trust_remote_code, **labels)
    return model, sorted(set(missing) - set(adapted))


def _load(
    kind: str,
    source: ModelSource,
    dtype: str,
    device: str,
    trust_remote_code: bool,
    **options: Any,
) -> tuple[Any, list[str]]:
    """A model of transformers' class `kind`, and which of its weights the checkpoint lacks."""
    import torch
    import transformers
    from transformers.utils import logging

    options |= source.tokenizer_options(trust_remote_code)
    options |= {} if source.gguf else {"use_safetensors": True}
    wanted = "auto" if dtype == "auto" else getattr(torch, dtype)
    said = logging.get_verbosity()
    logging.set_verbosity_error()  # what is missing is our own to judge, and to say
    try:
        model, info = getattr(transformers, kind).from_pretrained(
            source.directory, dtype=wanted, output_loading_info=True, **options
        )
    except Exception as error:
        _refuse_weights(source, "the model cannot be loaded", error)
    finally:
        logging.set_verbosity(said)
    return model.eval().requires_grad_(False).to(device), sorted(info["missing_keys"])


_HEADS = ("score.weight", "classifier.weight")
"""Where PEFT looks for the head of a sequence classification model, which it saves whole."""


def _adapted(directory: Path) -> dict[str, tuple[int, ...]]:
    """The shapes of the weights in an adapter's file by their names in the base model."""
    from safetensors import SafetensorError, safe_open

    prefix = "base_model.model."
    file = directory / _ADAPTER
    try:
        with safe_open(file, framework="np") as weights:
            names = [name for name in weights.keys() if name.startswith(prefix)]  # noqa: SIM118
            return {n[len(prefix) :]: tuple(weights.get_slice(n).get_shape()) for n in names}
    except (OSError, SafetensorError) as error:
        refuse("the adapter's weights cannot be read", file=file, found=str(error))


def _merged(source: ModelSource, base: Any) -> Any:
    from peft import PeftModel

    try:
        return PeftModel.from_pretrained(base, source.directory).merge_and_unload().eval()
    except Exception as error:
        _refuse_weights(source, "the adapter cannot be merged", error)


def _refuse_weights(source: ModelSource, what: str, error: Exception) -> NoReturn:
    found = plain(f"{type(error).__name__}: {error}", 200)
    if isinstance(error, MemoryError) or "OutOfMemory" in type(error).__name__:
        raise RunError(f"{source.directory}: {what}: {found}") from error
    refuse(f"{what} ({found})", file=source.directory, fix="save or fetch the model again")
