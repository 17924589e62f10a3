"""Similarity against brute force and known values, and what it predicts where that is planted."""

from __future__ import annotations

from functools import cache
from itertools import combinations, pairwise, permutations
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

import layerwise as lw
from layerwise.analyses.similarity import result as similarity_tables
from layerwise.analyses.similarity.analysis import similarity_predicts
from layerwise.analyses.similarity.measures import angular_distances, linear_cka, unbiased_cka
from layerwise.analyses.similarity.result import prediction_table
from layerwise.errors import UserError
from layerwise.models import load_model
from layerwise.models.organisms.wired_seq2seq.layout import WiredSeq2SeqLayout
from layerwise.report.figures import prediction_ranges, similarity_map
from layerwise.results import AblationResult, SimilarityResult
from layerwise.runs.setup import prepare
from layerwise.storage.parquet import frame
from layerwise.storage.run_tables import RunTables
from layerwise.tasks import Task
from tests import synthetic
from tests.analysis import with_preferred_answers, word_task
from tests.cases import data_sets, in_long_runs, most_errors
from tests.models.seq2seq.tiny import tiny_folder
from tests.models.tiny import tiny_model
from tests.planted import CAPABILITIES, small_task
from tests.planted_seq2seq import small_seq2seq
from tests.report.legible import assert_legible

pytestmark = pytest.mark.drawn

N_LAYERS = 4
LAYOUT = WiredSeq2SeqLayout()
ROUNDING = 1e-5
TASK = word_task(12)
CASES = ("llama", "t5", "bart")
Depths = list[np.ndarray]


@cache
def case_model(case: str) -> Any:
    if case == "llama":
        return tiny_model("llama", num_hidden_layers=N_LAYERS)
    return load_model(tiny_folder(case))


@cache
def case_similarity(case: str) -> SimilarityResult:
    return lw.similarity(case_model(case), TASK, progress=False)


@pytest.fixture(scope="module")
def llama_similarity():
    return case_similarity("llama")


def streams(case: str, index: int, protocol: str) -> dict[str | None, Depths]:
    """By stack the streams of an item's prompt, depth by position, by one plain forward."""
    model = case_model(case)
    setup = prepare(model, TASK, protocol)
    context = setup.requests(TASK, TASK.items[index], protocol)[0].request.context
    sizes: dict[str | None, int] = {None: N_LAYERS}
    inputs = [torch.tensor([context])]
    if case != "llama":
        sizes = {"encoder": model.cfg.n_encoder_layers, "decoder": model.cfg.n_decoder_layers}
        inputs.append(torch.tensor([model.prefix]))
    _, cache = model.run_with_cache(*inputs)
    found = {}
    for stack, size in sizes.items():
        begin = "blocks" if stack is None else f"{stack}.blocks"
        names = [f"{begin}.{layer}.hook_resid_pre" for layer in range(size)]
        names.append(f"{begin}.{size - 1}.hook_resid_post")
        found[stack] = [cache[name][0].double().numpy() for name in names]
    return found


def prompt_vector(stack: str | None, resid: np.ndarray) -> np.ndarray:
    """The vector that stands for a prompt at a depth."""
    return resid.mean(axis=0) if stack == "encoder" else resid[-1]


def cosine(x: np.ndarray, y: np.ndarray) -> float:
    return float(x @ y / np.linalg.norm(x) / np.linalg.norm(y))


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("protocol", ["letter", *in_long_runs(("continuation",))])
def test_every_item_is_as_by_brute_force(case: str, protocol: str) -> None:
    for index in range(3):
        at, table = 0, case_similarity(case).similarity
        mine = (table["item"] == TASK.items[index].id) & (table["protocol"] == protocol)
        rows = table.loc[mine].set_index("layer")
        for stack, depths in streams(case, index, protocol).items():
            for k, (before, after) in enumerate(pairwise(depths)):
                turned = [cosine(x, y) for x, y in zip(before, after, strict=True)]
                assert rows["influence"][at] == pytest.approx(1 - np.mean(turned), abs=1e-5)
                here = prompt_vector(stack, before)
                angles = [np.arccos(cosine(here, prompt_vector(stack, y))) for y in depths[k + 1 :]]
                np.testing.assert_allclose(rows["angular"][at], np.array(angles) / np.pi, atol=1e-5)
                at += 1
        assert len(rows) == at


