"""Imports point one way, and heavy libraries are imported only when they are used."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "denoise"

# Lower layers come first; a module may import from its own layer and from those before it.
LAYERS = [
    {"__init__", "plain"},
    {"errors"},
    {"places"},
    {"schema"},
    {"losses", "noise", "locks", "published", "parquet", "tables", "tokenise", "plot", "compiled"},
    {"pooled", "crowd"},
    {"quality"},
    {"dataset", "scores", "parts", "processes", "progress", "simulate", "cluster"},
    {"importers"},
    {"scorers", "trainers"},
    {"stages"},
    {"report"},
    {"rounds"},
    {"cli", "__main__"},
]
HEAVY = {
    "torch",
    "transformers",
    "vllm",
    "trl",
    "peft",
    "datasets",
    "accelerate",
    "httpx2",
    "anyio",
    "ray",
    "upath",
    "fsspec",
}
MAY_BE_HEAVY = {
    *(f"scorers/{name}.py" for name in ("transformers", "reward", "server", "endpoint")),
    *(f"trainers/{name}.py" for name in ("objectives", "soft_labels", "fit")),
}


def layer(name: str) -> int:
    return next(level for level, names in enumerate(LAYERS) if name in names)


def modules() -> list[Path]:
    return sorted(p for p in PACKAGE.rglob("*.py"))


def top(path: Path) -> str:
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def imports(tree: ast.AST, names: set[str]) -> set[str]:
    """Modules that a tree imports, `denoise.x` for what comes from the package itself."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module == "denoise":
            found |= {f"denoise.{alias.name}" for alias in node.names if alias.name in names}
        elif isinstance(node, ast.ImportFrom):
            found.add(node.module or "")
    return found


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_a_module_imports_only_from_its_own_layer_and_below(path):
    every = {top(p) for p in modules()}
    # The package's own __init__ names the public functions, for a type checker and lazily.
    if path == PACKAGE / "__init__.py":
        return
    for name in imports(ast.parse(path.read_text()), every):
        if name.startswith("denoise."):
            assert layer(name.split(".")[1]) <= layer(top(path)), name


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_heavy_libraries_are_not_imported_at_the_top_of_a_module(path):
    if path.relative_to(PACKAGE).as_posix() in MAY_BE_HEAVY:
        return
    tree = ast.parse(path.read_text())
    at_top = ast.Module([node for node in tree.body if not isinstance(node, ast.If)], [])
    for node in at_top.body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            assert not {name.split(".")[0] for name in imports(node, set())} & HEAVY


def test_every_file_is_readable_at_one_sitting():
    long = {str(p): n for p in modules() if (n := len(p.read_text().splitlines())) > 420}
    assert not long


def test_help_imports_no_heavy_library_and_is_quick():
    program = (
        "import sys, time, denoise.cli\n"
        "try: denoise.cli.main(['--help'])\n"
        "except SystemExit: pass\n"
        "loaded = {m.split('.')[0] for m in sys.modules}\n"
        "heavy = loaded & {'torch', 'datasets', 'transformers', 'polars', 'numba', 'numpy'}\n"
        "print('heavy', sorted(heavy), 'cpu', time.process_time())\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    last = done.stdout.splitlines()[-1]
    assert last.startswith("heavy [] cpu"), done.stdout + done.stderr
    assert float(last.split()[-1]) < 0.3
