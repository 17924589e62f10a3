"""Claims about a model and one that was trained from it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

import layerwise as lw
from analyses.validity import published_claims as made_up
from analyses.validity.trained_claims import trained_rates
from layerwise.analyses.replication.api import select_claims
from layerwise.analyses.replication.verdicts.claim import Verdict
from layerwise.analyses.replication.verdicts.judge import judge
from layerwise.errors import UserError
from layerwise.models.organisms.layout import Spot, WiredLayout
from layerwise.models.organisms.wired import wired_model
from tests.cases import data_sets, most_errors
from tests.models.tiny import tiny_model

from .test_claims import evidence_of, world


def layers_with(*places: int) -> np.ndarray:
    """Damage by some layers alone."""
    damage = np.zeros(made_up.N_LAYERS)
    damage[list(places)] = 8.0
    return damage


def verdicts(
    base: dict[str, np.ndarray],
    trained: dict[str, np.ndarray],
    n: int = 100,
    **tables: pd.DataFrame,
) -> dict[str, str]:
    """Verdicts on a made-up model and another that was trained from it."""
    first, second = (
        evidence_of(world("no layer matters", damage=damage, n=n), seed)
        for seed, damage in enumerate((base, trained))
    )
    both = replace(first, trained=second, tables=tables)
    table = judge(select_claims(["song-8", "nepal-1"]), both)["verdicts"]
    return {f"{row['claim']} {row['part']}".strip(): row["verdict"]
            for row in table.to_dict("records")}  # fmt: skip


MOVES, CARRIES = "song-8 where reasoning sits", "song-8 single layers that carry it"


def test_reasoning_that_moved_is_found_and_other_layers_matter():
    early = {"facts": layers_with(1), "kv-words": layers_with(1), "arithmetic": layers_with(4, 6)}
    late = early | {"arithmetic": layers_with(17, 20)}
    told = verdicts(early, late)
    assert told[MOVES] == Verdict.HOLDS
    assert told[CARRIES] == Verdict.NO_SIGNAL
    assert told["nepal-1"] == Verdict.OPEN  # two layers that moved say little of the others


@pytest.mark.long
def test_layers_that_stay_make_the_opposite_hold():
    own = {"facts": layers_with(1), "kv-words": layers_with(1), "arithmetic": layers_with(4, 6)}
    assert verdicts(own, own, n=1500)[MOVES] == Verdict.OPPOSITE
    falling = {task: made_up.falling(8.0) for task in made_up.TASKS}
    assert verdicts(falling, falling)["nepal-1"] == Verdict.HOLDS


def test_layers_in_another_order_make_nepal_1_fail():
    falling = {task: made_up.falling(8.0) for task in made_up.TASKS}
    rising = {task: damage[::-1].copy() for task, damage in falling.items()}
    assert verdicts(falling, rising)["nepal-1"] == Verdict.OPPOSITE


@pytest.mark.parametrize(
    ("moved", "low", "high", "p", "verdict"),
    [(0.4, 0.25, 0.55, 1e-6, "holds"), (0.0, -0.02, 0.02, 1.0, "the opposite holds"),
     (0.1, -0.05, 0.25, 0.2, "open")],
)  # fmt: skip
def test_a_layer_that_carries_is_one_that_brings_more_than_chance(moved, low, high, p, verdict):
    falling = {task: made_up.falling(8.0) for task in made_up.TASKS}
    rows = [
        {"direction": "brings", "host": "base", "capability": "reasoning", "task": "arithmetic",
         "layer": layer, "moved": moved if layer == 3 else 0.0, "moved_low": low if layer == 3
         else -0.01, "moved_high": high if layer == 3 else 0.01, "p": p if layer == 3 else 1.0,
         "n_items": 100}
        for layer in range(made_up.N_LAYERS)
    ]  # fmt: skip
    told = verdicts(falling, falling, moved=pd.DataFrame(rows))
    assert told[CARRIES] == verdict


def layout(second_hop: int) -> WiredLayout:
    """A wired model whose reasoning takes a second hop in some layer."""
    return WiredLayout(
        12, 2, previous=Spot(0, 0), look_up=Spot(1, 0), facts=Spot(2, 0),
        second_hop=Spot(second_hop, 0), gate=Spot(11, 0),
    )  # fmt: skip


@pytest.mark.long
def test_a_wired_model_whose_second_hop_moved(tmp_path):
    base, trained = (wired_model(layout(hop)) for hop in (3, 9))
    result = lw.replicate(
        base, ["song-8", "nepal-1"], also_distilled=trained, limit=24, out=tmp_path / "run",
        progress=False,
    )  # fmt: skip
    told = result.verdicts.set_index(["claim", "part"])["verdict"]
    assert told["song-8", "where reasoning sits"] == Verdict.HOLDS
    assert set(result.trained_records["kind"]) >= {"intact", "skip"}
    again = lw.replicate(
        base, ["song-8", "nepal-1"], also_distilled=trained, limit=24, out=tmp_path / "run",
        progress=False,
    )  # fmt: skip
    pd.testing.assert_frame_equal(again.verdicts, result.verdicts)
    with pytest.raises(UserError, match="also_distilled"):
        lw.replicate(
            base, ["song-8", "nepal-1"], also_distilled=base, limit=24, out=tmp_path / "run",
            progress=False,
        )  # fmt: skip


@pytest.mark.long
def test_false_verdicts_are_as_rare_as_stated():
    n_runs = data_sets(6)
    rates = trained_rates(n_runs)
    false = rates.loc[rates["false"]]
    assert len(false) > 5
    assert (false["found"] <= most_errors(n_runs)).all(), false.query("found > 0").to_string()


def test_without_a_second_model_these_claims_cannot_be_asked():
    model = tiny_model("gpt2")
    with pytest.raises(UserError, match="also_distilled"):
        lw.replicate(model, "nepal-1")
    told = lw.replicate(model, ["men-1", "song-8"], limit=8, fewshot=0, progress=False).verdicts
    assert dict(zip(told["claim"], told["verdict"], strict=True))["song-8"] == Verdict.NOT_ASKED
    assert "also_distilled" in told["note"].str.cat(sep=" ")


def test_a_second_model_of_another_shape_is_refused():
    with pytest.raises(UserError, match="do not fit"):
        lw.replicate(wired_model(layout(3)), "nepal-1", also_distilled=tiny_model("gpt2"))