@pytest.mark.long(but=["llama", "bart"])
@pytest.mark.parametrize("case", CASES)
def test_cka_is_that_of_the_textbook_within_each_stack(case: str) -> None:
    items = [streams(case, index, "continuation") for index in range(len(TASK.items))]
    table, before = case_similarity(case).cka.query("protocol == 'continuation'"), 0
    for stack in items[0]:
        n = len(items[0][stack])
        ends = np.array([[prompt_vector(stack, x) for x in one[stack]] for one in items]).swapaxes(
            0, 1
        )
        centred = ends - ends.mean(axis=1, keepdims=True)
        rows = table if stack is None else table.loc[table["stack"] == stack]
        assert len(rows) == n * (n + 1) // 2
        # A decoder begins with the same tokens whatever is asked, and all prompts end alike.
        assert rows["cka"].isna().sum() == (0 if stack == "encoder" else n)
        for row in rows.dropna().itertuples():
            x, y = centred[row.layer - before], centred[row.other - before]
            norm = np.linalg.norm
            expected = norm(y.T @ x) ** 2 / (norm(x.T @ x) * norm(y.T @ y))
            assert row.cka == pytest.approx(expected, abs=1e-4)
        before += n - 1


def test_known_angles():
    same, orthogonal, opposite = np.array([3.0, 4.0]), np.array([-4.0, 3.0]), np.array([-6.0, -8.0])
    ends = np.stack([same, 2 * same, orthogonal, opposite, 0 * same])
    (found,) = angular_distances(ends[:, None])
    np.testing.assert_allclose(found[0], [0, 0, 0.5, 1, np.nan], atol=1e-12)


@pytest.mark.filterwarnings("ignore:invalid value encountered in arccos")
def test_a_cosine_that_rounds_above_one_is_no_distance_and_not_nan():
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(500, 7))
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    cosines = (unit * unit).sum(axis=1)
    over = unit[cosines > 1]
    assert len(over)
    assert np.isnan(np.arccos(cosines)).any()
    found = angular_distances(np.stack([over, over]))
    assert np.all(found[:, 0, 1] < 1e-7)


def hsic_by_the_formula(x: np.ndarray, y: np.ndarray) -> float:
    """HSIC_1 of Song et al. 2012, written with sums over all distinct indices."""
    n = len(x)
    k, m = x @ x.T, y @ y.T
    pairs = sum(k[i, j] * m[i, j] for i, j in permutations(range(n), 2))
    triples = sum(k[i, j] * m[i, q] for i, j, q in permutations(range(n), 3))
    quads = sum(k[i, j] * m[q, r] for i, j, q, r in permutations(range(n), 4))
    two, three, four = (np.prod(np.arange(n, n - count, -1.0)) for count in (2, 3, 4))
    return pairs / two - 2 * triples / three + quads / four


def test_unbiased_cka_is_that_of_the_definition():
    x = np.random.default_rng(1).normal(size=(2, 6, 4)) + 1
    own = [hsic_by_the_formula(one, one) for one in x]
    expected = hsic_by_the_formula(*x) / np.sqrt(own[0] * own[1])
    assert unbiased_cka(x)[0, 1] == pytest.approx(expected, abs=1e-10)
    assert np.isnan(unbiased_cka(x[:, :3])).all()


@pytest.mark.parametrize("seed", range(5))
def test_cka_does_not_change_with_rotation_scale_and_place(seed):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(2, 9, 5))
    turn, _ = np.linalg.qr(rng.normal(size=(5, 5)))
    moved = np.stack([x[0], 1e4 * (x[1] @ turn) + rng.normal(size=5)])
    for measure in (linear_cka, unbiased_cka):
        np.testing.assert_allclose(measure(moved), measure(x), atol=1e-8)


def test_means_mark_the_block_that_turns_least(llama_similarity):
    angular, influence = llama_similarity.angular(), llama_similarity.influence()
    for (protocol, n), cells in angular.groupby(["protocol", "n_layers"]):
        assert len(cells) == N_LAYERS - n + 1
        assert cells.loc[cells["least"], "distance"].tolist() == [cells["distance"].min()]
        table = llama_similarity.similarity
        rows = table.loc[(table["protocol"] == protocol) & (table["layer"] == 1)]
        if n < N_LAYERS:
            mean = np.mean([listed[n - 1] for listed in rows["angular"]])
            assert cells.set_index("layer").loc[1, "distance"] == pytest.approx(mean)
    assert (angular["low"] <= angular["distance"]).all()
    assert (angular["distance"] <= angular["high"]).all()
    means = llama_similarity.similarity.groupby(["protocol", "layer"])["influence"].mean()
    for row in influence.itertuples():
        assert row.influence == pytest.approx(means[row.protocol, row.layer])
        assert row.low < row.influence < row.high


