"""Every skill of an annotator that crowd-kit estimates: for `audit_real.py`, in its own Python.

python pipelines/crowdkit_skills.py labels.parquet skills.parquet
"""

from __future__ import annotations

import sys

import pandas as pd
from crowdkit.aggregation import GLAD, MACE, DawidSkene, OneCoinDawidSkene, Wawa, ZeroBasedSkill


def main(source: str, target: str) -> None:
    """`item`, `annotator`, `label` to `method`, `annotator`, `skill`; defaults throughout."""
    names = {"item": "task", "annotator": "worker"}
    frame = pd.read_parquet(source).rename(columns=names)[["task", "worker", "label"]]
    frame = frame.drop_duplicates(["task", "worker"], keep=False)
    skills = {
        "Wawa": Wawa().fit(frame).skills_,
        "ZeroBasedSkill": ZeroBasedSkill().fit(frame).skills_,
        "OneCoinDawidSkene": OneCoinDawidSkene().fit(frame).skills_,
        "GLAD": GLAD().fit(frame).alphas_,
    }
    # Its columns are "spams" and "does not", its rows the workers in the order of pandas.factorize.
    honest = MACE().fit(frame).spamming_
    skills["MACE"] = pd.Series(honest[:, 1] / honest.sum(1), pd.factorize(frame["worker"])[1])
    model = DawidSkene().fit(frame)
    diagonal = model.errors_.copy()
    diagonal.index.names = ["worker", "label"]
    classes = diagonal.columns
    right = {key: diagonal.loc[key, key[1]] for key in diagonal.index if key[1] in classes}
    skills["DawidSkene"] = pd.Series(right).groupby(level=0).mean()
    workers = frame["worker"].unique()
    rows = []
    for method, values in skills.items():
        rows += [
            {"method": method, "annotator": str(worker), "skill": float(values.get(worker, "nan"))}
            for worker in workers
        ]
    pd.DataFrame(rows).to_parquet(target)


if __name__ == "__main__":
    main(*sys.argv[1:])
