"""Figures, tables and sentences on single heads: their scores, ablations and patches."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import synthetic
from legible import cells, line, lines, words
from matplotlib.figure import Figure
from planted_heads import planted_heads
from synthetic import Plan, wide_plan
from test_attribution_figures import made_up_attribution as made_up_attribution

from layerwise.analyses.ablation.page.sections import effects_tables
from layerwise.analyses.ablation.tables.saved_effects import HEADS, ablations, effects_of_layers
from layerwise.analyses.heads.result import SCORES, summary_table
from layerwise.analyses.patching.figures import patching_heads
from layerwise.analyses.registry import run_tables
from layerwise.presentation.naming import model_layer_names
from layerwise.presentation.rows import numbers, rows
from layerwise.presentation.wording import interval
from layerwise.report import findings, report
from layerwise.report._layers import head_evidence
from layerwise.report.figures import head_effect_maps, head_score_maps
from layerwise.results import AblationResult, PatchingResult
from layerwise.stats.effects import effects_table
from layerwise.storage.parquet import frame
from layerwise.storage.provenance import ModelFacts
from layerwise.storage.run_tables import RunTables
from tests.synthetic import facts, task_facts

PLAN = Plan(
    n_layers=4,
    n_items=40,
    tasks=(("facts", "knowledge"), ("two-hop", "reasoning")),
    protocols=("letter", "generate"),
    silent=(("two-hop", "letter"),),
)
NEEDED = {"letter": ((1, 2),), "generate": ((1, 2), (3, 0))}


def scores(n_layers: int, n_heads: int, n_encoder: int = 0) -> pd.DataFrame:
    """Made-up scores; the last head of the last layer is an induction head.

    The decoder of an encoder-decoder has a head less.
    """
    rng = np.random.default_rng(0)
    layer, head = (index.ravel() for index in np.indices((n_layers, n_heads)))
    base = pd.DataFrame({"site": "z", "layer": layer, "head": head})
    if n_encoder:
        base = base.loc[(base["layer"] < n_encoder) | (base["head"] < n_heads - 1)]
        cross = base.loc[base["layer"] >= n_encoder].assign(site="cross_z")
        base = pd.concat([base, cross], ignore_index=True)
    values = rng.random((len(SCORES), len(base))) * 0.3
    values[0, np.flatnonzero(base["site"] == "z")[-1]] = 0.9
    table = pd.concat(
        base.assign(sequence=i, **dict(zip(SCORES, values + 0.01 * i, strict=True)))
        for i in range(3)
    )
    table["next_token"] = table["next_token"].where(table["layer"] < n_encoder, np.nan)
    table["previous_token"] = table["previous_token"].where(table["site"] == "z", np.nan)
    return summary_table(table, 0.4, 0)


def two_stacks(n_layers: int, n_encoder: int) -> ModelFacts:
    return facts(n_layers=n_layers).model.model_copy(update={"n_encoder_layers": n_encoder})


def patched_heads(
    n_layers: int = 6, n_heads: int = 4, tasks: tuple[str, ...] = ("keys",),
    direction: str = "denoising", n_pairs: int = 8,
) -> PatchingResult:  # fmt: skip
    """Head 2 of layer 3 carries half of the answer to the last position."""
    rng = np.random.default_rng(0)
    start = 2.0 if direction == "noising" else -2.0
    table = pd.DataFrame([
        {
            "task": task, "capability": "retrieval", "item": f"{task}/{pair}",
            "protocol": "continuation", "direction": direction, "site": "z", "layer": layer,
            "head": head, "pos": 5, "source_pos": 5, "pos_label": label, "clean_diff": 2.0,
            "corrupted_diff": -2.0,
        }
        for task in tasks for pair in range(n_pairs) for layer in range(n_layers)
        for head in range(n_heads) for label in ("last changed", "last", "all")
    ])  # fmt: skip
    planted = (table["layer"] == 3) & (table["head"] == 2) & (table["pos_label"] != "last changed")
    share = 0.5 * planted + rng.normal(0, 0.02, len(table))
    table = table.assign(recovered=share, patched_diff=start * (1 - 2 * share))
    told = facts(*(task_facts(task, "retrieval") for task in tasks), n_layers=n_layers)
    return PatchingResult(frame("patching", table.to_dict("records")), told)


@pytest.fixture(scope="module")
def ablation() -> AblationResult:
    return planted_heads(PLAN, NEEDED)


def score_maps(n_layers: int, n_heads: int, width: float, n_encoder: int = 0) -> Figure:
    with model_layer_names(two_stacks(n_layers, n_encoder)):
        return head_score_maps(scores(n_layers, n_heads, n_encoder), width)


def effect_maps(n_tasks: int, n_layers: int, n_heads: int, width: float) -> Figure:
    plan = wide_plan(n_tasks, n_layers, n_items=12, protocols=("generate",))
    made = planted_heads(replace(plan, silent=()), {"generate": ((0, 0),)}, n_heads)
    return head_effect_maps(effects_table(made.records, made.facts.chance, 0), width=width)


def patch_maps(n_layers: int, n_heads: int, tasks: tuple[str, ...], width: float) -> Figure:
    summary = patched_heads(n_layers, n_heads, tasks, n_pairs=2).summary()
    return patching_heads(summary, width=width)


def test_scores_are_the_table_and_induction_heads_have_a_dot():
    table = scores(4, 3)
    figure = head_score_maps(table)
    shown = ("prefix_matching", "previous_token", "duplicate_token")
    for axes, score in zip(figure.axes, shown, strict=False):
        np.testing.assert_allclose(cells(axes).ravel(), table[score])
    dots = line(figure, "significant")
    assert (list(dots.get_xdata()), list(dots.get_ydata())) == ([2.5], [3.5])


def test_both_kinds_of_attention_have_the_same_axes_and_gaps_where_nothing_is_scored():
    table = scores(5, 3, 2)
    with model_layer_names(two_stacks(5, 2)):
        figure = head_score_maps(table)
    shown = [("z", score) for score in SCORES[:4]]
    shown += [("cross_z", "prefix_matching"), ("cross_z", "duplicate_token")]
    for axes, (site, score) in zip(figure.axes, shown, strict=False):
        wanted = table.loc[table["site"] == site].set_index(["layer", "head"])[score]
        for (layer, head), value in np.ndenumerate(cells(axes)):
            assert value == pytest.approx(wanted.get((layer, head), np.nan), nan_ok=True)
    dots = line(figure, "significant")
    assert (list(dots.get_xdata()), list(dots.get_ydata())) == ([1.5], [4.5])


def test_effects_are_the_table_and_dots_are_what_is_significant(ablation):
    effects = ablation.effects()
    figure = head_effect_maps(effects, "generate")
    for axes, task in zip(figure.axes[:2], ("facts", "two-hop"), strict=True):
        wanted = rows(effects, task=task, protocol="generate").sort_values(["layer", "head"])
        np.testing.assert_allclose(cells(axes).ravel(), numbers(wanted, "share_lost"))
    for dots in lines(figure, "significant"):
        assert sorted(zip(dots.get_xdata(), dots.get_ydata(), strict=True)) == [
            (0.5, 3.5), (2.5, 1.5),
        ]  # fmt: skip


@pytest.mark.parametrize("direction", ["denoising", "noising"])
def test_patches_are_the_summary_and_dots_what_is_significant(direction):
    summary = patched_heads(direction=direction, n_pairs=16).summary()
    figure = patching_heads(summary)
    panels = {axes.get_title(loc="left").split("\n")[1]: axes for axes in figure.axes[:-1]}
    assert list(panels) == ["last changed", "last position", "from change to end"]
    axes = panels["last position"]
    wanted = summary.query("pos_label == 'last'").pivot(
        index="layer", columns="head", values="recovered"
    )
    np.testing.assert_allclose(cells(axes), wanted.to_numpy(dtype=float))
    (dots,) = (one for one in axes.lines if one.get_gid() == "significant")
    assert (dots.get_xdata().tolist(), dots.get_ydata().tolist()) == ([2.5], [3.5])
    assert ("lost" if direction == "noising" else "recovered") in words(figure)


def test_tasks_without_signal_are_not_drawn_and_not_told(ablation):
    run = run_tables([ablation])
    assert effects_of_layers(run) is None
    assert ablations(run, HEADS) == [("zero", "z")]
    figure = head_effect_maps(ablation.effects(), "letter")
    assert len(lines(figure, "significant")) == 1
    told = [row[:2] for table in effects_tables(run, of_heads=True) for row in table.cells]
    assert ["facts", "picks a letter"] in told
    assert ["two-hop", "picks a letter"] not in told


def test_the_page_of_ablations_has_the_strongest_heads_first(ablation):
    page = report(ablation)
    assert list(page.figures) == ["head_effects_zero_z_letter", "head_effects_zero_z_generate"]
    assert "Ablation of heads" in page.html
    assert "Role map" not in page.html
    top, every = effects_tables(run_tables([ablation]), of_heads=True)
    assert {row[2] for row in top.cells[:5]} == {"zero:z,layer=1,head=2", "zero:z,layer=3,head=0"}
    assert [row[-1] for row in top.cells[:6]] == ["yes"] * 5 + ["no"]
    assert len(every.cells) == 3 * 12


def test_the_page_shows_patches_of_both_directions():
    there, back = patched_heads(), patched_heads(direction="noising")
    both = PatchingResult(pd.concat([there.patching, back.patching]), there.facts)
    page = report(both)
    assert list(page.figures) == ["patching_z", "patching_z_noising"]
    assert "the corrupted run&#39;s activation is put into the clean run" in page.html


def test_one_sentence_says_what_the_rows_say(ablation):
    (claim,) = [claim for claim in findings([ablation]) if claim.kind == "heads"]
    effects = ablation.effects()
    (row,) = rows(effects, **claim.source["where"], **claim.source["at"]).to_dict("records")
    assert row["acc_diff"] == rows(effects, significant=True)["acc_diff"].max()
    assert claim.short.startswith(
        f"Setting head {row['layer']}.{row['head']} to zero costs {100 * row['acc_diff']:.0f} "
    )
    assert (claim.evidence, claim.p) == ("established", row["p_run"])
    assert claim.estimate.value == pytest.approx(100 * row["acc_diff"])
    assert claim.protocols == (row["protocol"],)


def test_where_no_head_matters_none_is_named():
    none = planted_heads(PLAN, {"letter": (), "generate": ()})
    (claim,) = [claim for claim in findings([none]) if claim.kind == "heads"]
    assert claim.short == "No single head is established to matter."
    assert claim.evidence == "not established"


def test_methods_name_the_planted_heads_side_by_side():
    patched = patched_heads(n_pairs=16).summary()
    attributed = made_up_attribution(n_heads=4).summary()
    run = RunTables(
        synthetic.facts(Plan()),
        {
            "attribution_summary": attributed, "patching_summary": patched,
            "heads_summary": scores(5, 4),
        },
    )  # fmt: skip
    shown = head_evidence(run)
    assert list(shown) == list(range(6))
    found = {(row[0], row[1]): row for row in shown[3].cells}
    best = attributed.query("component == 'z' and layer == 3 and head == 1").iloc[0]
    value = interval(best["value"], best["low"], best["high"], 2)
    assert found["3.1", "Adds directly (nats)"][2:] == ["facts, chooses", value, "1 of 1"]
    best = patched.query("layer == 3 and head == 2").sort_values("recovered").iloc[-1]
    row = found["3.2", "Patching z: recovered (%)"]
    assert row[2] == f"keys, chooses, {best['pos_label']}"
    assert row[3].startswith(f"{100 * best['recovered']:.0f} [")
    assert shown[4].cells[0][:1] == ["4.3"]
    assert "No head of this layer has a significant effect" in shown[5].note