def planted_similarity(n_layers: int = 12, n_items: int = 60, seed: int = 0):
    """Layer k costs k items, and turns the stream by k under one name and by -k under another."""
    rng = np.random.default_rng(seed)
    records, similar, cka = [], [], []
    for name, sign in (("along", 1), ("against", -1)):
        for i in range(n_items):
            key = {"task": name, "capability": name, "item": f"{i:03d}"}
            layers = [None, *range(n_layers)]
            records += [
                {
                    **key, "intervention": f"skip:layer={k}" if k is not None else "intact",
                    "kind": "intact" if k is None else "skip",
                    "site": None if k is None else "layer", "layer": k, "protocol": protocol,
                    "correct": k is None or i >= 3 * k,
                    "gold_logprob": None if protocol == "generate" else -0.1 * (k or 0),
                }
                for k in layers for protocol in ("letter", "generate")
            ]  # fmt: skip
            similar += [
                {
                    **key, "protocol": protocol, "layer": k, "influence": 10 + sign * k,
                    "angular": (10 + sign * k + rng.random(n_layers - k) / 10).tolist(),
                }
                for k in range(n_layers) for protocol in ("letter", "continuation")
            ]  # fmt: skip
        cka += [
            {
                "task": name, "capability": name, "protocol": protocol, "layer": k, "other": k + 1,
                "n_items": n_items, "cka": 0.5, "cka_unbiased": None if k == 0 else 0.5 - k / 99,
            }
            for k in range(n_layers) for protocol in ("letter", "continuation")
        ]  # fmt: skip
    return frame("records", records), frame("similarity", similar), frame("cka", cka)


def test_what_is_planted_is_predicted():
    records, similar, cka = planted_similarity()
    table = prediction_table(similar, cka, records, lambda *_: 0.0, 0)
    assert len(table) == 2 * 3 * (2 + 1)  # nothing in nats under ``generate``
    for row in table.itertuples():
        expected = -1 if row.capability == "against" and row.predictor != "cka" else 1
        assert row.rho == pytest.approx(expected)
        assert row.n_layers == (11 if row.predictor == "cka" else 12)
        assert row.p_holm < 0.05
        assert row.low <= row.rho <= row.high
    few = records.loc[records["layer"].isna() | (records["layer"] > 2)]
    assert prediction_table(similar, cka, few, lambda *_: 0.0, 0).empty  # not all layers skipped
    assert prediction_table(similar, cka, records, lambda *_: 1.0, 0).empty  # no signal


def unrelated_similarity(seed: int, n_layers: int = 12, n_items: int = 60):
    """A model that knows the answers; what a layer costs and how it turns the stream, drawn apart.

    Over many items both are known, and they are hardly ever uncorrelated.
    """
    rng = np.random.default_rng(seed)
    cost, turn = rng.beta(1, 4, n_layers), rng.random(n_layers)
    right = rng.random((n_items, 1)) < 0.9
    right = np.hstack([right, right & (rng.random((n_items, n_layers)) > cost)])
    records = synthetic.cell_records(right, "keys", "retrieval", "letter")
    spread = rng.exponential(size=(n_items, n_layers))
    nats = np.hstack([np.zeros((n_items, 1)), 4 * cost * spread])
    noise = 0.1 * rng.standard_normal((2, n_items, n_layers))
    same = {"task": "keys", "capability": "retrieval", "protocol": "letter"}
    similar = [
        {
            **same, "item": f"keys/{i:04d}", "layer": k, "influence": turn[k] + noise[0, i, k],
            "angular": (turn[k] + noise[1, i, k] + np.zeros(n_layers - k)).tolist(),
        }
        for i in range(n_items) for k in range(n_layers)
    ]  # fmt: skip
    cka = [
        {
            **same, "layer": k, "other": k + 1, "n_items": n_items, "cka": 0.5,
            "cka_unbiased": 1 - turn[k] / 2,
        }
        for k in range(n_layers)
    ]  # fmt: skip
    return records.assign(gold_logprob=-nats.ravel()), frame("similarity", similar), cka


@pytest.mark.long
@pytest.mark.slow
def test_layers_whose_need_has_nothing_to_do_with_similarity_are_rarely_told(monkeypatch):
    monkeypatch.setattr(similarity_tables, "N_RESAMPLES", 400)
    sets, told, by_items = data_sets(80), 0, 0
    for seed in range(sets):
        records, similar, cka = unrelated_similarity(seed)
        table = prediction_table(similar, frame("cka", cka), records, lambda *_: 0.0, 0)
        run = RunTables(synthetic.facts(n_layers=12), {"prediction": table})
        told += bool(similarity_predicts(run))
        by_items += bool(((table["low"] > 0) | (table["high"] < 0)).any())
    assert told <= most_errors(sets)
    assert by_items > sets / 2


