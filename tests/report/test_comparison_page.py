"""The page of a comparison: sentences that tests support, legible figures, names escaped."""

from __future__ import annotations

import html
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import synthetic
from conftest import SMALL
from legible import WIDTHS, assert_legible

import layerwise as lw
from layerwise.analyses.comparison.findings import difference_claims, headline, no_difference_claims
from layerwise.analyses.comparison.report import MOST, _drawings, caution
from layerwise.analyses.comparison.runs import MEASURES
from layerwise.presentation.rows import rows
from layerwise.report import Report
from tests.comparing import save_run as save_results

LATE = {"letter": (5,), "generate": (4, 5)}
DEEP = replace(SMALL, n_layers=9, critical={"letter": (7,), "generate": (1, 7)})


def save_made_up_run(
    folder: Path, name: str, plan: synthetic.Plan, n_encoder: int, seed: int, patched: bool = True
) -> Path:
    """Ablation, lens and, where it is wanted, patching of a made-up model."""
    update = {"name": name, "hash": f"{name:0<64}", "n_encoder_layers": n_encoder}
    told = synthetic.facts(plan)
    told = told.model_copy(update={"model": told.model.model_copy(update=update)})
    results = [
        lw.AblationResult(synthetic.records(plan, seed), told),
        lw.LensResult(synthetic.lens(plan, seed), told),
        lw.PatchingResult(synthetic.patching_rows(plan, seed=seed), told),
    ]
    return save_results(folder / name, *(results if patched else results[:-1]))


@pytest.fixture(scope="module")
def comparison(tmp_path_factory) -> lw.Comparison:
    """A decoder, one that needs late layers, and an encoder-decoder."""
    folder = tmp_path_factory.mktemp("runs")
    plans = (SMALL, replace(SMALL, critical=LATE), DEEP)
    names = ("decoder_with_a_long_name<b>x", "late $x$", "seq2seq")
    made = [save_made_up_run(folder / str(i), *each, 4 * (i == 2), i)
            for i, each in enumerate(zip(names, plans, strict=True))]  # fmt: skip
    return lw.compare(made, n_resamples=1000)


@pytest.fixture(scope="module")
def page(comparison: lw.Comparison) -> Report:
    return comparison.report()


@pytest.fixture(scope="module")
def grouped_comparison(tmp_path_factory) -> lw.Comparison:
    folder = tmp_path_factory.mktemp("groups")
    return lw.compare(
        {
            name: [
                save_made_up_run(folder, f"{name} {i}", plan, n, 10 * n + i, False)
                for i in range(3)
            ]
            for name, plan, n in (("decoder", SMALL, 0), ("seq2seq", DEEP, 4))
        },
        n_resamples=100,
    )


@pytest.mark.long
def test_every_sentence_of_a_difference_stands_on_a_test(comparison: lw.Comparison):
    found = difference_claims(comparison.differences)
    sure = rows(comparison.differences, significant=True, measure=list(MEASURES))
    assert len(found) == len(sure) > 0
    for finding in found:
        (row,) = rows(comparison.differences, **finding.source["where"]).to_dict("records")
        assert row["p_holm"] < 0.05
        assert not row["low"] < 0 < row["high"]
        assert finding.protocols == (row["protocol"],)
        assert row["first"] in finding.short
        assert row["second"] in finding.short
        both = row["first"], row["second"]
        larger, smaller = both[::-1] if row["difference"] > 0 else both
        assert finding.short.index(larger) < finding.short.index(smaller)
        assert str(finding.estimate).endswith(f"more in {larger} (95 % interval)")
        assert finding.items == f"{row['n_items']} items"
        assert finding.estimate is not None
        assert finding.estimate.value == pytest.approx(100 * abs(row["difference"]))
        assert finding.evidence == ("established" if row["p_run"] < 0.05 else "in its table")


@pytest.mark.long
def test_every_difference_that_is_not_established_is_in_one_claim(comparison: lw.Comparison):
    found = no_difference_claims(comparison.differences)
    rest = rows(comparison.differences, significant=False, measure=list(MEASURES))
    assert sum(len(rows(rest, **one.source["where"])) for one in found) == len(rest) > 0
    for finding in found:
        assert finding.short.startswith("No difference in ")
        assert finding.evidence == "not established"
        assert finding.protocols == (finding.source["where"]["protocol"],)


