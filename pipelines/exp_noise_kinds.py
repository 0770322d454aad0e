"""Which kinds of noise does EM cope with, beyond the one that it assumes?

    python pipelines/exp_noise_kinds.py

Six kinds (`denoise.simulate.simulate_noise`), each with a fifth of the votes wrong: random,
annotator-specific, class-dependent, drawn by the longer response, drawn by the response shown
first, and drifting. 50 annotators, 2,000 pairs, margins as they are; 1 to 8 votes a pair.
"""

from __future__ import annotations

from experiment import (
    AUC,
    ERROR,
    lines,
    markdown,
    over_seeds,
    settings,
    sweep,
    ticks,
    value,
    wide,
    write,
)

from denoise.plot import Panel
from denoise.simulate import NOISES, simulate_noise


def main() -> None:
    given = settings(__doc__, ["paper", "auto", "no-pool", "ignore"])
    n_pairs = 500 if given.quick else 2000
    votes = [1, 4] if given.quick else [1, 2, 4, 8]
    cases = [{"noise": kind, "votes_a_pair": n} for kind in NOISES for n in votes]
    rows = sweep(
        cases,
        given,
        lambda case, seed: simulate_noise(
            case["noise"], n_pairs, 50, case["votes_a_pair"], seed=seed
        ),
    )
    table = over_seeds(rows, ["noise", "votes_a_pair", "mode"], [ERROR, AUC])
    found = (
        f"{kind} "
        + ", ".join(
            f"{value(table, AUC, mode=mode, noise=kind, votes_a_pair=4):.3f}"
            for mode in given.modes
        )
        for kind in NOISES
    )
    write(
        "noise_kinds",
        "Kinds of noise",
        given,
        reading=f"AUC for the wrong labels with 4 votes a pair, modes {', '.join(given.modes)}: "
        + "; ".join(found)
        + ".",
        body=[
            f"## {column.title}\n\n" + markdown(wide(table, ["noise", "votes_a_pair"], column))
            for column in (AUC, ERROR)
        ],
        table=table,
        panels=[
            Panel(
                kind,
                "votes a pair",
                "AUC of 1 − confidence",
                lines(table.filter(noise=kind), "votes_a_pair", AUC),
                ticks(votes),
                ratio=True,
            )
            for kind in NOISES
        ],
    )


if __name__ == "__main__":
    main()