@pytest.mark.long
def test_a_result_predicts_an_ablation_of_the_same_items_and_the_report_shows_it():
    model = case_model("llama")
    task = with_preferred_answers(model, word_task(24))
    found = lw.similarity(model, task, "continuation", progress=False)
    ablation = lw.ablate(model, task, "continuation", progress=False)
    table = found.predicts(ablation)
    effects, turned = ablation.effects()["share_lost"], found.influence()["influence"]
    (rho,) = table.query("effect == 'share_lost' and predictor == 'influence'")["rho"]
    assert rho == pytest.approx(spearmanr(turned, effects).statistic)
    page = lw.report([found, ablation])
    assert {"similarity_continuation", "prediction"} <= set(page.figures)
    assert "Similarity of layers</h2>" in page.html
    assert "Similarity of layers</h2>" not in lw.report([ablation]).html


def test_other_items_are_refused():
    records, similar, cka = planted_similarity()
    fewer = similar.loc[similar["item"] != "003"]
    with pytest.raises(UserError, match=r"other items of task 'against' \(60 and 59\)"):
        prediction_table(fewer, cka, records, lambda *_: 0.0, 0)
    tasks = [synthetic.task_facts("along", "along", n_items=n) for n in (60, 59)]
    facts = [
        synthetic.facts(task.model_copy(update={"hash": f"of {task.n_items}"})) for task in tasks
    ]
    with pytest.raises(UserError, match="do not belong together"):
        SimilarityResult(similar, cka, facts[0]).predicts(AblationResult(records, facts[1]))


def test_blocks_are_within_one_stack() -> None:
    """Of 3 encoder and 2 decoder layers."""
    angular = case_similarity("t5").angular().query("protocol == 'letter'")
    blocks = zip(angular["layer"], angular["layer"] + angular["n_layers"], strict=True)
    assert set(blocks) == {*combinations(range(4), 2), *combinations(range(3, 6), 2)}


@cache
def similarity_and_ablation() -> tuple[SimilarityResult, AblationResult]:
    tasks, model = [small_task(name, 24) for name in CAPABILITIES], small_seq2seq(LAYOUT)
    found = lw.similarity(model, tasks, "continuation", progress=False)
    return found, lw.ablate(model, tasks, "continuation", progress=False)


@pytest.mark.long
def test_effects_are_predicted_over_both_stacks_and_over_each() -> None:
    found, ablation = similarity_and_ablation()
    table, n = found.predicts(ablation), LAYOUT.n_encoder_layers
    assert len(table) == len(CAPABILITIES) * 3 * 2 * 3
    assert set(table["stack"].dropna()) == {"encoder", "decoder"}
    effects = ablation.effects().query("capability == 'reasoning'")["nats"].to_numpy(float)
    turned = found.influence().query("capability == 'reasoning'")["influence"].to_numpy(float)
    rows = table.query("capability == 'reasoning' and effect == 'nats' and predictor=='influence'")
    for stack, layers in ((None, slice(None)), ("encoder", slice(n)), ("decoder", slice(n, None))):
        mine = rows.loc[rows["stack"].isna() if stack is None else rows["stack"] == stack]
        (row,) = mine.itertuples()
        assert row.rho == pytest.approx(spearmanr(turned[layers], effects[layers]).statistic)
        assert row.n_layers == len(turned[layers])
        assert row.low <= row.rho + 1e-9


@pytest.mark.long
def test_a_stack_of_one_layer_says_nothing_and_does_not_fail() -> None:
    model = case_model("t5-one-layer")
    task: Task = TASK
    found = lw.similarity(model, task, "continuation", progress=False)
    assert found.angular()["n_layers"].tolist() == [1, 1]
    ablation = lw.ablate(model, task, "continuation", progress=False)
    assert found.predicts(ablation)["rho"].dropna().abs().le(1).all()


@pytest.mark.long
def test_figures_are_legible_and_part_the_stacks() -> None:
    found, ablation = similarity_and_ablation()
    page = lw.report([found, ablation])
    assert {"similarity_continuation", "prediction"} <= set(page.figures)
    figure = page.figures["similarity_continuation"]
    parted = [line for axes in figure.axes for line in axes.get_lines()
              if line.get_gid() == "encoder | decoder"]  # fmt: skip
    explained = [text.get_text() for text in figure.legends[0].get_texts()]
    assert explained == [*CAPABILITIES, "turns the stream least"]
    assert len(parted) == 4  # one axis of blocks and of layers each, and two of depths
    assert "stream is averaged over its positions, the decoder" in page.html
    predictions = found.predicts(ablation)
    for width in (3.3, 6.9):
        assert_legible(similarity_map(found.angular(), found.influence(), found.cka, width=width))
        names = prediction_ranges(predictions, width)
        assert_legible(names)
        shown = [tick.get_text() for tick in names.axes[0].get_yticklabels()]
        assert shown == ["retrieval", "encoder", "decoder", "knowledge", "encoder", "decoder",
                         "reasoning", "encoder", "decoder"]  # fmt: skip
