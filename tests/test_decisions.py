"""Layers decided in rounds: the verdicts of all items, by fewer answers, and no other ones."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

import layerwise as lw
from layerwise.analyses.decisions.figures import decision_strip, layer_verdicts
from layerwise.analyses.decisions.verdicts import Rules
from layerwise.errors import UserError
from layerwise.models.organisms.layout import WiredLayout
from layerwise.planning.plan import plan_run
from layerwise.report.html import findings
from layerwise.stats.cells import cells, layer_skips
from layerwise.stats.sequential.asked import asked_cells
from layerwise.stats.sequential.decisions import decisions
from layerwise.stats.signals.signal import signals
from tests.analysis import word_task
from tests.models.tiny import tiny_model
from tests.planted import PlantedTruth, small_model, small_task
from tests.stopping import kept_parts

TASKS = ["organism-lookup", "organism-facts"]
ASKED = {"limit": 60, "progress": False, "seed": 2}
ALL = ("needed", "spare", "crossing")


@pytest.fixture(scope="module")
def model():
    return lw.load_model("organism-decoder")


@pytest.fixture(scope="module")
def decided(model) -> lw.DecisionsResult:
    return lw.decide(
        model, TASKS, ("continuation", "generate"), questions=ALL, round_items=12, **ASKED
    )


@pytest.fixture(scope="module")
def complete(model) -> lw.AblationResult:
    return lw.ablate(model, TASKS, ("continuation", "generate"), **ASKED)


def reference(complete: lw.AblationResult, decided: lw.DecisionsResult) -> pd.DataFrame:
    """The same verdicts from all answers, in which nothing was left out."""
    every = list(cells(layer_skips(complete.records)))
    chance = complete.facts.chance
    floors = {(one.task, one.protocol): one.floor(chance(one.task, one.protocol)) for one in every}
    rules = Rules.from_facts(decided.facts)
    return decisions(
        every, signals(every, chance), floors, seed=rules.seed, measure=rules.measure,
        questions=rules.questions, smallest=rules.smallest, round_size=rules.round_items,
    )  # fmt: skip


def test_verdicts_are_those_of_complete_records(decided, complete):
    found, expected = decided.decisions(), reference(complete, decided)
    assert len(found) == 2 * 2 * 8 * 3
    for name in ("capability", "layer", "question", "established", "n_items", "n_asked", "n_all"):
        assert found[name].tolist() == expected[name].tolist(), name
    numbers = ["estimate", "low", "high", "p", "p_holm"]
    assert np.allclose(found[numbers], expected[numbers].astype(float), atol=2e-4)


def test_answers_are_those_of_an_ablation_and_fewer(decided, complete):
    key = ["task", "protocol", "item", "intervention"]
    both = decided.decision_records.merge(complete.records, on=key, suffixes=("", "_all"))
    assert len(both) == len(decided.decision_records) < len(complete.records)
    assert (both["correct"] == both["correct_all"]).all()
    scores = both[["gold_logprob", "gold_logprob_all"]].to_numpy(dtype=float)
    assert np.allclose(scores[:, 0], scores[:, 1], atol=1e-3, equal_nan=True)
    assert 0 < decided.share_asked() < 1


def test_work_is_saved_where_verdicts_are_clear(model):
    asked = {"limit": 200, "progress": False}
    result = lw.decide(model, "organism-lookup", "continuation", **asked)
    whole = lw.ablate(model, "organism-lookup", "continuation", **asked)
    assert result.decisions().groupby("layer")["established"].any().all()
    assert result.share_asked() < 0.45
    done, all_of_it = (
        sum(entry["token_passes"] for entry in one.facts.work) for one in (result, whole)
    )
    assert done < 0.7 * all_of_it


def test_planted_layers_are_needed_and_all_others_spare():
    layout = WiredLayout()
    tasks = [small_task("retrieval", 80), small_task("knowledge", 32)]
    result = lw.decide(small_model(layout), tasks, "continuation", measure="nats", progress=False)
    table = result.decisions()
    for capability in ("retrieval", "knowledge"):
        own = table.loc[table["established"] & (table["capability"] == capability)]
        planted = PlantedTruth(layout, capability).critical("layer", "skip")
        assert set(own.loc[own["question"] == "needed", "layer"]) == planted
        spare = set(own.loc[own["question"] == "spare", "layer"])
        assert not planted & spare
        if capability == "retrieval":  # 32 items are too few to show that nothing is lost
            assert planted | spare == set(range(layout.n_layers))


def test_capabilities_that_need_different_layers_cross(decided):
    table = decided.decisions()
    crossed = table.loc[table["established"] & (table["question"] == "crossing")]
    assert set(crossed["capability"]) == {"retrieval", "knowledge"}
    assert (crossed["other"] != crossed["capability"]).all()
    needed = table.loc[table["established"] & (table["question"] == "needed")]
    places = set(zip(needed["capability"], needed["layer"], strict=True))
    assert set(zip(crossed["capability"], crossed["layer"], strict=True)) <= places


def test_every_answer_that_counts_was_asked_and_no_other(decided):
    table = decided.decisions().drop_duplicates(["capability", "protocol", "layer"])
    skips = decided.decision_records.query("kind == 'skip'")
    n_asked = skips.groupby(["capability", "protocol", "layer"]).size()
    for row in table.to_dict("records"):
        place = row["capability"], row["protocol"], row["layer"]
        assert n_asked[place] == row["n_asked"]


def test_verdicts_without_an_answer_that_they_need_are_refused(decided):
    records, rules = decided.decision_records, Rules.from_facts(decided.facts)
    chance = decided.facts.chance
    first = records.index[records["kind"] == "skip"][0]
    with pytest.raises(UserError, match="are missing that a verdict needs"):
        rules.table(records.drop(index=first), chance)
    doubled = pd.concat([records, records.loc[[first]]], ignore_index=True)
    with pytest.raises(UserError, match=r"Some answers of task .* are doubled"):
        rules.table(doubled, chance)
    other = records.assign(layer=records["layer"].mask(records.index == first, 99))
    with pytest.raises(UserError, match="of other items or layers than the run asked about"):
        rules.table(other, chance)


def test_answers_that_were_not_asked_stand_as_if_nothing_changed(decided):
    records = decided.decision_records
    baseline = records.loc[records["kind"] != "skip"]
    for one in asked_cells(baseline, range(8)):
        assert not one.asked.any()
        assert (one.cell.correct == one.cell.intact[:, None]).all()
        written = one.cell.protocol == "generate"
        assert np.isnan(one.cell.nats).all() if written else (one.cell.nats == 0).all()


def test_a_run_that_was_stopped_takes_the_same_rounds(model, decided, tmp_path):
    run = {"questions": ALL, "round_items": 12, "out": tmp_path / "run", **ASKED}
    with kept_parts() as parts:
        again = lw.decide(model, TASKS, ("continuation", "generate"), **run)
    assert any("round 3" in name for name in parts)
    assert len(parts) == len(set(parts))
    pd.testing.assert_frame_equal(again.decisions(), decided.decisions())
    (loaded,) = lw.load(tmp_path / "run")
    pd.testing.assert_frame_equal(loaded.decisions(), decided.decisions())
    assert lw.verify(tmp_path / "run").ok


def test_of_a_model_that_guesses_nothing_is_asked_or_said():
    result = lw.decide(
        tiny_model("llama"), [word_task(40)], "letter", progress=False, round_items=8
    )
    assert result.decisions().empty
    assert set(result.decision_records["kind"]) >= {"intact", "no layers"}
    assert "skip" not in set(result.decision_records["kind"])
    assert np.isnan(result.share_asked())
    assert "guesses" in lw.report(result).text


def test_a_page_says_which_layers_are_needed_and_how_many_answers_that_took(decided):
    report = lw.report(decided)
    shorts = [claim.short for claim in findings([decided])]
    assert shorts[0].startswith("Retrieval needs layers")
    assert all(len(short.split()) <= 25 for short in shorts)
    assert any("depends in particular on" in short for short in shorts)
    assert "Decisions: needed and spare layers" in report.html
    assert "of the answers without a layer were asked" in repr(decided.notes())
    chooses = decided.decision_records["protocol"] == "continuation"
    one_way = lw.results.DecisionsResult(decided.decision_records.loc[chooses], decided.facts)
    shorts = [claim.short for claim in findings([one_way])]
    assert any("when it chooses; it took" in short for short in shorts)
    assert not any("however it is scored" in short for short in shorts)
    with_nothing = decided.decisions().assign(established=False)
    assert set(layer_verdicts(with_nothing)["look"]) == {"open"}


@pytest.mark.parametrize("width", [3.3, 6.9])
def test_the_strip_marks_each_verdict_once(decided, width):
    table = decided.decisions()
    figure = decision_strip(table, width=width)
    labels = {text.get_text() for legend in figure.legends for text in legend.get_texts()}
    looks = set(layer_verdicts(table)["look"])
    assert len([name for name in labels if name.startswith(("needed:", "spare:", "open"))]) == len(
        looks
    )
    plt.close(figure)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"round_items": 0}, "Rounds of 0 items were asked for; expected at least 1"),
        ({"measure": "nats"}, "Written answers have no log-probability"),
        ({"measure": "points"}, "points"),
        ({"questions": "general"}, "Unknown question 'general'"),
        ({"questions": []}, "questions"),
        ({"layers": [99]}, "Layer 99 is out of range"),
        ({"smallest_nats": -1.0}, "smallest"),
    ],
)
def test_wrong_arguments_are_refused_before_any_work(given, says):
    with pytest.raises(UserError, match=says):
        lw.decide(tiny_model("llama"), [word_task(8)], "generate", progress=False, **given)


def test_an_encoder_decoder_is_decided_layer_by_layer():
    model = lw.load_model("organism-seq2seq")
    result = lw.decide(
        model, "organism-lookup", "continuation", layers=["encoder.1", "decoder.0"], **ASKED
    )
    assert set(result.decisions()["layer"]) <= {1, 5}
    assert len(lw.report(result).text) > 0


def test_a_plan_says_the_most_that_decisions_cost(model):
    asked = {"limit": 24, "untimed": True}
    planned = plan_run(model, TASKS, "continuation", analysis="decisions", **asked)
    swept = plan_run(model, TASKS, "continuation", analysis="ablation", **asked)
    assert "the most that they take" in " ".join(planned.notes)
    of_tasks = [[row.cost.token_passes for row in plan.rows] for plan in (planned, swept)]
    assert (np.array(of_tasks[0]) >= np.array(of_tasks[1])).all()
