"""The compact table that each analysis' result shows in a notebook."""

from __future__ import annotations

import re
from functools import partial

import numpy as np
import pandas as pd

from layerwise.analyses.attribution.tables import HEADS, SUBLAYERS
from layerwise.analyses.heads.tables import SCORES
from layerwise.analyses.logit_lens.names import OF_ENCODER
from layerwise.analyses.removal.tables import HELD_OUT, SELECTION, removed_label
from layerwise.ground.layer_names import layer_name, stream_name
from layerwise.results.notebook import intervals, number
from layerwise.stats.effects import corrected


def ablation_rows(effects: pd.DataFrame, n_encoder: int = 0, n_top: int = 5) -> pd.DataFrame:
    """The most harmful interventions under each protocol, of tasks that have signal."""
    found = effects.loc[effects["signal"]].sort_values(
        by="share_lost", ascending=False, kind="stable"
    )
    top = found.groupby("protocol", sort=True).head(n_top).sort_values("protocol", kind="stable")
    return pd.DataFrame(
        {
            "protocol": top["protocol"],
            "task": top["task"],
            "intervention": [_named(name, n_encoder) for name in top["intervention"]],
            "share lost [95 %]": intervals(top, "share_lost", "share_low", "share_high"),
            "p (corrected)": corrected(top).map("{:.2g}".format),
            "significant": np.where(top["significant"], "yes", "no"),
        }
    )


def _named(intervention: str, n_encoder: int) -> str:
    """An intervention's id with its layers called as they are in an encoder-decoder."""

    def named(found: re.Match[str]) -> str:
        name = partial(layer_name, n_encoder=n_encoder)
        return found[1] + re.sub(r"\d+", lambda number: name(int(number[0])), found[2])

    return re.sub(r"(layers?=)([\d+-]+)", named, intervention) if n_encoder else intervention


def lens_rows(lens: pd.DataFrame, n_encoder: int = 0) -> pd.DataFrame:
    """Median rank and mean log-probability, per protocol and layer, and lens and site if many."""
    several = [name for name in ("lens", "site") if len(set(lens[name])) > 1]
    table = lens.groupby(["protocol", *several, "layer"], as_index=False).agg(
        rank=("rank", "median"), logprob=("logprob", "mean")
    )
    if n_encoder:
        named = table if "lens" in table else table.assign(lens=lens["lens"].iloc[0])
        table["layer"] = _streams_read(named, n_encoder)
    names = {"rank": "median rank", "logprob": "log-probability (nats)"}
    return table.assign(logprob=table["logprob"].map(number)).rename(columns=names)


def _streams_read(table: pd.DataFrame, n_encoder: int) -> list[str]:
    """What the layers of an encoder-decoder are called whose streams lenses read."""
    return [
        stream_name(int(layer), n_encoder, of_decoder=lens not in OF_ENCODER)
        for layer, lens in zip(table["layer"], table["lens"], strict=True)
    ]


def tuned_rows(layers: pd.DataFrame, n_encoder: int = 0) -> pd.DataFrame:
    """Divergence of both lenses from the final distribution by layer, and their difference."""
    named = ["lens"] * (layers["lens"].nunique() > 1)
    found = layers.reindex(columns=[*named, "layer"])
    if n_encoder:
        found["layer"] = _streams_read(layers, n_encoder)
    for name, column in (("logit", "kl_logit"), ("tuned", "kl_tuned"), ("lower by", "difference")):
        told = intervals(layers, column, f"{column}_low", f"{column}_high")
        found[f"{name} (nats) [95 %]"] = told
    return found.assign(**{"p (Holm)": layers["p_holm"].map("{:.2g}".format)})


def patching_rows(summary: pd.DataFrame, n_encoder: int, n_top: int = 10) -> pd.DataFrame:
    """The layers, positions and heads whose patch carries most over."""
    top = summary.sort_values(by="recovered", ascending=False, kind="stable").head(n_top)
    heads = ["" if pd.isna(head) else f", head {head}" for head in top["head"]]
    places = zip(top["site"], top["layer"], heads, strict=True)
    return pd.DataFrame(
        {
            "task": top["task"],
            "direction": top["direction"],
            "patch": [
                f"{site}, layer {layer_name(int(layer), n_encoder)}{head}"
                for site, layer, head in places
            ],
            "position": top["pos_label"],
            "recovered [95 %]": intervals(top, "recovered", "recovered_low", "recovered_high"),
        }
    )


def attribution_rows(summary: pd.DataFrame, n_encoder: int, n_top: int = 5) -> pd.DataFrame:
    """The sublayers and heads that add most to an answer, of tasks that have signal."""
    parts = summary["component"].isin([*SUBLAYERS, *HEADS])
    found = summary.loc[summary["signal"] & parts & (summary["metric"] == "logit_diff")]
    ranked = found.sort_values(by="value", ascending=False, kind="stable")
    top = ranked.groupby(["protocol", "task"], sort=True).head(n_top)
    top = top.sort_values(["protocol", "task"], kind="stable")
    shown = top.reindex(columns=["protocol", "task", "component", "layer", "head"])
    shown["layer"] = [layer_name(int(layer), n_encoder) for layer in top["layer"]]
    shown["head"] = top["head"].astype("string").fillna("")
    return shown.assign(
        **{
            "logit difference [95 %]": intervals(top, "value", "low", "high"),
            "p (adjusted)": top["p_adjusted"].map("{:.2g}".format),
            "significant": np.where(top["significant"], "yes", "no"),
        }
    )


