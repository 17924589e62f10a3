"""Sentences in made-up worlds in which they used to be false, from records to words."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from layerwise.analyses.ablation.claims.findings import needed_heads
from layerwise.analyses.ablation.claims.scoring_steps import step_findings
from layerwise.analyses.emergence.findings import interactions
from layerwise.analyses.patching.analysis import hand_overs
from layerwise.analyses.patching.result import PatchingResult
from layerwise.analyses.patching.tables import patching_summary
from layerwise.analyses.registry import run_tables
from layerwise.presentation.claim import OPEN
from layerwise.presentation.rows import rows as rows_of
from layerwise.results import AblationResult
from layerwise.stats.signals.least_to_lose import LEAST_TO_LOSE
from layerwise.storage.run_tables import RunTables
from tests import synthetic
from tests.cases import data_sets, in_long_runs, most_errors
from tests.synthetic import cell_records
from tests.test_protocol_interaction import GROUPS, rows, two_protocol_records

# --- heads: the largest loss, in points --------------------------------------------------------

N_HEADS, EASY, HARD = 4, 1, 3


def heads_of_two_tasks(seed: int) -> AblationResult:
    """A head of an easy task costs more points; one of a hard task costs more of its score."""
    rng, cells, n = np.random.default_rng(seed), [], 120
    for task, accuracy, needed, cost in (("easy", 0.95, EASY, 0.7), ("hard", 0.55, HARD, 0.9)):
        intact = rng.random(n) < accuracy
        right = np.repeat(intact[:, None], N_HEADS + 1, axis=1)
        hit = rng.random(n) < cost
        right[:, needed + 1] = np.where(hit, rng.random(n) < 0.25, intact)
        table = cell_records(right, task, "knowledge", no_layers=rng.random(n) < 0.25)
        changed = table["kind"] == "skip"
        table.loc[changed, ["kind", "site", "head"]] = ["zero", "z", 0]
        table.loc[changed, "intervention"] = [
            f"zero:z,layer={layer},head=0" for layer in table.loc[changed, "layer"]
        ]
        table["heads"] = pd.Series([[0] if one else None for one in changed], table.index)
        cells.append(table)
    return synthetic.ablation(*cells)


def test_the_head_that_is_named_has_the_largest_loss_in_points() -> None:
    """By shares of the score it was the head of the hard task in most data sets."""
    for seed in range(data_sets(12)):
        (claim,) = needed_heads(run_tables([heads_of_two_tasks(seed)]))
        assert (claim.tasks, claim.layers) == (("easy",), (EASY,)), seed


# --- scoring steps: shares of a score with enough to lose ---------------------------------------


def steps_of_one_task(right: int, n: int = 100) -> RunTables:
    """Every layer costs a quarter of the right first words, and three quarters of the answers."""
    place, nothing = np.arange(n), np.zeros(n, dtype=bool)

    def answers(known: int, lost: int) -> pd.DataFrame:
        intact, broken = place < known, place % 8 < lost
        columns = np.column_stack([intact, *[intact & ~broken] * 4])
        return cell_records(columns, "keys", "retrieval", "continuation", nothing)

    first, forced = (
        step["correct"].astype("boolean") for step in (answers(80, 2), answers(right, 6))
    )
    choice = answers(90, 0).assign(correct_first=first, correct_forced=forced)
    return run_tables([synthetic.ablation(choice)])


def test_a_step_is_claimed_in_shares_of_a_score_and_not_in_points() -> None:
    """A layer costs 20 points of the first words and 18 of the answers: fewer, and not more."""
    claim, _ = step_findings(steps_of_one_task(24))
    assert claim.short == (
        "For keys, skipping one layer costs on average 75 % of the score when each word counts, "
        "25 % when only the first word counts."
    )
    assert "points" not in claim.full
    assert "given those before it (teacher forcing)" in claim.full


@pytest.mark.parametrize("right", [LEAST_TO_LOSE - 1, LEAST_TO_LOSE])
def test_no_step_is_claimed_of_fewer_right_answers_than_shares_can_stand_on(right: int) -> None:
    run = steps_of_one_task(right)
    table = run.table("ladder_steps")
    assert table is not None
    steps = rows_of(table, second="teacher forcing")
    assert steps["p_holm"].item() < 0.05
    ends = [claim.source["at"].get("second", []) for claim in step_findings(run)]
    assert any("teacher forcing" in each for each in ends) == (right >= LEAST_TO_LOSE)


# --- protocols: only gaps that are established -------------------------------------------------

SAME = [0.4, 0.4, 0.0, 0.0, 0.4, 0.4]
LATE, EARLY, BOTH = SAME[:4] + [0.9] * 2, [0.9] * 2 + SAME[2:], [0.8] * 4 + SAME[4:]


@pytest.mark.parametrize("written", [LATE, *in_long_runs((EARLY,), (BOTH,))])
def test_a_gap_of_ways_of_scoring_is_named_only_where_there_is_one(written: list[float]) -> None:
    """The sentence named the group with the smallest gap, too, which was none in all data sets."""
    false = named = 0
    for seed in range(n := data_sets(40)):
        rng = np.random.default_rng(seed)
        table = rows(two_protocol_records(SAME, written, rng, n=100, floors=(0.25, 0.0)), 200)
        (claim,) = interactions(RunTables(synthetic.facts(), {"protocol_interaction": table}))
        if claim.evidence != OPEN:
            layers = claim.source["at"]["group"] if "layers" in claim.short else ""
            listed = claim.details[1].removeprefix("It is established to be more in ")
            groups = [name for name in GROUPS if name in listed]
            assert not layers or layers in groups
            false += any(np.mean(np.subtract(written, SAME)[GROUPS[name]]) <= 0 for name in groups)
            named += bool(groups)
    assert named > n / 2
    assert false <= most_errors(n)


# --- patching: the layers in which pairs move --------------------------------------------------

N_PAIRS, N_LAYERS = 40, 12
PLACES = ("last", "last changed")


def moving_answers_run(layers: np.ndarray, rng: np.random.Generator) -> RunTables:
    """Pairs whose answer moves to the last token in a layer of their own."""
    share = (np.arange(N_LAYERS) > layers[:, None]).clip(0.02, 0.98)
    parts = []
    for place, values in zip(PLACES, (share, 1 - share), strict=True):
        noisy = values + rng.normal(0, 0.05, share.shape)
        parts.append(synthetic.patching_result(noisy, "keys", "retrieval", label=place))
    patched = pd.concat([part.patching for part in parts], ignore_index=True)
    result = PatchingResult(patched, parts[0].facts)
    return RunTables(result.facts, {"patching_summary": patching_summary(patched, 0)})


@pytest.mark.long(but=["24", "16"])
@pytest.mark.parametrize("n_early", [20, 24, 16, 40])
def test_most_pairs_move_in_the_layers_that_are_named(n_early: int) -> None:
    """One layer was named, in which as few as 16 of 40 pairs moved."""
    layers = np.where(np.arange(N_PAIRS) < n_early, 2, 8)
    for seed in range(data_sets(12)):
        (claim,) = hand_overs(moving_answers_run(layers, np.random.default_rng([seed, n_early])))
        said = "in layer 2 " if n_early == N_PAIRS else "between layers 2 and 8 "
        assert said in claim.short
        inside = (layers >= min(claim.layers)) & (layers <= max(claim.layers))
        assert inside.mean() > 0.5


def test_layers_are_named_in_which_half_of_the_pairs_move_where_all_differ() -> None:
    misses = 0
    for seed in range(n := data_sets(20)):
        rng = np.random.default_rng(seed)
        layers = np.round(rng.normal(5, 2, N_PAIRS)).clip(1, N_LAYERS - 2)
        (claim,) = hand_overs(moving_answers_run(layers, rng))
        inside = (layers >= min(claim.layers)) & (layers <= max(claim.layers))
        misses += inside.mean() < 0.5
    assert misses <= most_errors(n)
