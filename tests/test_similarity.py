"""Similarity against brute force and known values, and what it predicts where that is planted."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr

import layerwise as lw
from layerwise import stats
from layerwise.analyses.similarity import result as similarity_tables
from layerwise.analyses.similarity.analysis import similarity_predicts
from layerwise.analyses.similarity.measures import angular_distances, linear_cka, unbiased_cka
from layerwise.analyses.similarity.result import prediction_table
from layerwise.errors import UserError
from layerwise.models import original_tokenizer
from layerwise.results import AblationResult, SimilarityResult
from layerwise.storage.parquet import frame
from layerwise.storage.run_tables import RunTables
from layerwise.tasks import build_requests
from tests import analysis, synthetic
from tests.analysis import documented_columns, solved_by, word_task, write_jsonl
from tests.cases import data_sets, most_errors
from tests.models.tiny import tiny_model

N_LAYERS = 4


@pytest.fixture(scope="module")
def model():
    return tiny_model("llama", num_hidden_layers=N_LAYERS)


@pytest.fixture(scope="module")
def task(model):
    return solved_by(model, word_task(24))


@pytest.fixture(scope="module")
def found(model, task):
    return lw.similarity(model, task, progress=False)


def streams(model, task, item, protocol) -> np.ndarray:
    """The streams of an item's prompt, depth by position, by one plain forward."""
    asked = build_requests(task, item, protocol, original_tokenizer(model))
    tokens = torch.tensor([next(one for one in asked if one.gold).request.context])
    _, cache = model.run_with_cache(tokens)
    places = [cache["resid_pre", layer][0] for layer in range(N_LAYERS)]
    return torch.stack([*places, cache["resid_post", N_LAYERS - 1][0]]).double().numpy()


def cosine(x: np.ndarray, y: np.ndarray) -> float:
    return float(x @ y / np.linalg.norm(x) / np.linalg.norm(y))


@pytest.mark.parametrize("protocol", ["letter", "continuation"])
def test_every_item_is_as_by_brute_force(model, task, found, protocol):
    assert list(found.similarity.columns) == documented_columns("similarity.parquet")
    for item in task.items[:5]:
        x = streams(model, task, item, protocol)
        rows = found.similarity.query("item == @item.id and protocol == @protocol")
        assert rows["layer"].tolist() == list(range(N_LAYERS))
        for row in rows.itertuples():
            turned = [cosine(a, b) for a, b in zip(x[row.layer], x[row.layer + 1], strict=True)]
            assert row.influence == pytest.approx(1 - np.mean(turned), abs=1e-5)
            last = [np.arccos(cosine(x[row.layer, -1], later)) for later in x[row.layer + 1 :, -1]]
            np.testing.assert_allclose(row.angular, np.array(last) / np.pi, atol=1e-5)


def test_cka_is_that_of_the_textbook(model, task, found):
    assert list(found.cka.columns) == documented_columns("cka.parquet")
    ends = np.stack([streams(model, task, i, "continuation")[:, -1] for i in task.items], axis=1)
    centred = ends - ends.mean(axis=1, keepdims=True)
    rows = found.cka.query("protocol == 'continuation'")
    assert len(rows) == (N_LAYERS + 1) * (N_LAYERS + 2) // 2
    assert rows["cka"].isna().sum() == N_LAYERS + 1  # all prompts end with the same token
    for row in rows.dropna().itertuples():
        x, y = centred[row.layer], centred[row.other]
        norm = np.linalg.norm
        expected = norm(y.T @ x) ** 2 / (norm(x.T @ x) * norm(y.T @ y))
        assert row.cka == pytest.approx(expected, abs=1e-4)


def test_known_angles():
    same, orthogonal, opposite = np.array([3.0, 4.0]), np.array([-4.0, 3.0]), np.array([-6.0, -8.0])
    (found,) = angular_distances(np.stack([same, 2 * same, orthogonal, opposite])[:, None])
    np.testing.assert_allclose(found[0], [0, 0, 0.5, 1], atol=1e-12)


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


def test_a_stream_of_zeros_has_no_direction():
    assert np.isnan(angular_distances(np.stack([np.zeros((1, 3)), np.ones((1, 3))]))[0, 0, 1])


def hsic_by_the_formula(x: np.ndarray, y: np.ndarray) -> float:
    """HSIC_1 of Song et al. 2012, written with sums over all distinct indices."""
    n = len(x)
    k, m = x @ x.T, y @ y.T
    pairs = sum(k[i, j] * m[i, j] for i in range(n) for j in range(n) if i != j)
    triples = sum(
        k[i, j] * m[i, q]
        for i in range(n) for j in range(n) for q in range(n) if len({i, j, q}) == 3
    )  # fmt: skip
    quads = sum(
        k[i, j] * m[q, r]
        for i in range(n) for j in range(n) for q in range(n) for r in range(n)
        if len({i, j, q, r}) == 4
    )  # fmt: skip
    two, three, four = (np.prod(np.arange(n, n - count, -1.0)) for count in (2, 3, 4))
    return pairs / two - 2 * triples / three + quads / four


def test_unbiased_cka_is_that_of_the_definition():
    x = np.random.default_rng(1).normal(size=(2, 6, 4)) + 1
    own = [hsic_by_the_formula(one, one) for one in x]
    expected = hsic_by_the_formula(*x) / np.sqrt(own[0] * own[1])
    assert unbiased_cka(x)[0, 1] == pytest.approx(expected, abs=1e-10)
    assert np.isnan(unbiased_cka(x[:, :3])).all()


