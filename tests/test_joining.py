from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from layerwise.analyses.ablation.api import ablate
from layerwise.analyses.ablation.result import join_ablations, joinable
from layerwise.analyses.emergence.api import emergence
from layerwise.errors import UserError
from layerwise.results import AblationResult
from tests import synthetic
from tests.analysis import word_task
from tests.models.tiny import tiny_model

TASK = word_task(6)


def ablated(**changes) -> AblationResult:
    return ablate(tiny_model("llama"), TASK, progress=False, **changes)


def test_joined_ablations_are_the_same_as_one_run_of_all():
    first, second = ablated(layers=[0]), ablated(layers=[1, 2])
    parts = [first, second, ablated(kind="zero", site="z"), ablated(kind="mean", site="mlp_out")]
    (one,) = join_ablations(parts)
    assert isinstance(one, AblationResult)
    together = ablated().effects()  # Holm's family is all layers again
    skips = one.effects().query("kind == 'skip'").reset_index(drop=True)
    pd.testing.assert_frame_equal(skips, together, rtol=0, atol=1e-5)
    for part in parts[2:]:
        effects = part.effects()
        mine = one.effects().merge(effects[["intervention"]].drop_duplicates())
        pd.testing.assert_frame_equal(
            mine.sort_values(list(mine.columns[:4]), ignore_index=True),
            effects.sort_values(list(mine.columns[:4]), ignore_index=True), rtol=0, atol=1e-5,
        )  # fmt: skip
    pd.testing.assert_frame_equal(one.signal(), first.signal())
    assert one.facts.settings["kind"] == ["skip", "zero", "mean"]
    assert one.facts.settings["chat"] is False


def test_other_results_stay_where_they_are():
    lens = synthetic.lens(np.zeros((3, 4)), "keys", "retrieval")
    right = np.ones((5, 3), dtype=bool)
    skips = synthetic.cell_records(right, "keys", "retrieval")
    told = synthetic.facts(synthetic.task_facts("keys", "retrieval"))
    one = AblationResult(skips, told)
    other = AblationResult(
        skips.assign(intervention=skips["intervention"].str.replace("skip", "zero")), told
    )
    joined = join_ablations([lens, one, other])
    assert joined[0] is lens
    assert len(joined) == 2
    assert join_ablations([one, lens]) == [one, lens]
    found = emergence([lens, one, other], n_resamples=20)
    assert "ablation" not in set(found.emergence["method"])  # nothing was lost


@pytest.mark.parametrize("what", ["the same change", "another answer", "other prompts", "items"])
def test_what_does_not_belong_together_is_told(what):
    right = np.ones((5, 3), dtype=bool)
    skips = synthetic.cell_records(right, "keys", "retrieval")
    one = AblationResult(skips, synthetic.facts(synthetic.task_facts("keys", "retrieval")))
    zeros = skips.assign(intervention=skips["intervention"].str.replace("skip", "zero"))
    intact = zeros["intervention"] == "intact"
    assert joinable(one, replace(one, records=zeros))
    if what == "the same change":
        zeros = skips
    elif what == "another answer":
        zeros = zeros.assign(correct=zeros["correct"] & ~(intact & (zeros.index == 0)))
    elif what == "other prompts":
        zeros = zeros.assign(gold_logprob=zeros["gold_logprob"] - 0.2)
    else:
        zeros = zeros.loc[zeros["item"] != "keys/0000"]
    other = replace(one, records=zeros)
    assert not joinable(one, other)
    with pytest.raises(UserError, match=r"^Two ablations do not belong together, .* apart\.$"):
        join_ablations([one, other])
