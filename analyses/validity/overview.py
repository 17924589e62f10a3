"""Every method against every kind of ground truth, in one table made from the saved ones."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import guessing
import null_models
import pandas as pd
import tuned

KINDS = ("wired decoders", "wired encoder-decoders", "trained organisms", "nothing to find")
# By row of the table, how the names of a method begin in the tables of each kind.
METHODS = {
    "ablation of layers, sublayers and heads": ("skip ", "zero ", "mean ", "resample ", "noise "),
    "logit lens, decoder lens": ("logit lens", "decoder lens"),
    "prediction depth": ("prediction depth",),
    "tuned lens": ("tuned lens",),
    "half-effect depth (emergence)": ("half-effect depth", guessing.EMERGENCE),
    "activation patching": ("patch ", guessing.PATCHED),
    "direct attribution": ("direct attribution",),
    "attribution patching": ("attribution patching",),
    "path patching": ("direct paths", guessing.PATHS),
    "head scores": ("head scores",),
    "similarity": ("similarity",),
    "removal orders": ("removal",),
}
NONE = "-"
NEAR = 0.5  # layers
HALF, NEARLY = 0.5, 0.9  # of the items


def table(results: Path) -> str:
    """The table in Markdown: rows are methods, columns are kinds of ground truth.

    A cell says how many answers are as planted, of how many; of models with nothing to find, of
    how many models something is claimed.
    """
    read = {path.stem: pd.read_parquet(path) for path in results.glob("*.parquet")}
    columns = [
        _planted_counter(pd.concat([_wired_tuned_matches(read), read["planted"]])),
        _planted_counter(read["planted_seq2seq"]),
        _planted_counter(
            pd.concat([_trained_matches(read), _tuned_matches(read), read["trained_methods"]])
        ),
        _claim_counter(read),
    ]
    lines = [["method", *KINDS], ["---"] * (len(KINDS) + 1)]
    lines += [[method, *(told(starts) for told in columns)] for method, starts in METHODS.items()]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _planted_counter(found: pd.DataFrame) -> Callable[[tuple[str, ...]], str]:
    def told(starts: tuple[str, ...]) -> str:
        mine = found.loc[found["method"].str.startswith(starts), "same"].dropna()
        return f"{int(mine.sum())} of {len(mine)}" if len(mine) else NONE

    return told


def _trained_matches(read: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """Critical sets exactly as planted; depths by ablation and lens within half a layer."""
    layers = read["trained_layers"].dropna(subset=["significant"])
    same = layers["needed"] == layers["significant"].astype(bool)
    exact = same.groupby([layers["model"], layers["capability"]]).all()
    sets = pd.DataFrame({"method": "skip layer", "same": exact.to_numpy()})
    depths = read["trained_depths"]
    near = (depths["found"] - depths["planted"]).abs() < NEAR
    return pd.concat([sets, pd.DataFrame({"method": depths["measure"], "same": near})])


def _tuned_matches(read: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """Match of each lens, organism and capability: is the planted layer alone read from?"""
    rows = []
    table = read["tuned_readings"]
    for (_, lens, _), group in table.loc[table["model"].isin(tuned.ORGANISMS)].groupby(
        ["model", "lens", "capability"]
    ):
        after, before = (group.loc[group["readable"] == yes, "on_top"] for yes in (True, False))
        method = "logit lens" if lens == "logit" else "tuned lens"
        rows.append({"method": method, "same": after.min() > HALF > before.max()})
    return pd.DataFrame(rows)


def _wired_tuned_matches(read: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """Match of each tuned lens and capability of the wired model.

    Before the answer was brought to where it reads, no more than by guessing are on top, and
    nearly all once it is let out.
    """
    table, rows = read["tuned_readings"], []
    wired = table.loc[(table["model"] == tuned.WIRED) & (table["lens"] != "logit")]
    for _, group in wired.groupby(["lens", "capability"]):
        before = group.loc[~group["there"].astype(bool), "on_top"].max()
        after = group.loc[group["readable"], "on_top"].min()
        rows.append(
            {"method": "tuned lens", "same": before < null_models.CHANCE and after > NEARLY}
        )
    return pd.DataFrame(rows)


def _claim_counter(read: dict[str, pd.DataFrame]) -> Callable[[tuple[str, ...]], str]:
    """The models of each case, in order, of which something is claimed."""
    ablated = read["nothing"].assign(method="skip layer", claims=read["nothing"]["significant"])
    untrained = read["tuned_untrained"].assign(case=null_models.RANDOM, method="tuned lens")
    untrained["claims"] = untrained["claimed"]
    every = pd.concat([ablated, untrained, read["nothing_methods"]])

    def told(starts: tuple[str, ...]) -> str:
        mine = every.loc[every["method"].str.startswith(starts)]
        cases = mine.groupby("case", sort=False)["claims"]
        return "; ".join(f"{(said > 0).sum()} of {len(said)}" for _, said in cases) or NONE

    return told