def test_of_unrelated_streams_only_the_unbiased_cka_is_near_zero():
    x = np.random.default_rng(2).normal(size=(2, 40, 500))
    assert linear_cka(x)[0, 1] > 0.8
    assert abs(unbiased_cka(x)[0, 1]) < 0.1


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6))
def test_cka_does_not_change_with_rotation_scale_and_place(seed):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(2, 9, 5))
    turn, _ = np.linalg.qr(rng.normal(size=(5, 5)))
    moved = np.stack([x[0], 1e4 * (x[1] @ turn) + rng.normal(size=5)])
    for measure in (linear_cka, unbiased_cka):
        np.testing.assert_allclose(measure(moved), measure(x), atol=1e-8)


def test_means_mark_the_block_that_turns_least(found):
    angular, influence = found.angular(), found.influence()
    for (protocol, n), cells in angular.groupby(["protocol", "n_layers"]):
        assert len(cells) == N_LAYERS - n + 1
        assert cells.loc[cells["least"], "distance"].tolist() == [cells["distance"].min()]
        table = found.similarity
        rows = table.loc[(table["protocol"] == protocol) & (table["layer"] == 1)]
        if n < N_LAYERS:
            mean = np.mean([listed[n - 1] for listed in rows["angular"]])
            assert cells.set_index("layer").loc[1, "distance"] == pytest.approx(mean)
    assert (angular["low"] <= angular["distance"]).all()
    assert (angular["distance"] <= angular["high"]).all()
    means = found.similarity.groupby(["protocol", "layer"])["influence"].mean()
    for row in influence.itertuples():
        assert row.influence == pytest.approx(means[row.protocol, row.layer])
        assert row.low < row.influence < row.high


def planted(n_layers: int = 12, n_items: int = 60, seed: int = 0):
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
    records, similar, cka = planted()
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


def test_nothing_is_predicted_where_effects_and_similarity_are_unrelated():
    rng = np.random.default_rng(5)
    records, similar, cka = planted()
    shuffled = {layer: int(new) for layer, new in enumerate(rng.permutation(12))}
    similar = similar.assign(influence=[shuffled[layer] for layer in similar["layer"]])
    lost = rng.random(len(records)) < 0.1
    records = records.assign(correct=(records["kind"] == "intact") | ~lost)
    table = prediction_table(similar, cka, records, lambda *_: 0.0, 0)
    shares = table.loc[(table["effect"] == "share_lost") & (table["predictor"] == "influence")]
    assert len(shares) == 4
    assert (shares["p_holm"] > 0.05).all()


def unrelated(seed: int, n_layers: int = 12, n_items: int = 60):
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


@pytest.mark.slow
def test_layers_whose_need_has_nothing_to_do_with_similarity_are_rarely_told(monkeypatch):
    monkeypatch.setattr(similarity_tables, "N_RESAMPLES", 400)
    sets, told, by_items = data_sets(80), 0, 0
    for seed in range(sets):
        records, similar, cka = unrelated(seed)
        table = prediction_table(similar, frame("cka", cka), records, lambda *_: 0.0, 0)
        run = RunTables(synthetic.facts(n_layers=12), {"prediction": table})
        told += bool(similarity_predicts(run))
        by_items += bool(((table["low"] > 0) | (table["high"] < 0)).any())
    assert told <= most_errors(sets)
    assert by_items > sets / 2


def test_correlations_are_scipys():
    rng = np.random.default_rng(3)
    one, other = rng.integers(0, 4, (20, 9)).astype(float), rng.normal(size=(20, 9))
    expected = [spearmanr(a, b).statistic for a, b in zip(one, other, strict=True)]
    np.testing.assert_allclose(stats.rank_correlations(one, other), expected, atol=1e-12)
    assert np.isnan(stats.rank_correlations(np.ones((1, 5)), other[:1, :5]))[0]


def test_a_result_predicts_an_ablation_of_the_same_items_and_the_report_shows_it(
    model, task, found
):
    ablation = lw.ablate(model, task, ["letter", "continuation"], progress=False)
    table = found.predicts(ablation)
    effects = ablation.effects().query("protocol == 'continuation'")["share_lost"]
    turned = found.influence().query("protocol == 'continuation'")["influence"]
    rows = table.query("protocol == 'continuation' and effect == 'share_lost'")
    (rho,) = rows.query("predictor == 'influence'")["rho"]
    assert rho == pytest.approx(spearmanr(turned, effects).statistic)
    page = lw.report([found, ablation])
    assert {"similarity_letter", "similarity_continuation", "prediction"} <= set(page.figures)
    assert "Similarity of layers</h2>" in page.html
    assert "Similarity of layers</h2>" not in lw.report([ablation]).html


def test_other_items_are_refused():
    records, similar, cka = planted()
    fewer = similar.loc[similar["item"] != "003"]
    with pytest.raises(UserError, match=r"other items of task 'against' \(60 and 59\)"):
        prediction_table(fewer, cka, records, lambda *_: 0.0, 0)
    tasks = [synthetic.task_facts("along", "along", n_items=n) for n in (60, 59)]
    facts = [
        synthetic.facts(task.model_copy(update={"hash": f"of {task.n_items}"})) for task in tasks
    ]
    with pytest.raises(UserError, match="do not belong together"):
        SimilarityResult(similar, cka, facts[0]).predicts(AblationResult(records, facts[1]))


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_jsonl(tmp_path / "words.jsonl", word_task(6).items)
    write_jsonl(tmp_path / "open.jsonl", [analysis.replace(i, choices=()) for i in
                                          word_task(3).items])  # fmt: skip
    return tmp_path
