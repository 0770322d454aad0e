"""The commands and the options that several of them share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from denoise.places import Place, place, scheme_of

if TYPE_CHECKING:
    from denoise.cluster import Workers
    from denoise.dataset import Dataset
    from denoise.errors import Fault

claims = ExitStack()
"""What this command alone may write to; `main` lets go of it."""

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Find the wrong labels in preference data, and write a weighted dataset.\n\n"
    "import → score → em → export, or `run` for rounds with training; `audit` for annotators;\n"
    "`denoise demo` shows them.",
)


def lasting_place(name: str) -> Place:
    """The place of that name.

    Raises:
        InputError: it is of no known store, or would be gone with this command.
    """
    from denoise.errors import refuse

    if scheme_of(str(name)) == "memory":
        refuse("is gone when the command ends", file=name, fix="memory:// is for programs")
    return place(name)


path_option = partial(typer.Option, parser=lasting_place, metavar="PATH")
"""An option that names a file or directory: a path, or the URL of a store."""

Source = Annotated[
    str,
    typer.Argument(
        metavar="DATA",
        help="A directory that `denoise import` made, or anything that it understands.",
        show_default=False,
    ),
]
Map = Annotated[
    list[str],
    typer.Option(
        "--map", metavar="ROLE=COLUMN", help="Read ROLE (chosen, annotator, …) from COLUMN."
    ),
]
Aspect = Annotated[str, typer.Option(help="The question, where annotators answered several.")]
Split = Annotated[str | None, typer.Option(help="The split of a dataset from the hub or on disk.")]
Texts = Annotated[Path | None, path_option(help="The table of texts that long votes refer to.")]
Engine = Annotated[
    str, typer.Option(help="local, or ray: on a Ray cluster ('denoise-prefs[ray]').")
]
RayAddress = Annotated[
    str | None,
    typer.Option(metavar="HOST:PORT", help="The cluster; one on this machine where not given."),
]
WorkerCount = Annotated[
    int | None, typer.Option("--workers", help="ray: models that score side by side.")
]
WorkerCpus = Annotated[int | None, typer.Option("--worker-cpus", help="ray: cores of each.")]
WorkerGpus = Annotated[int | None, typer.Option("--worker-gpus", help="ray: GPUs of each.")]
Format = Annotated[
    str | None,
    typer.Option("--format", help="The form of the source (mturk, wide, …), if not obvious."),
]


def cluster(
    engine: str, address: str | None, count: int | None, cpus: int | None, gpus: int | None
) -> Workers | None:
    """The workers that the options ask for; None without Ray.

    Raises:
        InputError: an option is unknown, out of range, or means nothing without Ray.
    """
    from denoise.cluster import Workers, check_engine
    from denoise.errors import Fault, raise_any

    check_engine(engine, address)
    if engine == "ray":
        return Workers(address, count, cpus, gpus)
    given = {"--workers": count, "--worker-cpus": cpus, "--worker-gpus": gpus}
    raise_any(
        Fault(f"{name} means nothing without --engine ray")
        for name, value in given.items()
        if value is not None
    )
    return None


def claim(out: Place, made_by: str | None = None) -> None:
    """Keep other commands from writing to `out` until this one ends.

    Where it is a directory, `made_by` is the command that alone may have made what is there.

    Raises:
        InputError: one of them is writing there now, or what is there is something else.
    """
    from denoise import tables
    from denoise.locks import locked

    claims.enter_context(locked(out))
    if made_by is not None:
        tables.check_out(out, made_by)


def check_apart(
    directories: Mapping[str, Place | None],
    inputs: Mapping[str, str | Place | None],
    files: Mapping[str, Place | None] | None = None,
) -> list[Fault]:
    """Faults of outputs that would take the place of one another, or of what is read, by option.

    An output is one of the directories, which are replaced with all that lies in them, or a file.
    """
    from denoise.errors import Fault
    from denoise.places import holds, is_pattern, is_remote

    outputs = {**(files or {}), **directories}
    given = {option: out for option, out in outputs.items() if out is not None}

    def replaces(option: str, where: Place) -> bool:
        out = given[option]
        return holds(out, where) and (option in directories or holds(where, out))

    pairs = [
        (option, one)
        for (one, first), (option, second) in combinations(given.items(), 2)
        if replaces(one, second) or replaces(option, first)
    ]
    for name, source in inputs.items():
        where = None if source is None else place(source)
        pairs += [
            (option, name)
            for option in given
            if where is not None
            and replaces(option, where)
            # else it is the name of something on the hub
            and (is_remote(where) or where.exists() or is_pattern(where))
        ]
    return [
        Fault(
            f"{option} would take the place of {other}",
            file=given[option],
            fix=f"give another {option}",
        )
        for option, other in pairs
    ]


def load(
    source: str,
    map_: Sequence[str],
    aspect: str,
    split: str | None,
    texts: Place | None,
    format_: str | None = None,
) -> Dataset:
    """The data, imported on the way where `import` did not make them, and what is to be said of it.

    Raises:
        InputError: a --map that is not ROLE=COLUMN, or what `import_data` refuses.
    """
    from denoise.cli.console import say
    from denoise.errors import Fault, raise_any
    from denoise.importers import import_data

    wrong = [
        Fault("--map is not ROLE=COLUMN", found=pair, fix="for instance --map chosen=better")
        for pair in map_
        if not all(pair.partition("="))
    ]
    roles = [pair.partition("=")[0] for pair in map_]
    twice = {role for role in roles if roles.count(role) > 1}
    wrong += [Fault("--map gives a role twice", found=role) for role in sorted(twice)]
    raise_any(wrong)
    columns = {role: column for role, _, column in (pair.partition("=") for pair in map_)}
    data = import_data(
        source, columns=columns or None, aspect=aspect, split=split, texts=texts, format=format_
    )
    for note in data.notes:
        say(note)
    return data


def import_words(
    map_: Sequence[str], aspect: str, split: str | None, texts: Path | None
) -> list[str]:
    """The same options as words of the next command, which reads the same source."""
    words = [word for pair in map_ for word in ("--map", pair)]
    words += ["--aspect", aspect] if aspect != "overall" else []
    words += ["--split", split] if split else []
    return words + (["--texts", str(texts)] if texts else [])


def key_values(option: str, given: Sequence[str]) -> dict[str, Any]:
    """KEY=VALUE pairs of that option; a value is JSON (a number, true, an object), or else text.

    Raises:
        InputError: one is not KEY=VALUE, or a key is given twice.
    """
    import json

    from denoise.errors import Fault, raise_any
    from denoise.plain import without_credentials

    wrong = []
    values: dict[str, Any] = {}
    for text in given:
        name, sign, value = text.partition("=")
        key = name.strip().replace("-", "_")
        if not sign:
            fix = "a name, an equals sign and a value"
            found = without_credentials(text)
            wrong.append(Fault(f"{option} is not KEY=VALUE", found=found, fix=fix))
        elif key in values:
            wrong.append(Fault(f"{option} {key} is given twice", fix="give it once"))
        try:
            values[key] = json.loads(value)
        except ValueError:
            values[key] = value
    raise_any(wrong)
    return values


def _version(wanted: bool) -> None:
    if wanted:
        from denoise import __version__

        typer.echo(f"denoise {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Say the version.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show where an error comes from.")] = False,
) -> None:
    """Options of the command as a whole; `--debug` may stand anywhere (see `main`)."""


# Each module adds its command to `app`; the order is that of the help.
from denoise.cli import import_, score, em, export, audit, train, run, demo  # noqa: E402, F401, I001
