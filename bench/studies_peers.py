"""The first system's merge of data packages, re-stated: pandas, one site after the other.

It was made for pandas 2, where text is Python objects; pandas 3 holds it in Arrow, which is several
times faster. Both are measured.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from bench._common import timed


def original(contributions: Path, out: Path) -> None:
    """As it ran: text as objects."""
    pd.set_option("future.infer_string", False)
    pd.set_option("mode.string_storage", "python")
    merge(contributions, out)


def arrow(contributions: Path, out: Path) -> None:
    """The same code on pandas 3, with its own way of holding text."""
    merge(contributions, out)


def merge(contributions: Path, out: Path) -> None:
    """Read every site's file, and sum all that is known again at each; then Parquet and CSV."""
    with timed():
        merged = pd.DataFrame()
        for path in sorted(contributions.glob("*.parquet")):
            merged = expand_and_concat(merged, path, path.stem)
        merged.to_parquet(out / "aggregate.parquet", index=False)
        merged.to_csv(out / "aggregate.csv", index=False)


def expand_and_concat(known: pd.DataFrame, path: Path, site: str) -> pd.DataFrame:
    """A site's rows go in twice, without and with its name."""
    everyone = pd.read_parquet(path)
    own = everyone.copy()
    everyone["site"] = pd.Series([None] * len(everyone)).astype("string")
    own["site"] = pd.Series([site] * len(own)).astype("string")
    both = pd.concat([everyone, own]).reset_index(drop=True)
    keys = [name for name in both.columns if name != "cnt"]
    summed = pd.concat([known, both]).groupby(keys, dropna=False).agg({"cnt": "sum"})
    ordered = summed.sort_values(by=["cnt", "site"], ascending=False, na_position="first")
    return ordered.reset_index()[["cnt", *keys]]
