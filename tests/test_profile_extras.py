"""A profile with everything on, of a trained model whose retrieving layers are known."""

from __future__ import annotations

import inspect
from dataclasses import replace
from types import SimpleNamespace

import pandas as pd
import pytest

import layerwise as lw
from layerwise.analyses.plugins import own_analyses
from layerwise.errors import UserError
from layerwise.ground.analysis_folders import JOINING, MEASURING
from layerwise.models import load_model
from layerwise.models.organisms.language import ORGANISM
from layerwise.planning.plan import plan_run
from layerwise.profiling.api import EXTRAS, wanted_extras
from layerwise.results import AblationResult, EmergenceResult
from layerwise.tasks import load_task
from layerwise.tasks.suites import toy

OPTIONS = {"protocols": ["continuation", "generate"], "limit": 12, "pairs": 2, "also": "all"}


@pytest.fixture(scope="module")
def model():
    return load_model("organism-decoder")


@pytest.mark.long
def test_everything_is_made_shown_and_read_again(model, tmp_path, monkeypatch):
    """One test, so that the profile is made by one process only."""
    folder = tmp_path / "run"
    found = lw.profile(model, "organism-lookup", out=folder, progress=False, **OPTIONS)
    assert_every_analysis_has_its_result_and_its_section(found, folder)
    assert_one_intact_run(found.results[0], model)
    monkeypatch.setattr("layerwise.sweep.walk.engine_run.block_runners", None)
    monkeypatch.setattr("layerwise.report.html.render", lambda pages: ("", {}))  # was drawn before
    again = lw.profile(model, "organism-lookup", out=folder, progress=False, **OPTIONS)
    by_kind = {type(result): result.to_pandas() for result in again.results}
    for result in found.results:
        pd.testing.assert_frame_equal(result.to_pandas(), by_kind[type(result)])


def assert_every_analysis_has_its_result_and_its_section(found, folder):
    kinds = [type(result).__name__ for result in found.results]
    assert kinds == [
        "AblationResult", "LensResult", "PatchingResult", "HeadsResult", "AttributionResult",
        "SimilarityResult", "RemovalResult", "AttributionPatchingResult", "PathPatchingResult",
        "EarlyExitResult", "EmergenceResult",
    ]  # fmt: skip
    assert {type(result).__name__ for result in lw.load(folder)} == set(kinds)
    assert set(found.results[-1].emergence["method"]) == {
        "ablation", "logit lens", "activation patching", "direct attribution",
    }  # fmt: skip
    page = (folder / "report.html").read_text("utf-8")
    for heading in (
        "Direct logit attribution", "Removal of layers", "Direct paths", "Estimated patches",
        "Induction heads", "Early exit", "Protocols and groups of layers", "Agreement of methods",
    ):  # fmt: skip
        assert heading in page


def assert_one_intact_run(ablation, model):
    sites = ablation.records.groupby("site", dropna=False)["intervention"].nunique()
    n_layers, n_heads = model.cfg.n_layers, model.cfg.n_heads
    expected = {
        "layer": n_layers, "attn_out": n_layers, "mlp_out": n_layers, "z": n_layers * n_heads,
    }  # fmt: skip
    assert {site: n for site, n in sites.items() if isinstance(site, str)} == expected
    assert (ablation.records["intervention"] == "intact").sum() == 2 * 12
    layers = ablation.effects().query("site == 'layer' and protocol == 'generate' and significant")
    assert set(layers["layer"]) == {2, 3}


@pytest.mark.long
def test_interactions_are_those_of_the_analysis_itself(model, tmp_path):
    options = {"limit": 33, "progress": False}
    asked = model, "organism-lookup", "continuation"
    more = lw.profile(*asked, pairs=1, also="interactions", out=tmp_path, **options).results
    by_kind = {type(result).__name__: result for result in more}
    found = by_kind["InteractionsResult"]
    expected = lw.interactions(*asked, **options)
    pd.testing.assert_frame_equal(found.pairs(), expected.pairs())
    # its pieces are not taken for those of the ablation, which has tasks and items of the same name
    records = by_kind["AblationResult"].records
    skipped = set(records.loc[records["kind"] == "skip", "intervention"])
    assert skipped == {f"skip:layer={layer}" for layer in range(model.cfg.n_layers)}
    assert "What costs more together than apart" in (tmp_path / "report.html").read_text("utf-8")
    plan = plan_run(*asked, analysis="profile", also="interactions", limit=33, untimed=True)
    (row,) = [row for row in plan.rows if row.analysis == "interactions"]
    (work,) = [work for work in found.facts.work if work["analysis"] == "interactions"]
    assert row.cost.token_passes == work["token_passes"]
    assert not any("Not in this plan" in note for note in plan.notes)


