from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import synthetic
from matplotlib.lines import Line2D
from synthetic import Plan

from layerwise.analyses.ablation.page.figures import MOST, largest_sets
from layerwise.analyses.ablation.tables.saved_effects import ablations, set_name
from layerwise.analyses.registry import run_tables
from layerwise.presentation.naming import model_layer_names
from layerwise.presentation.rows import numbers, rows
from layerwise.presentation.wording import protocol_words
from layerwise.report import report
from layerwise.report.figures import set_losses
from layerwise.results import AblationResult

PLAN = Plan(
    n_layers=5,
    n_items=40,
    tasks=(("facts", "knowledge"), ("two-hop", "reasoning")),
    protocols=("letter", "generate"),
    silent=(("two-hop", "letter"),),
    critical={"letter": (2,), "generate": (0, 2)},
)
CRITICAL = {"letter": {"2 and 3"}, "generate": {"0 and 1", "2 and 3"}}


def blocks(plan: Plan) -> AblationResult:
    """Two layers skipped at once, from each layer on; the critical ones as in the plan."""
    records = synthetic.records(replace(plan, kinds=(("skip", "layer"),)))
    changed = records["intervention"] != "intact"
    ids = [f"skip:layers={n}+{n + 1}" for n in records.loc[changed, "layer"].astype(int)]
    records.loc[changed, "intervention"] = ids
    records.loc[changed, "site"] = "layers"
    records["layers"] = records["layers"].map(
        lambda layers: [k + i for k in layers for i in (0, 1)]
    )
    return AblationResult(records, synthetic.facts(plan))


@pytest.fixture(scope="module")
def ablation() -> AblationResult:
    return blocks(PLAN)


def test_points_are_the_table_and_filled_where_significant(ablation):
    figure = set_losses(ablation.effects())
    sets = [f"{n} and {n + 1}" for n in range(5)]
    effects = ablation.effects().assign(name=lambda t: t["layers"].map(set_name))
    for axes, task in zip(figure.axes, ("facts", "two-hop"), strict=True):
        drawn = {line.get_gid(): line for line in axes.findobj(Line2D) if line.get_gid()}
        for protocol in ("letter", "generate"):
            mine = rows(effects, task=task, protocol=protocol, signal=True)
            if mine.empty:
                assert f"sure {protocol_words(protocol)}" not in drawn
                continue
            sure = drawn[f"sure {protocol_words(protocol)}"]
            assert {sets[round(y)] for y in sure.get_ydata()} == CRITICAL[protocol]
            expected = 100 * numbers(rows(mine, significant=True), "share_lost")
            np.testing.assert_allclose(sorted(sure.get_xdata()), sorted(expected))
            others = drawn[f"unsure {protocol_words(protocol)}"]
            assert len(others.get_xdata()) == 5 - len(CRITICAL[protocol])


def test_of_many_sets_those_are_shown_that_lose_most():
    n = MOST + 12
    lost = np.random.default_rng(0).permutation(n) / n
    ids = [f"skip:layers={k}+{k + 1}" for k in range(n)]
    shown = largest_sets(pd.DataFrame({"intervention": ids, "share_lost": lost}))
    assert shown == [name for name, share in zip(ids, lost, strict=True) if share >= 12 / n]


@pytest.mark.parametrize(
    ("layers", "heads", "name"),
    [
        ([3, 4, 5], None, "3–5"),
        ([0, 4], None, "0 and 4"),
        ([3, 4], [0, 1], "3: 0; 4: 1"),
        ([1, 1], [0, 1], "1: 0 and 1"),
        ([1, 2], [None, 1], "2: 1"),
    ],
)
def test_sets_are_named_by_what_is_in_them(layers, heads, name):
    assert set_name(layers, heads) == name


def test_sets_in_an_encoder_decoder_are_named_by_stack(ablation):
    facts = ablation.facts.model.model_copy(update={"n_encoder_layers": 2})
    with model_layer_names(facts):
        assert set_name([1, 2]) == "encoder.1 and decoder.0"


@pytest.mark.long
def test_the_page_has_a_section_and_only_where_there_are_sets(ablation):
    page = report([ablation])
    assert "Ablation of blocks and sets" in page.html
    assert 'id="roles"' not in page.html
    assert ablations(run_tables([ablation])) == []
    single = report([AblationResult(synthetic.records(PLAN), synthetic.facts(PLAN))])
    assert "Ablation of blocks and sets" not in single.html