def test_all_sentences_are_on_the_page(comparison: lw.Comparison, page: Report):
    text = html.unescape(page.html)
    assert len(page.findings) > MOST
    assert all(text.count(finding.full) == 1 for finding in page.findings)
    assert f"{len(comparison.established_claims()) - MOST} more are established" in text
    width = rows(comparison.differences, family="accuracy").eval("high - low").median()
    assert f"A typical 95 % interval is ±{50 * width:.0f} accuracy points, ±" in text


def test_the_headline_is_the_difference_that_most_capabilities_share(comparison: lw.Comparison):
    differences = comparison.claimable()
    told = " ".join(claim.short for claim in difference_claims(comparison.differences))
    # Layer 5 of 6 against layer 0.
    assert "By ablation, knowledge lies deeper in late $x$ (at 91 % of the depth) than in" in told
    assert headline(differences).startswith("By ablation, knowledge, reasoning and coherence lie")
    lens = differences["method"].str.contains("lens")
    assert headline(differences.loc[lens].assign(significant=True)).startswith("By logit lens, ")
    assert headline(differences.loc[~differences["significant"]]) == ""
    accuracy = differences.assign(significant=differences["family"] == "accuracy")
    assert " is right more often than " in headline(accuracy)


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize(
    "which", ["comparison", pytest.param("grouped_comparison", marks=pytest.mark.long)]
)
def test_figures_are_readable(request, which: str, width: float):
    for drawing in _drawings(request.getfixturevalue(which)):
        assert_legible(drawing.draw(width=width))


def test_role_maps_share_axis_and_scale_and_show_the_stacks(page: Report):
    figure = page.figures["roles_letter"]
    panels = [axes for axes in figure.axes if axes.get_title(loc="left")]
    assert len(panels) == 3
    assert {axes.get_xlim() for axes in panels} == {(0.0, 1.0)}
    meshes = [[m for m in axes.collections if m.get_gid() == "cells"] for axes in panels]
    assert {mesh.get_clim() for found in meshes for mesh in found} == {(0, 1)}
    edges = meshes[2][0].get_coordinates()[0, :, 0]
    assert np.allclose(edges, np.arange(10) / 9)
    lines = [[a for a in axes.get_lines() if a.get_gid() == "encoder | decoder"] for axes in panels]
    assert [len(found) for found in lines] == [0, 0, 1]
    assert lines[2][0].get_xdata()[0] == pytest.approx(4 / 9)
    assert "4 encoder | 5 decoder layers" in panels[2].get_title(loc="left")


def test_filled_points_are_the_established_ones(comparison: lw.Comparison, page: Report):
    figure = page.figures["differences_depth"]
    drawn = [a for axes in figure.axes for a in axes.get_lines()]
    filled, hollow = (
        sum(len(a.get_xdata()) for a in drawn if str(a.get_gid()).startswith(kind))
        for kind in ("sure", "unsure")
    )
    shown = rows(comparison.differences, family="depth", measure=list(MEASURES))
    assert (filled + hollow, filled) == (len(shown), int(shown["significant"].sum()))


@pytest.mark.long
@pytest.mark.usefixtures("blank_pictures")
def test_groups_tell_of_runs(grouped_comparison: lw.Comparison):
    told = difference_claims(grouped_comparison.differences)
    assert told
    assert all("3 against 3 runs" in finding.items for finding in told)
    page = grouped_comparison.report().html
    assert "The unit is the training run (3 of decoder and 3 of seq2seq)" in page
    assert "Spread within groups" in page


def test_names_from_users_are_escaped(page: Report):
    assert synthetic.HOSTILE not in page.html
    assert "<b>x" not in page.html
    assert "&lt;b&gt;x" in page.html
    assert "About architectures or ways of training one run says nothing." in page.html


@pytest.mark.long
def test_what_the_lens_cannot_see_of_an_encoder_decoder_is_told(
    comparison, grouped_comparison, page
):
    sentence = "By it no capability can lie in the encoder"
    assert sentence in caution(grouped_comparison)
    assert sentence in page.html
    alike = comparison.facts.model_copy(update={"runs": comparison.facts.runs[:2]})
    assert sentence not in caution(replace(comparison, facts=alike))
    unread = rows(comparison.differences, method="ablation")
    assert sentence not in caution(replace(comparison, differences=unread))


def test_losses_of_a_layer_are_not_claimed_between_models_of_other_numbers_of_layers(comparison):
    losses = rows(comparison.differences, family="share lost", significant=True)
    deeper = rows(losses, second="seq2seq")
    assert len(deeper)
    claimed = rows(comparison.claimable(), family="share lost", significant=True)
    assert len(claimed) == len(losses) - len(deeper)
    told = [claim.short for claim in comparison.established_claims()]
    assert not any("costs seq2seq" in one for one in told)
