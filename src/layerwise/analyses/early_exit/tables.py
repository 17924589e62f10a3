"""Tables of the exits alone: accuracy, nats and agreement of each, and the safe ones."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from layerwise import stats
from layerwise.analyses.logit_lens.result import lens_gate
from layerwise.analyses.shared.lens_names import LOGIT, OF_ENCODER
from layerwise.ground.layer_names import stream_name
from layerwise.presentation.naming import name_layer, stacks
from layerwise.stats.effects import ALPHA, BLIND, INTACT, Chance, effects_table
from layerwise.stats.share_tests.equivalence import SmallestEffects, excludable_loss
from layerwise.storage.parquet import conform

_SEQUENCE = ["task", "protocol", "lens"]


def gate(exits: pd.DataFrame, chance: Chance) -> pd.DataFrame:
    """Table that signal was decided on: the lens's own gate, a row per task and protocol."""
    return lens_gate(exits.assign(over="prompt", pos=-1, site="resid_post"), chance)


def exits_table(
    exits: pd.DataFrame, chance: Chance, seed: int, interest: SmallestEffects
) -> pd.DataFrame:
    """``early_exit_layers``: what stopping after each layer costs, and where it is safe.

    An exit is safe if it and all later ones lose less than what is of interest.
    """
    gates = gate(exits, chance)
    places = zip(gates["task"], gates["protocol"], strict=True)
    floors = dict(zip(places, gates["floor"], strict=True))
    effects = effects_table(as_changes(exits), lambda *place: floors[place], seed, interest)
    table = effects.assign(lens=effects["site"]).sort_values(by=[*_SEQUENCE, "layer"])
    # the share of the items whose most likely token is that of the whole model, with bounds
    same = exits.assign(same=exits["final_rank"].eq(0).fillna(False).astype(int))
    counts = same.groupby([*_SEQUENCE, "layer"], as_index=False)["same"].agg(["sum", "size"])
    pairs = zip(counts.pop("sum"), counts.pop("size"), strict=True)
    bounds = pd.DataFrame([stats.exact_interval(int(count), int(n)) for count, n in pairs])
    counts[["same", "same_low", "same_high"]] = bounds[["estimate", "low", "high"]]
    agreement = pd.DataFrame(counts).astype({"layer": "Int64"})
    table = table.merge(agreement, on=[*_SEQUENCE, "layer"], how="left")
    sequences = table.groupby(_SEQUENCE, sort=False)["p_no_loss"]
    n = sequences.ngroups
    table["p_no_loss_run"] = sequences.transform(lambda p: safe_p_values(p.to_numpy(), n))
    table["n_sequences"] = n
    table["safe"] = table["signal"] & (table["p_no_loss_run"] < ALPHA)
    return conform("early_exit_layers", table.reset_index(drop=True))


def as_changes(exits: pd.DataFrame) -> pd.DataFrame:
    """Exits as records of changes to the model; the last layer is the model as it is."""
    last = exits.groupby(_SEQUENCE)["layer"].transform("max")
    whole = (exits["layer"] == last).to_numpy(dtype=bool)
    logit = exits["lens"].eq(LOGIT).to_numpy(dtype=bool)
    exits = exits.assign(
        correct=exits["rank"].eq(0), gold_logprob=exits["logprob"], margin=np.nan, head=None,
        heads=None, layers=[[layer] for layer in exits["layer"]], site=exits["lens"], kind="exit",
    )  # fmt: skip
    names = [f"{lens} {layer}" for lens, layer in zip(exits["lens"], exits["layer"], strict=True)]
    intact, blind = exits.loc[whole & logit], exits.loc[whole & logit & exits["blind"].notna()]
    nowhere = {"site": None, "layer": None, "layers": None}
    return pd.concat(
        [
            intact.assign(kind=INTACT, intervention=INTACT, **nowhere),
            blind.assign(
                kind=BLIND, intervention=BLIND, correct=blind["blind"].astype(bool), **nowhere
            ),
            exits.assign(intervention=names).loc[~whole],
        ],
        ignore_index=True,
    ).astype({"layer": "Int64", "head": "Int64"})


def safe_p_values(p: Float[np.ndarray, " exits"], n: int) -> Float[np.ndarray, " exits"]:
    """p-values that an exit or a later one loses too much, over all ``n`` sequences (Bonferroni).

    Tested from the last exit to the first in a fixed order, so not corrected for their number
    (Maurer, Hothorn and Lehmacher 1995; Angelopoulos et al. 2021, arXiv:2110.01052, section 2.3).
    """
    return np.minimum(1.0, n * np.maximum.accumulate(p[::-1])[::-1])


def n_items_needed(n: int, loss: float) -> int:
    """Items by which an exit that changes no answer is safe, where so many sequences are tested."""
    items = 1
    while excludable_loss(items, ALPHA / n) >= loss:
        items += 1
    return items


def earliest(table: pd.DataFrame) -> pd.DataFrame:
    """The first safe exit of each task and protocol, and in an encoder-decoder of each stack."""
    safe = pd.DataFrame(table.loc[table["safe"]])
    ordered = safe.sort_values(by=[*_SEQUENCE, "layer"])
    return ordered.drop_duplicates(_SEQUENCE).reset_index(drop=True)


def exit_name(row: dict[str, Any]) -> str:
    """The layer after which the model stops, or what enters the first one."""
    n_encoder, of_decoder = stacks().n_encoder, row["lens"] not in OF_ENCODER
    if not n_encoder:
        return name_layer(row["layer"])
    return stream_name(int(row["layer"]), n_encoder, of_decoder=of_decoder)
