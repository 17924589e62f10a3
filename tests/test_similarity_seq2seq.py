"""Similarity in encoder-decoders against brute force and planted answers, and what it predicts."""

from __future__ import annotations

from functools import cache
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import Phase, given, settings
from scipy.stats import spearmanr

import layerwise as lw
from layerwise.models import load_model
from layerwise.models.organisms.wired_seq2seq.layout import WiredSeq2SeqLayout
from layerwise.models.organisms.wired_seq2seq.truth import spared
from layerwise.models.seq2seq import Seq2SeqModel
from layerwise.report.figures import prediction_ranges, similarity_map
from layerwise.results import AblationResult, SimilarityResult
from layerwise.runs.setup import prepare
from layerwise.tasks import Task
from tests.analysis import word_task
from tests.cases import LONG
from tests.models.seq2seq.tiny import tiny_folder
from tests.planted import CAPABILITIES, small_task
from tests.planted_seq2seq import seq2seq_layouts, small_seq2seq
from tests.report.legible import assert_legible

pytestmark = pytest.mark.drawn

LAYOUT = WiredSeq2SeqLayout()
ROUNDING = 1e-5


@cache
def model_of(case: str) -> Seq2SeqModel:
    model = load_model(tiny_folder(case))
    assert isinstance(model, Seq2SeqModel)
    return model


TASK = word_task(12)


@cache
def found_in(case: str) -> SimilarityResult:
    return lw.similarity(model_of(case), TASK, progress=False)


Depths = list[np.ndarray]


def streams(case: str, index: int, protocol: str) -> dict[str, Depths]:
    """By stack the streams of an item's prompt, depth by position, by one plain forward."""
    model = model_of(case)
    setup = prepare(model, TASK, protocol)
    context = setup.requests(TASK, TASK.items[index], protocol)[0].request.context
    _, cache = model.run_with_cache(torch.tensor([context]), torch.tensor([model.prefix]))
    sizes = {"encoder": model.cfg.n_encoder_layers, "decoder": model.cfg.n_decoder_layers}
    found = {}
    for stack, size in sizes.items():
        names = [f"{stack}.blocks.{layer}.hook_resid_pre" for layer in range(size)]
        names.append(f"{stack}.blocks.{size - 1}.hook_resid_post")
        found[stack] = [cache[name][0].double().numpy() for name in names]
    return found


def read(stack: str, resid: np.ndarray) -> np.ndarray:
    """The vector that stands for a prompt at a depth."""
    return resid.mean(axis=0) if stack == "encoder" else resid[-1]


def cosine(x: np.ndarray, y: np.ndarray) -> float:
    return float(x @ y / np.linalg.norm(x) / np.linalg.norm(y))


@pytest.mark.parametrize("case", ["t5", "bart"])
@pytest.mark.parametrize("protocol", ["letter", "continuation"])
def test_every_item_is_as_by_brute_force(case: str, protocol: str) -> None:
    for index in range(3):
        at, table = 0, found_in(case).similarity
        mine = (table["item"] == TASK.items[index].id) & (table["protocol"] == protocol)
        rows = table.loc[mine].set_index("layer")
        for stack, depths in streams(case, index, protocol).items():
            for k, (before, after) in enumerate(pairwise(depths)):
                turned = [cosine(x, y) for x, y in zip(before, after, strict=True)]
                assert rows["influence"][at] == pytest.approx(1 - np.mean(turned), abs=1e-5)
                here = read(stack, before)
                angles = [np.arccos(cosine(here, read(stack, y))) for y in depths[k + 1 :]]
                np.testing.assert_allclose(rows["angular"][at], np.array(angles) / np.pi, atol=1e-5)
                at += 1
        assert len(rows) == at


@pytest.mark.parametrize("case", ["t5", "bart"])
def test_cka_is_that_of_the_textbook_within_each_stack(case: str) -> None:
    items = [streams(case, index, "continuation") for index in range(len(TASK.items))]
    table, before = found_in(case).cka.query("protocol == 'continuation'"), 0
    for stack in ("encoder", "decoder"):
        n = len(items[0][stack])
        ends = np.array([[read(stack, x) for x in one[stack]] for one in items]).swapaxes(0, 1)
        centred = ends - ends.mean(axis=1, keepdims=True)
        rows = table.loc[table["stack"] == stack]
        assert len(rows) == n * (n + 1) // 2
        # The decoder begins with the same tokens whatever is asked.
        assert rows["cka"].isna().sum() == (n if stack == "decoder" else 0)
        for row in rows.dropna().itertuples():
            x, y = centred[row.layer - before], centred[row.other - before]
            norm = np.linalg.norm
            expected = norm(y.T @ x) ** 2 / (norm(x.T @ x) * norm(y.T @ y))
            assert row.cka == pytest.approx(expected, abs=1e-4)
        before += n - 1


def test_blocks_are_within_one_stack() -> None:
    """Of 3 encoder and 2 decoder layers."""
    angular = found_in("t5").angular().query("protocol == 'letter'")
    assert set(zip(angular["layer"], angular["n_layers"], strict=True)) == {
        (0, 1), (0, 2), (0, 3), (1, 1), (1, 2), (2, 1), (3, 1), (3, 2), (4, 1)
    }  # fmt: skip
    for _, cells in angular.groupby("n_layers"):
        assert cells.loc[cells["least"], "distance"].tolist() == [cells["distance"].min()]


@settings(max_examples=20 if LONG else 2, deadline=None, phases=(Phase.explicit, Phase.generate))
@given(seq2seq_layouts())
def test_layers_that_do_nothing_turn_nothing(layout: WiredSeq2SeqLayout) -> None:
    tasks = [small_task(name, 8) for name in CAPABILITIES]
    found = lw.similarity(small_seq2seq(layout), tasks, "continuation", progress=False)
    single = found.angular().query("n_layers == 1")
    for table, column in ((found.influence(), "influence"), (single, "distance")):
        turned = table.groupby("layer")[column].max()
        assert set(turned.index[turned < ROUNDING]) == set(spared(layout, *CAPABILITIES))


@cache
def predicted() -> tuple[SimilarityResult, AblationResult]:
    tasks, model = [small_task(name, 24) for name in CAPABILITIES], small_seq2seq(LAYOUT)
    found = lw.similarity(model, tasks, "continuation", progress=False)
    return found, lw.ablate(model, tasks, "continuation", progress=False)


def test_effects_are_predicted_over_both_stacks_and_over_each() -> None:
    found, ablation = predicted()
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


def test_a_stack_of_one_layer_says_nothing_and_does_not_fail() -> None:
    model = model_of("t5-one-layer")
    task: Task = TASK
    found = lw.similarity(model, task, "continuation", progress=False)
    assert found.angular()["n_layers"].tolist() == [1, 1]
    ablation = lw.ablate(model, task, "continuation", progress=False)
    assert found.predicts(ablation)["rho"].dropna().abs().le(1).all()


def test_figures_are_legible_and_part_the_stacks() -> None:
    found, ablation = predicted()
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
