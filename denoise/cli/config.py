"""A command's options from a YAML file: its keys are the options, and what is typed wins."""

from __future__ import annotations

from difflib import get_close_matches
from typing import Any

import typer

from denoise.places import Place, failed, place

CODE = ("train_command", "trust_remote_code")
"""What runs other people's code, and so needs a word at the command line."""


def from_config(context: typer.Context, source: str) -> str:
    """DATA as it is, or what a configuration file says it is, whose other keys become defaults.

    The library that parses the command line turns the values into the options' types. Paths are
    seen from the directory in which the command is typed.

    Raises:
        InputError: the file is no mapping, has unknown keys, or names no data.
    """
    path = place(source)
    if path.suffix not in (".yaml", ".yml"):
        return source
    from denoise.errors import Fault, raise_any, refuse

    options = {
        flag.lstrip("-").replace("-", "_"): parameter.name
        for parameter in context.command.params
        for flag in parameter.opts
        if flag.startswith("--")
    }
    given = _read(path)
    known = {"data", *options} - {"allow_commands", "help"}
    faults = []
    for key in given:
        if key not in known:
            near = get_close_matches(str(key), known, 1)
            fix = f"{near[0]} is meant?" if near else f"there are {', '.join(sorted(known))}"
            faults.append(Fault("there is no such option", path, found=key, fix=fix))
    raise_any(faults)
    if "data" not in given:
        refuse("names no data", file=path, fix="add `data: FILE_OR_DIRECTORY`")
    context.default_map = {
        options[key]: _as_typed(value)
        for key, value in given.items()
        if key != "data" and value is not None
    }
    return str(given["data"])


def refuse_code(context: typer.Context, allowed: bool) -> None:
    """Refuse a file's command, or its wish to run a model's code, that was not asked for by hand.

    Raises:
        InputError: there is one, and `--allow-commands` was not given.
    """
    from denoise.errors import Fault, raise_any
    from denoise.plain import command_without_secrets

    raise_any(
        Fault(
            f"the configuration file sets {name}, which runs other people's code",
            found=command_without_secrets(given) if isinstance(given, str) else given,
            fix="read it, and give --allow-commands",
        )
        for name, given in ((name, context.params[name]) for name in CODE)
        if not allowed
        and context.default_map
        and context.default_map.get(name)
        and context.get_parameter_source(name).name == "DEFAULT_MAP"
    )


def _read(path: Place) -> dict[str, Any]:
    import yaml

    from denoise.errors import refuse

    try:
        given = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        failed(error, path)
        refuse("cannot be read", file=path, found=error.strerror, fix="check the path")
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        line = getattr(getattr(error, "problem_mark", None), "line", None)
        line = None if line is None else line + 1
        found = getattr(error, "problem", None) or str(error)
        refuse("is not YAML", file=path, line=line, found=found, fix="write `option: value` lines")
    if not isinstance(given, dict):
        refuse("is no mapping", file=path, fix="write `option: value` lines, one an option")
    return given


def _as_typed(value: object) -> object:
    """A value as it is typed; options given several times are a list, or a mapping of KEY=VALUE."""
    if isinstance(value, dict):
        import json

        return [f"{key}={v if isinstance(v, str) else json.dumps(v)}" for key, v in value.items()]
    if isinstance(value, list):
        return [str(each) for each in value]
    return value if isinstance(value, bool) else str(value)
