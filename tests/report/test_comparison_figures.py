"""Figures, tables and sentences on agreement of methods and of protocols."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import synthetic
from legible import WIDTHS, assert_legible, lines
from matplotlib.collections import LineCollection
from scipy.stats import norm
from synthetic import Plan

from layerwise.analyses.emergence.analysis import sections
from layerwise.analyses.emergence.findings import agreements, interactions
from layerwise.presentation.rows import rows
from layerwise.report.figures import agreement_ranges, interaction_profiles
from layerwise.storage.run_tables import RunTables


@pytest.fixture(scope="module")
def interaction(plan: Plan) -> pd.DataFrame:
    return synthetic.interaction(plan)


@pytest.fixture(scope="module")
def agreement(plan: Plan) -> pd.DataFrame:
    return synthetic.agreement(plan)


def hard(table: pd.DataFrame) -> pd.DataFrame:
    """Long names, a protocol of the user's own, bounds without end."""
    named = {"retrieval": "a capability with a long name and $", "early": "the very first ones"}
    harder = table.replace(named).replace({"letter": "a protocol of one's own"})
    bounds = [name for name in table if name.endswith("low")]
    return harder.assign(**dict.fromkeys(bounds, np.nan))


@pytest.mark.long
@pytest.mark.parametrize("width", WIDTHS)
def test_texts_are_readable_and_apart(width, interaction, agreement):
    few = rows(interaction, capability="retrieval", first="letter", second="generate")
    for table in (interaction, few, hard(interaction)):
        assert_legible(interaction_profiles(table, width), width)
    few = rows(agreement, capability="retrieval", first="activation patching")
    for table in (agreement, few, hard(agreement)):
        assert_legible(agreement_ranges(table, width), width)


def test_profiles_are_the_table_and_filled_where_they_differ(interaction):
    mine = rows(interaction, capability="reasoning", first="letter", second="generate")
    figure = interaction_profiles(mine)
    for which, name in (("first", "letter"), ("second", "generate")):
        (line,) = lines(figure, f"share {name}")
        assert np.allclose(line.get_ydata(), 100 * mine[f"share_{which}"])
        assert len(lines(figure, f"sure share {name}")[0].get_xdata()) == len(mine)
        (bars,) = (
            c for c in figure.findobj(LineCollection) if c.get_gid() == f"interval share {name}"
        )
        ends = np.array([segment[:, 1] for segment in bars.get_segments()])
        bounds = mine[[f"share_{which}_low", f"share_{which}_high"]]
        assert np.allclose(ends, 100 * bounds.to_numpy())
    same = rows(interaction, capability="retrieval", first="letter", second="generate")
    assert not len(lines(interaction_profiles(same), "sure share letter")[0].get_xdata())


def test_points_of_agreement_are_the_table(agreement):
    mine = rows(agreement, first="ablation", capability="retrieval", protocol="letter")
    figure = agreement_ranges(mine)
    points = [lines(figure, f"{kind} picks a letter") for kind in ("sure", "unsure")]
    shown = [x for both in zip(*points, strict=True) for line in both for x in line.get_xdata()]
    assert shown == [0.4, 0.8]
    bars = [c for c in figure.findobj(LineCollection) if c.get_gid() == "interval picks a letter"]
    ends = [segment[:, 0] for one in bars for segment in one.get_segments()]
    assert np.allclose(ends, [[0.28, 0.55], [0.68, 0.95]])


@pytest.mark.long
def test_the_interaction_is_told_with_its_test_and_the_groups(run: RunTables):
    depends, none = interactions(run)
    assert depends.short.startswith(
        "For reasoning, skipping one of layers 20–29 costs 35 % of the "
    )
    assert depends.short.endswith("when it writes, 2 % when it picks a letter.")
    assert (depends.evidence, depends.p, depends.items) == ("established", 0.0012, "120 items")
    assert depends.estimate is not None
    wider = 7 * norm.isf(0.025 / 36) / norm.isf(0.025)  # for 36 gaps together
    assert depends.estimate[:3] == pytest.approx((33, 33 - wider, 33 + wider))
    assert "early 0 [−11, 11], middle 0 [−11, 11] and late 33 [22, 44]" in depends.details[0]
    assert depends.details[1] == "It is established to be more in late layers."
    assert depends.caveat.startswith("That other layers are needed does not follow")
    assert (none.evidence, none.p) == ("not established", 1.0)


def test_without_a_test_below_the_level_nothing_depends(run: RunTables, plan: Plan):
    quiet = synthetic.with_tables(
        run, protocol_interaction=synthetic.interaction(plan, p_holm=0.051)
    )
    (told,) = interactions(quiet)
    assert told.evidence == "not established"
    assert "reasoning" in told.capabilities
    assert told.p == 0.051
    assert interactions(RunTables(run.facts)) == []


def test_methods_stand_side_by_side_and_never_against_each_other(run: RunTables, plan: Plan):
    *placed, ranks = agreements(run)
    assert [claim.capabilities for claim in placed] == [
        ("retrieval",), ("knowledge",), ("reasoning",), ("coherence",)
    ]  # fmt: skip
    assert "disagree" not in placed[0].full
    assert placed[0].short.startswith("Retrieval is needed around layer ")
    for row in rows(run.tables["emergence"], **placed[0].source["where"]).to_dict("records"):
        assert f"By {row['method']}: layer {row['layer']:.1f} [" in placed[0].full
    wide = run.tables["emergence"].copy()
    wide.loc[wide["method"] == "ablation", ["low", "high"]] = [0.1, 0.7]
    assert "needed" not in agreements(synthetic.with_tables(run, emergence=wide))[0].full
    assert ranks.short.startswith("In 16 of 16 comparisons")
    assert ranks.evidence == "established"
    quiet = synthetic.with_tables(run, method_agreement=synthetic.agreement(plan, p_holm=0.06))
    none = agreements(quiet)[-1]
    assert none.short.startswith("In 0 of 16 comparisons")
    assert (none.evidence, none.p) == ("not established", 0.06)
    assert agreements(RunTables(run.facts)) == []


def test_tables_show_every_row(run: RunTables, interaction, agreement):
    by_anchor = {section.anchor: section for section in sections(run)}
    (shown,) = by_anchor["interaction"].tables
    assert len(shown.cells) == len(interaction)
    assert "early (0–9)" in shown.cells[0]
    (shown,) = by_anchor["agreement"].tables
    assert len(shown.cells) == len(agreement)
    assert shown.cells[1][6:8] == ["–", "–"]
