"""Running text under changes of layers: against plain forwards, models of known truth, refusals."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import ttest_1samp

import layerwise as lw
from analyses.validity import text_claims as made_up
from layerwise.analyses.running_text.analysis import (
    costliest_layer,
    skips_minus_swaps,
)
from layerwise.analyses.running_text.figures import text_curves
from layerwise.analyses.running_text.pieces import PROSE, read_pieces
from layerwise.analyses.running_text.result import TextEffects, TextLossResult, text_effects
from layerwise.analyses.shared.texts import LENGTH, read_texts
from layerwise.errors import UserError
from layerwise.models import original_tokenizer
from layerwise.models.instance.kinds import model_blocks
from layerwise.report.html import findings
from layerwise.runs.setup import prepare_model
from layerwise.stats.items.clusters import Clusters
from tests import commands
from tests.cases import most_errors
from tests.models.tiny import tiny_folder, tiny_model
from tests.report.legible import assert_legible
from tests.sweep.test_swapped_layers import exchanged
from tests.transplanting import silence_parts

QUIET: Any = {"progress": False}
TEXTS = [
    "The river is wide and slow where it reaches the sea.",
    "Bread rises because yeast eats sugar and gives off gas.",
    "Zwölf Boxkämpfer jagen Viktor quer über den großen Sylter Deich.",
]


@pytest.fixture
def text(tmp_path):
    """A file of three texts."""
    path = tmp_path / "texts.txt"
    path.write_text("\n\n".join(TEXTS), "utf-8")
    return path


def skipped(model: Any, layer: int) -> Any:
    """A plain forward without a layer."""

    def forward(tokens: torch.Tensor) -> torch.Tensor:
        seen = {}
        hooks = [
            (f"blocks.{layer}.hook_resid_pre", lambda value, hook: seen.update(x=value)),
            (f"blocks.{layer}.hook_resid_post", lambda value, hook: seen["x"]),
        ]
        return model.run_with_hooks(tokens, fwd_hooks=hooks)

    return forward  # fmt: skip


@pytest.mark.parametrize("bos", [False, True])
def test_the_table_is_what_plain_forwards_say(text, bos):
    model = tiny_model("llama", bos=bos)
    result = lw.text_loss(model, text=text, **QUIET)
    tokenizer = original_tokenizer(model)
    table = result.text_loss.set_index(["piece", "intervention"])
    for number, words in enumerate(TEXTS):
        tokens = tokenizer(words)["input_ids"]
        scored = tokens[1:]
        inputs = torch.tensor([tokens[:-1]])
        intact = model(inputs)[0].float().log_softmax(-1)
        forwards = {"intact": model} | {f"skip:layer={n}": skipped(model, n) for n in range(3)}
        forwards |= {f"swap:layers={n}+{n + 1}": exchanged(model, n) for n in range(2)}
        for name, forward in forwards.items():
            with torch.inference_mode():
                found = forward(inputs)[0].float().log_softmax(-1)
            row = table.loc[(number, name)]
            nats = -sum(float(found[at, token]) for at, token in enumerate(scored))
            assert row["nats"] == pytest.approx(nats, abs=1e-3)
            same = (found.argmax(-1) == intact.argmax(-1)).float().mean()
            assert row["n_positions"] == row["n_tokens"] == len(scored)
            assert row["agree"] == pytest.approx(float(same))
            assert row["n_bytes"] == len(tokenizer.decode(scored).encode())
    assert len(table) == 3 * (1 + 3 + 2)


def test_the_bytes_are_those_of_the_text_behind_its_first_token(text):
    rows = lw.text_loss(tiny_model("llama", bos=True), text=text, **QUIET).text_loss
    of_pieces = rows.groupby("piece")["n_bytes"].first().tolist()
    assert of_pieces == [len(words.encode()) for words in TEXTS]


def test_a_layer_that_does_nothing_costs_nothing_and_changes_no_token(text):
    model = silence_parts(tiny_model("gpt2", seed=3), (1, "layer"))
    effects = lw.text_loss(model, text=text, changes="skip", **QUIET).effects().set_index("layer")
    assert effects.loc[1, "bits"] == pytest.approx(0, abs=1e-4)
    assert effects.loc[1, "agree"] == 1
    assert not effects.loc[1, "significant"]
    assert effects.loc[[0, 2], "bits"].abs().min() > 0.01


def test_layers_with_the_same_weights_are_swapped_for_nothing(text):
    model = silence_parts(tiny_model("llama", seed=3))
    first, second = model_blocks(model)[:2]
    second.load_state_dict(first.state_dict())
    effects = lw.text_loss(model, text=text, changes="swap", **QUIET).effects()
    assert effects["bits"].iloc[0] == pytest.approx(0, abs=1e-5)
    assert effects["agree"].tolist()[0] == 1
    assert effects["agree"].tolist()[1] < 1


def test_effects_are_means_with_students_intervals(text):
    result = lw.text_loss(tiny_model("llama"), text=text, **QUIET)
    rows = result.text_loss
    intact = rows.loc[rows["kind"] == "intact"].set_index("piece")
    for row in result.effects().to_dict("records"):
        chosen = rows.loc[(rows["kind"] == row["kind"]) & (rows["layer"] == row["layer"])]
        own = chosen.set_index("piece")
        bits = ((own["nats"] - intact["nats"]) / math.log(2) / own["n_bytes"]).to_numpy(float)
        outside = ttest_1samp(bits, 0)
        assert row["bits"] == pytest.approx(bits.mean())
        assert (row["low"], row["high"]) == pytest.approx(tuple(outside.confidence_interval()))
        assert row["p"] == pytest.approx(outside.pvalue)
        assert row["agree"] == pytest.approx(own["agree"].to_numpy(float).mean())


@pytest.mark.long
def test_the_prose_of_the_package_is_read_without_a_file():
    texts = read_texts(PROSE)
    assert len(texts) == 36
    assert all(70 <= len(words.split()) <= 100 for words in texts)
    result = lw.text_loss(tiny_model("llama"), changes="skip", pieces=3, **QUIET)
    assert result.facts.settings["text"] == "built-in prose"
    assert result.text_loss["piece"].nunique() == 3
    assert result.text_loss["n_tokens"].max() < LENGTH
    assert "3 pieces of built-in prose" in repr(result)


def test_pieces_are_drawn_by_the_seed_and_know_their_text(tmp_path):
    path = tmp_path / "two.txt"
    path.write_text("\n\n".join(word * 900 for word in ("ab ", "cd ")), "utf-8")
    model = tiny_model("llama")
    setup = prepare_model(model)
    every = read_pieces(setup, path, 1000)
    assert {piece.cluster for piece in every} == {"0", "1"}
    some = read_pieces(setup, path, 5)
    assert [piece in every for piece in some] == [True] * 5
    assert some == read_pieces(setup, path, 5)
    assert some != read_pieces(replace(setup, seed=1), path, 5)
    alone = tmp_path / "one.txt"
    alone.write_text("ab " * 900, "utf-8")
    assert {piece.cluster for piece in read_pieces(setup, alone, 1000)} == {None}


def test_lines_of_json_are_texts(tmp_path, text):
    path = tmp_path / "texts.jsonl"
    path.write_text("".join(json.dumps({"text": words}) + "\n" for words in TEXTS), "utf-8")
    model = tiny_model("llama")
    both = [lw.text_loss(model, text=file, changes="skip", **QUIET) for file in (path, text)]
    pd.testing.assert_frame_equal(both[0].text_loss, both[1].text_loss)
    hashes = {one.facts.settings["text_hash"] for one in both}
    assert len(hashes) == 1


def test_what_cannot_be_read_is_refused(tmp_path, text):
    with pytest.raises(UserError, match="encoder-decoder: expected a decoder-only model"):
        lw.text_loss(lw.load_model("organism-seq2seq"), **QUIET)
    with pytest.raises(UserError, match=r"cannot change places: .* Changes of kind 'skip' alone"):
        lw.text_loss(tiny_model("gpt_neo"), text=text, **QUIET)
    assert len(lw.text_loss(tiny_model("gpt_neo"), text=text, changes="skip", **QUIET).effects())
    with pytest.raises(UserError, match=r"does not know 97% of the words of built-in prose"):
        lw.text_loss(lw.load_model("organism-letters"), **QUIET)
    short = tmp_path / "short.txt"
    short.write_text("Too short.", "utf-8")
    with pytest.raises(UserError, match=r"Only 0 pieces of text came from .*: give a longer text"):
        lw.text_loss(tiny_model("llama"), text=short, **QUIET)
    short.write_bytes(b"\xff\xfe" * 40)
    with pytest.raises(UserError, match=r"is no UTF-8 text; save it as UTF-8\."):
        lw.text_loss(tiny_model("llama"), text=short, **QUIET)


@pytest.mark.long
def test_weights_on_disk_can_be_skipped_and_not_swapped(tmp_path, text):
    folder = tiny_folder(tmp_path, "llama")
    away, there = lw.load_model(folder, offload="disk"), lw.load_model(folder)
    with pytest.raises(UserError, match="their weights are on disk"):
        lw.text_loss(away, text=text, **QUIET)
    both = [lw.text_loss(model, text=text, changes="skip", **QUIET) for model in (away, there)]
    pd.testing.assert_frame_equal(both[0].text_loss, both[1].text_loss)


def result_of(world: made_up.TextWorld, facts: Any) -> TextLossResult:
    """A made-up result."""
    table = made_up.made_up_text(np.random.default_rng(0), world)
    return TextLossResult(table, facts)


@pytest.fixture(scope="module")
def facts():
    """Facts of a run."""
    return lw.text_loss(tiny_model("llama"), pieces=2, changes="skip", **QUIET).facts


def world(bits: np.ndarray) -> made_up.TextWorld:
    """A made-up model, by the bits that its layers cost."""
    return made_up.kept_worlds()[0]._replace(bits=bits)


def test_sentences_are_about_what_is_established(facts):
    steep = np.full(made_up.N_LAYERS, 0.05)
    steep[3] = 2.0
    told = [claim.full for claim in findings([result_of(world(steep), facts)])]
    assert any("Running text loses most without layer 3." in one for one in told)
    flat = findings([result_of(world(np.full(made_up.N_LAYERS, 0.05)), facts)])
    assert not [claim for claim in flat if claim.kind == "running text"]


def test_the_largest_of_equal_losses_is_rarely_told_to_be_the_largest():
    rng, n_wrong = np.random.default_rng(0), 0
    for _ in range(200):
        bits = rng.normal(1.0, 0.3, (30, 12)) * np.exp(0.3 * rng.normal(size=(30, 1)))
        effects = TextEffects(np.arange(12), bits, bits, Clusters.singletons(30))
        found = costliest_layer(effects)
        assert found is not None
        n_wrong += found[2] < 0.05
    assert n_wrong <= most_errors(200)


def test_swaps_that_cost_as_much_as_skips_are_told_apart_as_rarely_as_stated():
    rng, n_wrong = np.random.default_rng(1), 0
    for _ in range(200):
        of_text = np.exp(0.5 * rng.normal(size=(30, 1)))
        both = [of_text * rng.lognormal(-2, 0.8, (30, n)) for n in (12, 11)]
        skips, swaps = (
            TextEffects(np.arange(each.shape[1]), each, each, Clusters.singletons(30))
            for each in both
        )
        n_wrong += skips_minus_swaps(skips, swaps).p_either_side() < 0.05
    assert n_wrong <= most_errors(200)


@pytest.mark.long
def test_pictures_are_legible_at_both_widths(facts):
    bits = 0.02 * np.exp(np.arange(made_up.N_LAYERS)[::-1] / 4)
    effects = result_of(world(bits), facts).effects()
    for width in (3.3, 6.9):
        assert_legible(text_curves(effects, width))
        assert_legible(text_curves(effects.query("kind == 'skip'"), width))


def test_effects_of_a_kind_that_was_not_made_are_empty(facts):
    rows = made_up.made_up_text(np.random.default_rng(0), made_up.kept_worlds()[0])
    none = text_effects(rows.loc[rows["kind"] != "swap"], "swap")
    assert len(none.layers) == 0
    assert text_effects(rows, "skip").bits.shape == (made_up.N_PIECES, made_up.N_LAYERS)


def test_a_run_is_shown_reported_and_verified(tmp_path, text):
    out = tmp_path / "run"
    lw.text_loss(tiny_model("llama"), text=text, out=out, **QUIET)
    (again,) = lw.load(out)
    assert isinstance(again, TextLossResult)
    assert commands.run("show", out).code == 0
    assert lw.verify(out).ok
    page = lw.report([again])
    assert "running_text" in page.figures
    assert "texts.txt, n = 3 pieces" in page.html
