from __future__ import annotations

import numpy as np
import pytest
import synthetic
from legible import WIDTHS, assert_legible
from matplotlib.collections import QuadMesh
from matplotlib.lines import Line2D
from planted_heads import planted_heads
from synthetic import Plan, wide_plan

from layerwise.analyses.ablation.report import effects_tables
from layerwise.analyses.ablation.saved_effects import HEADS, ablations, effects_of_layers
from layerwise.analyses.registry import tables_of_run
from layerwise.presentation.rows import numbers, rows
from layerwise.report import findings, report
from layerwise.report.figures import head_effect_maps
from layerwise.stats.effects import effects_table

PLAN = Plan(
    n_layers=4,
    n_items=40,
    tasks=(("facts", "knowledge"), ("two-hop", "reasoning")),
    protocols=("letter", "generate"),
    silent=(("two-hop", "letter"),),
)
NEEDED = {"letter": ((1, 2),), "generate": ((1, 2), (3, 0))}


@pytest.fixture(scope="module")
def ablation():
    return planted_heads(PLAN, NEEDED)


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize(("n_tasks", "n_layers", "n_heads"), [(1, 2, 2), (6, 30, 9), (1, 80, 32)])
def test_texts_are_readable_and_apart(width, n_tasks, n_layers, n_heads):
    plan = wide_plan(n_tasks, n_layers, n_items=12, protocols=("generate",))
    plan = Plan(**{**vars(plan), "silent": ()})
    made = planted_heads(plan, {"generate": ((0, 0),)}, n_heads)
    effects = effects_table(made.records, made.facts.chance, 0)
    figure = head_effect_maps(effects, width=width)
    assert_legible(figure, width)


def test_cells_are_the_table_and_dots_are_what_is_significant(ablation):
    effects = ablation.effects()
    figure = head_effect_maps(effects, "generate")
    maps = [mesh for mesh in figure.findobj(QuadMesh) if mesh.get_array().size == 12]
    assert len(maps) == 2
    for mesh, task in zip(maps, ("facts", "two-hop"), strict=True):
        mine = rows(effects, task=task, protocol="generate").sort_values(["layer", "head"])
        np.testing.assert_allclose(np.ravel(mesh.get_array()), numbers(mine, "share_lost"))
    for dots in (line for line in figure.findobj(Line2D) if line.get_gid() == "significant"):
        assert sorted(zip(dots.get_xdata(), dots.get_ydata(), strict=True)) == [
            (0.5, 3.5), (2.5, 1.5),
        ]  # fmt: skip


def test_tasks_without_signal_are_not_drawn_and_not_told(ablation):
    run = tables_of_run([ablation])
    assert effects_of_layers(run) is None
    assert ablations(run, HEADS) == [("zero", "z")]
    figure = head_effect_maps(ablation.effects(), "letter")
    assert sum(mesh.get_array().size == 12 for mesh in figure.findobj(QuadMesh)) == 1
    assert not any(row[:2] == ["two-hop", "letter"] for t in effects_tables(run, of_heads=True)
                   for row in t.cells)  # fmt: skip


def test_the_page_has_a_section_with_the_strongest_heads_first(ablation):
    page = report(ablation)
    assert list(page.figures) == ["head_effects_zero_z_letter", "head_effects_zero_z_generate"]
    assert "Ablation of heads" in page.html
    assert "Role map" not in page.html
    top, every = effects_tables(tables_of_run([ablation]), of_heads=True)
    assert {row[2] for row in top.cells[:5]} == {"zero:z,layer=1,head=2", "zero:z,layer=3,head=0"}
    assert [row[-1] for row in top.cells[:6]] == ["yes"] * 5 + ["no"]
    assert len(every.cells) == 3 * 12


def test_one_sentence_says_what_the_rows_say(ablation):
    (found,) = [f for f in findings([ablation]) if f.kind == "heads"]
    effects = ablation.effects()
    (row,) = rows(effects, **found.source["where"], **found.source["at"]).to_dict("records")
    assert row["share_lost"] == rows(effects, significant=True)["share_lost"].max()
    assert found.short.startswith(
        f"Setting head {row['layer']}.{row['head']} to zero costs {100 * row['acc_diff']:.0f} "
        f"accuracy points of {row['task']} when it "
    )
    assert (found.evidence, found.p) == ("established", row["p_run"])
    assert found.estimate.value == pytest.approx(100 * row["acc_diff"])
    lost = "all" if row["share_lost"] > 1 else f"{100 * row['share_lost']:.0f} %"
    assert f"That is {lost} of the score above the floor." in found.full
    assert found.protocols == (row["protocol"],)
    assert found.items == "items: 40"
    assert found.test.endswith("over all 48 tests of the run (Benjamini-Hochberg)")


def test_where_no_head_matters_none_is_named():
    none = planted_heads(PLAN, {"letter": (), "generate": ()})
    (found,) = [f for f in findings([none]) if f.kind == "heads"]
    assert found.short == "No single head is established to matter."
    assert found.evidence == "not established"
    assert "none of the 3 task-protocol pairs with signal" in found.full


def test_layers_and_heads_of_one_run_share_a_page(ablation):
    layers = synthetic.results(PLAN)[0]  # the same seed, so the same intact model
    page = report([layers, ablation])
    assert "Comparison" not in page.html
    assert {"role_map_skip_layer", "head_effects_zero_z_letter"} <= set(page.figures)