def head_rows(summary: pd.DataFrame, n_encoder: int, n_top: int = 15) -> pd.DataFrame:
    """The heads with the highest prefix-matching scores."""
    top = summary.sort_values("prefix_matching", ascending=False, kind="stable").head(n_top)
    shown = top.reindex(columns=["site", "layer", "head"] if n_encoder else ["layer", "head"])
    shown["layer"] = [layer_name(int(layer), n_encoder) for layer in top["layer"]]
    for name in (name for name in SCORES if np.isfinite(top[name].to_numpy(dtype=float)).any()):
        bounds = (name, f"{name}_low", f"{name}_high")
        shown[name.replace("_", " ")] = np.where(top[name].isna(), "–", intervals(top, *bounds))
    return shown.assign(**{"induction head": np.where(top["induction_head"], "yes", "no")})


def path_rows(effects: pd.DataFrame, n_top: int = 10) -> pd.DataFrame:
    """The direct paths that carry most."""
    size = -np.abs(effects["recovered"].to_numpy(dtype=float))
    top = effects.iloc[np.argsort(size, kind="stable")].head(n_top)
    found = top.reindex(columns=["task", "direction", "sender", "receiver"])
    told = intervals(top, "recovered", "recovered_low", "recovered_high")
    return found.assign(**{"share [95 %]": told, "p (BH)": top["p_bh"].map("{:.2g}".format)})


def agreement_rows(agreement: pd.DataFrame) -> pd.DataFrame:
    """Rank correlation of estimates and true patches."""
    found = agreement.reindex(columns=["task", "direction", "site", "n_cells", "n_items"])
    told = intervals(agreement, "spearman", "spearman_low", "spearman_high")
    return found.assign(**{"rank correlation [95 %]": told})


def emergence_rows(emergence: pd.DataFrame) -> pd.DataFrame:
    """Depths and critical sets, with their intervals."""
    axis = ["axis"] if len(set(emergence["axis"])) > 1 else []
    found = emergence.reindex(columns=["capability", "protocol", "method", "measure", *axis])
    return found.assign(**{"estimate [95 %]": intervals(emergence, "estimate", "low", "high")})


def removal_rows(steps: pd.DataFrame, n_encoder: int = 0) -> pd.DataFrame:
    """Each step's accuracy on the items selected by, and the accuracy lost on those held out."""
    key = ["by", "task", "protocol", "step"]
    seen, held = (steps.loc[steps["split"] == split] for split in (SELECTION, HELD_OUT))
    joined = seen.merge(held, on=key, how="left", suffixes=("", "_held"))
    pairs = zip(joined["by"], joined["layers"], strict=True)
    name = partial(layer_name, n_encoder=n_encoder)
    bounds = ("acc_diff_held", "acc_diff_low_held", "acc_diff_high_held")
    return pd.DataFrame(
        {
            "order": joined["by"],
            "task": joined["task"],
            "protocol": joined["protocol"],
            "removed": joined["step"],
            "layer or block": [removed_label(by, layers, name) for by, layers in pairs],
            "selection: accuracy": joined["acc"].map(number),
            "held out: accuracy": joined["acc_held"].map(number),
            "held out: lost [95 %]": intervals(joined, *bounds),
            "p (Holm)": ["?" if pd.isna(p) else f"{p:.2g}" for p in joined["p_holm_held"]],
        }
    )


def similarity_rows(influence: pd.DataFrame, n_encoder: int = 0, n_top: int = 3) -> pd.DataFrame:
    """The layers of each task and protocol that turn the stream least."""
    ranked = influence.sort_values(by="influence", kind="stable")
    top = ranked.groupby(["protocol", "task"], sort=True).head(n_top)
    top = top.sort_values(["protocol", "task"], kind="stable")
    found = top.reindex(columns=["protocol", "task"])
    found["layer"] = [layer_name(int(layer), n_encoder) for layer in top["layer"]]
    told = intervals(top, "influence", "low", "high", digits=3)
    return found.assign(**{"block influence [95 %]": told})


def pruning_rows(summary: pd.DataFrame) -> pd.DataFrame:
    """Accuracies, and how near the written model is to what was predicted."""
    gaps, same = summary["largest_difference"], summary["same_texts"]
    return pd.DataFrame(
        {
            "task": summary["task"],
            "protocol": summary["protocol"],
            "items": summary["n_items"],
            "intact": summary["intact_accuracy"].map(number),
            "predicted": summary["predicted_accuracy"].map(number),
            "measured": summary["measured_accuracy"].map(number),
            "largest difference (nats)": ["" if pd.isna(gap) else f"{gap:.1g}" for gap in gaps],
            "same texts": ["" if pd.isna(share) else f"{100 * share:.0f} %" for share in same],
        }
    )