def test_interactions_of_all_pairs_are_refused_where_there_are_none_or_too_many():
    for n_layers in (1, 120):
        with pytest.raises(UserError, match=f"all pairs of {n_layers} layers? make"):
            wanted_extras(["interactions"], SimpleNamespace(n_layers=n_layers))


def test_interactions_need_a_protocol_that_has_nats(model):
    found = lw.profile(
        model, "organism-lookup", "generate", limit=8, pairs=1, also="interactions", progress=False
    )
    assert "InteractionsResult" not in {type(result).__name__ for result in found.results}


def test_additions_by_name(model):
    assert wanted_extras((), model.cfg) == ()
    assert wanted_extras(["all"], model.cfg) == tuple(n for n in EXTRAS if n != "interactions")
    assert wanted_extras(["removal", "parts"], model.cfg) == ("parts", "removal")
    with pytest.raises(UserError, match=r"Unknown addition to a profile 'head'\. Did you mean"):
        lw.profile(model, "organism-lookup", also="head", progress=False)


def test_help_names_every_addition_of_this_package():
    for analysis in own_analyses((*MEASURING, *JOINING)):
        for extra in analysis.extras:
            assert f"``{extra.name}``" in str(inspect.getdoc(lw.profile)), extra.name


@pytest.mark.long
def test_draws_of_examples_are_in_effects_and_what_has_but_the_first_is_told(model, tmp_path):
    whole = load_task("organism-lookup")
    draws = [whole.items[150 + i : 151 + i] for i in range(3)]
    task = replace(whole, items=whole.items[:12], fewshot=draws[0], other_fewshot=tuple(draws[1:]))
    given = {"fewshot_seeds": 3, "pairs": 1, "also": "similarity"}
    found = lw.profile(model, task, "continuation", out=tmp_path, progress=False, **given)
    ablation, depths = found.results[0], found.results[-1]
    assert isinstance(ablation, AblationResult)
    assert isinstance(depths, EmergenceResult)
    alone = lw.ablate(model, task, "continuation", fewshot_seeds=3, progress=False)
    pd.testing.assert_frame_equal(ablation.effects(), alone.effects())
    assert set(ablation.signal()["n_examples"]) == {3}
    assert "ablation" not in set(depths.emergence["method"])
    (reason,) = depths.left_out.query("method == 'ablation'")["reason"]
    assert "several draws of few-shot examples" in reason
    page = (tmp_path / "report.html").read_text("utf-8")
    assert "means over items and 3 draws of the few-shot examples" in page
    assert "prediction" not in {path.stem for path in tmp_path.glob("*.parquet")}
    kinds = {type(result) for result in lw.load(tmp_path)}
    assert kinds == {type(result) for result in found.results}
    plan = {"analysis": "profile", "untimed": True, "memory_budget": 2**28}
    planned = plan_run(model, task, "continuation", **plan, **given)
    assert "with 3 draws of the few-shot examples" in " ".join(planned.notes)
    once = plan_run(model, task, "continuation", **plan, pairs=1)
    passes = [
        sum(row.cost.token_passes for row in one.rows if row.analysis == "ablation")
        for one in (once, planned)
    ]
    assert passes[1] > 2.5 * passes[0]
    with pytest.raises(UserError, match="expected 1 to 10"):
        lw.profile(model, task, "continuation", fewshot_seeds=11, progress=False)


@pytest.mark.long
def test_closed_and_open_book_are_not_compared_over_draws_of_examples(model, tmp_path):
    """Answers are compared one by one, which means over draws are not; all else is as for one."""
    tasks = []
    for whole in (toy.facts(ORGANISM), toy.facts_open_book(ORGANISM)):
        draws = [whole.items[150 + i : 151 + i] for i in range(2)]
        chosen = {"items": whole.items[:12], "fewshot": draws[0], "other_fewshot": (draws[1],)}
        tasks.append(replace(whole, **chosen))
    given = {"protocols": "continuation", "layers": [0], "progress": False}
    several = lw.ablate(model, tasks, fewshot_seeds=2, out=tmp_path, **given)
    once = lw.ablate(model, tasks, **given)
    assert [len(one.book_tables()["book_pairs"]) for one in (several, once)] == [0, 1]
    assert several.books().empty
    assert not list(tmp_path.glob("book*.parquet"))
    assert set(several.records["closed_book"].dropna()) == {one.id for one in tasks[0].items}
    effects = several.effects()
    assert set(effects["task"]) == {one.name for one in tasks}
    assert set(effects["n_examples"]) == {2}
    page = lw.report(several).html
    assert "the scoring steps and what a passage protects are left out" in page
    assert 'id="books"' not in page
    assert lw.load(tmp_path)[0].books().empty
