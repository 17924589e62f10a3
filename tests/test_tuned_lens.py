"""The tuned lens against the logit lens, and on models whose right translator is known."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import save_file
from scipy import stats as reference

import layerwise.analyses.tuned_lens.api as module
from layerwise.analyses.logit_lens.api import logit_lens
from layerwise.analyses.shared.texts import Text, texts_of_tasks
from layerwise.analyses.shared.translators import FILE, TunedLens
from layerwise.analyses.tuned_lens.api import train_lens
from layerwise.analyses.tuned_lens.training import LensTrainer, TextStreams, draw_positions
from layerwise.errors import UserError
from layerwise.models.libraries.quiet import silence_deprecation
from layerwise.results import TunedLensResult
from layerwise.runs.setup import prepare
from layerwise.sweep.walk.readout import divergence
from tests import analysis
from tests.analysis import word_task
from tests.hooked import HookedTransformer, HookedTransformerConfig
from tests.models.tiny import tiny_model, tiny_tokenizer

BUDGET = 2**26
TASK = word_task(3)
WORDS = [
    "the", "capital", "of", "France", "is", "Paris", "and", "Rome", "a", "key", "opens", "red",
    "door", "blue", "one", "two", "three", "four", "five", "question", "what", "answer", "Italy",
]  # fmt: skip


def text_file(folder, n_texts: int = 60, seed: int = 0):
    rng = random.Random(seed)
    texts = [" ".join(rng.choices(WORDS, k=30)) for _ in range(n_texts)]
    path = folder / "some.txt"
    path.write_text("\n\n".join(texts))
    return path


def train_quickly(tmp_path, model, **options):
    given = {"text": text_file(tmp_path), "steps": 60, "progress": False, **options}
    return train_lens(model, TASK, **given)


@pytest.fixture(scope="module")
def full_lens(tmp_path_factory):
    """A full lens, its model and the folder of its run."""
    model, out = tiny_model("llama"), tmp_path_factory.mktemp("lens")
    return train_quickly(out, model, out=out / "run"), model, out / "run"


def assert_nearer(trained: Any, kind: str) -> None:
    layers = trained.result.layers()
    assert layers["layer"].tolist() == [-1, 0, 1]
    assert layers["lower"].all()
    assert (layers["kl_tuned"] < 0.95 * layers["kl_logit"]).all()
    assert (layers["difference_low"] > 0).all()
    assert (trained.lens.weight is None) == (kind == "bias")


def test_the_tuned_lens_is_nearer_on_held_out_texts_at_every_layer(tmp_path, full_lens):
    assert_nearer(full_lens[0], "full")
    model = tiny_model("gpt2")
    before = {name: p.clone() for name, p in model.named_parameters()}
    assert_nearer(train_quickly(tmp_path, model, kind="bias", steps=40), "bias")
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, before[name])
        assert parameter.grad is None


def identity_lens(model) -> TunedLens:
    width, depths = model.cfg.d_model, model.cfg.n_layers
    facts = {"model": "tiny", "model_hash": prepare(model, TASK, "continuation").loaded.hash}
    return TunedLens(torch.zeros(depths, width, width), torch.zeros(depths, width), facts)


def test_the_identity_is_exactly_the_logit_lens():
    model = tiny_model("gpt2")
    sites = ("resid_pre", "resid_post")
    logit, tuned = (
        logit_lens(model, TASK, "continuation", sites=sites, progress=False, **options).lens
        for options in ({}, {"lens": "tuned", "tuned": identity_lens(model)})
    )
    assert set(tuned["lens"]) == {"tuned"}
    pd.testing.assert_frame_equal(logit.drop(columns="lens"), tuned.drop(columns="lens"))
    trainer = LensTrainer(model, [Text((1, 2, 3, 4))] * 3, True, 1, 0.1, 0, BUDGET)
    fresh = trainer.make_lens({})
    assert fresh.weight is not None
    assert not fresh.weight.any()
    assert not fresh.bias.any()


def test_a_trained_lens_translates_by_depth_whatever_the_site(full_lens):
    lens, model = full_lens[0].lens, full_lens[1]
    table = logit_lens(model, TASK, "continuation", sites=("resid_pre", "resid_post"),
                       lens="tuned", tuned=lens, progress=False).lens  # fmt: skip
    of = {site: table.loc[table["site"] == site] for site in ("resid_pre", "resid_post")}
    before = of["resid_pre"].set_index(["item", "layer"])["logprob"]
    after = of["resid_post"].assign(layer=of["resid_post"]["layer"] + 1)
    after = after.set_index(["item", "layer"])["logprob"]
    assert after.loc[before.index].tolist() == pytest.approx(before.tolist(), abs=1e-5)
    last = of["resid_post"].loc[of["resid_post"]["layer"] == model.cfg.n_layers - 1]
    assert (last["kl"] < 1e-6).all()
    plain = logit_lens(model, TASK, "continuation", progress=False).lens
    assert of["resid_post"].groupby("layer")["kl"].mean()[0] > 0
    assert (
        of["resid_post"].groupby("layer")["kl"].mean()[0] < plain.groupby("layer")["kl"].mean()[0]
    )


def affine_model() -> tuple[HookedTransformer, torch.Tensor, torch.Tensor]:
    """A model whose last two layers are affine, and the map that they are together.

    Their attention adds a constant, and their neurons are always on.
    """
    width, high = 12, 60.0
    config = HookedTransformerConfig(
        n_layers=3, d_model=width, n_ctx=128, d_head=6, n_heads=2, d_mlp=16, d_vocab=300,
        act_fn="relu", normalization_type=None, device="cpu", seed=1, initializer_range=0.4,
    )  # fmt: skip
    with silence_deprecation("HookedTransformer"):
        model = HookedTransformer(config).eval()
    model.tokenizer = tiny_tokenizer()
    generator = torch.Generator().manual_seed(2)
    # double, and row vectors: x becomes x @ matrix + shift
    matrix, shift = torch.eye(width).double(), torch.zeros(width).double()
    for block in list(model.blocks)[1:]:
        block.attn.W_O.data.zero_()
        block.attn.b_O.data = 0.3 * torch.randn(width, generator=generator)
        mlp = block.mlp
        mlp.W_in.data = 0.25 * torch.randn(width, 16, generator=generator)
        mlp.W_out.data = 0.25 * torch.randn(16, width, generator=generator)
        mlp.b_in.data = torch.full((16,), high)
        mlp.b_out.data = -high * mlp.W_out.sum(dim=0) + 0.3 * torch.randn(
            width, generator=generator
        )
        linear = torch.eye(width).double() + mlp.W_in.double() @ mlp.W_out.double()
        constant = mlp.b_in.double() @ mlp.W_out.double() + mlp.b_out.double()
        shift = (shift + block.attn.b_O.double()) @ linear + constant
        matrix = matrix @ linear
    return model, matrix, shift


@pytest.mark.long
def test_a_full_lens_recovers_layers_that_are_an_affine_map(tmp_path):
    model, matrix, shift = affine_model()
    exact = TunedLens(
        (matrix.T - torch.eye(12)).float().expand(3, 12, 12), shift.float().expand(3, 12), {}
    )
    trained = train_quickly(tmp_path, model, steps=100, rate=0.1)
    bias = train_quickly(tmp_path, model, steps=30, rate=0.1, kind="bias")
    kl, of_bias = (t.result.layers().set_index("layer") for t in (trained, bias))
    assert kl.loc[0, "kl_logit"] > 0.1
    assert kl.loc[0, "kl_tuned"] < 0.01 * kl.loc[0, "kl_logit"]
    assert kl.loc[0, "kl_tuned"] < 0.1 * of_bias.loc[0, "kl_tuned"]
    # What enters the first layer says nothing of other tokens, so no map can be right there.
    assert kl.loc[-1, "kl_tuned"] > 10 * kl.loc[0, "kl_tuned"]
    tokens = [Text(tuple(range(5, 40)))]
    streams = TextStreams.from_texts(model, tokens, np.random.default_rng(0), BUDGET)
    at_layer_0 = streams.lens_logprobs(
        1, exact.translate(("resid_post", 0), streams.stream_at(1))
    ).detach()
    assert float(divergence(streams.final, at_layer_0).max()) < 1e-4


@pytest.mark.long
def test_an_interrupted_training_goes_on_and_ends_the_same(tmp_path, monkeypatch):
    model = tiny_model("gpt2")
    whole = train_quickly(tmp_path, model, steps=30, out=tmp_path / "whole")
    monkeypatch.setattr(module, "compare", None)
    with pytest.raises(TypeError):
        train_quickly(tmp_path, model, steps=30, out=tmp_path / "cut")
    monkeypatch.undo()
    steps = []
    original = LensTrainer.step
    monkeypatch.setattr(LensTrainer, "step", lambda self: (steps.append(self.done), original(self)))
    again = train_quickly(tmp_path, model, steps=30, out=tmp_path / "cut")
    assert steps == [25, 26, 27, 28, 29]
    assert again.lens.hash == whole.lens.hash
    names = {path.name for path in (tmp_path / "cut").iterdir()}
    assert names == {FILE, "tuned_lens.parquet", "estimates.parquet", "run.json"}
    loaded = train_quickly(tmp_path, model, steps=30, out=tmp_path / "cut")
    assert loaded.lens.hash == whole.lens.hash
    assert len(steps) == 5
    pd.testing.assert_frame_equal(loaded.result.tuned_lens, whole.result.tuned_lens)


def test_a_saved_lens_reads_as_before_and_refuses_other_weights(full_lens):
    lens, model, folder = full_lens[0].lens, full_lens[1], full_lens[2]
    facts = lens.facts
    assert facts["seed"] == 0
    assert facts["kind"] == "full"
    assert len(facts["text_hash"]) == len(facts["model_hash"]) == 64
    options = {"lens": "tuned", "progress": False}
    one, other = (
        logit_lens(model, TASK, "continuation", tuned=given, **options).lens
        for given in (lens, folder)
    )
    pd.testing.assert_frame_equal(one, other)
    with pytest.raises(UserError, match=r"was trained on .* with weights [0-9a-f]{12}, and the"):
        logit_lens(tiny_model("gpt2"), TASK, "continuation", tuned=lens, **options)
    with pytest.raises(UserError, match="not for resid_mid"):
        logit_lens(model, TASK, "continuation", tuned=lens, sites="resid_mid", **options)


def test_a_lens_is_the_same_file_whenever_it_is_saved(tmp_path):
    lens = TunedLens(None, torch.ones(2, 3), {"model": "tiny", "model_hash": "ab" * 32})
    for index in range(12):
        lens.save(tmp_path / f"{index}.safetensors")
    assert len({path.read_bytes() for path in tmp_path.iterdir()}) == 1
    assert lens.hash == TunedLens.load(tmp_path / "0.safetensors").hash


def test_a_table_of_layers_is_paired_and_tested(full_lens):
    result = full_lens[0].result
    assert list(result.tuned_lens.columns) == analysis.documented_columns("tuned_lens.parquet")
    layers = result.layers().set_index("layer")
    for layer, mine in result.tuned_lens.groupby("layer"):
        row, difference = layers.loc[layer], mine["kl_logit"] - mine["kl_tuned"]
        assert row["difference"] == pytest.approx(difference.mean())
        assert row["kl_tuned"] == pytest.approx(mine["kl_tuned"].mean())
        assert row["difference_low"] < row["difference"] < row["difference_high"]
        assert row["p"] == pytest.approx(reference.wilcoxon(difference).pvalue)
    assert isinstance(result, TunedLensResult)
    assert "held-out texts" in repr(result)
    assert result.plot().axes


@pytest.mark.long
def test_prompts_are_of_items_that_are_not_measured():
    model = tiny_model("llama")
    setup = prepare(model, "arithmetic", "continuation", limit=5, fewshot=1)
    texts = texts_of_tasks(setup, 20)
    measured = {
        one.request.context
        for item in setup.tasks[0].items
        for one in setup.requests(setup.tasks[0], item, "continuation")
    }
    assert len(texts.train) + len(texts.held_out) == 20
    assert 4 <= len(texts.held_out) < 8
    assert all(text.n_prompt == 0 for text in (*texts.train, *texts.held_out))
    tokens = [text.tokens for text in (*texts.train, *texts.held_out)]
    assert len(set(tokens)) == 20
    assert not any(text[: len(context)] == context for text in tokens for context in measured)
    # held-out prompts come from seeds, and so few-shot examples, of their own
    begins = ({text.tokens[:30] for text in some} for some in (texts.train, texts.held_out))
    assert set.isdisjoint(*begins)


def test_positions_hold_the_last_and_never_the_first():
    rng = np.random.default_rng(0)
    for n in (2, 3, 10, 200):
        read = draw_positions(Text(tuple(range(n))), rng)
        assert read[-1] == n - 1
        assert min(read) > 0
        assert len(read) == len(set(read)) == min(16, n - 1)


def test_jsonl_texts_are_cut_in_pieces(tmp_path):
    path = tmp_path / "some.jsonl"
    lines = [{"text": " ".join(random.Random(i).choices(WORDS, k=200))} for i in range(4)]
    path.write_text("\n".join(map(json.dumps, lines)))
    trained = train_lens(tiny_model("llama"), TASK, text=path, steps=1, progress=False)
    settings = trained.result.facts.settings
    assert settings["texts_trained_on"] + settings["texts_held_out"] >= 12
    assert trained.result.facts.tasks == ()


FACTS = {"model": "tiny", "model_hash": "0" * 64, "seed": 0}
BIAS, WEIGHT = torch.linspace(-1, 1, 12).reshape(3, 4), torch.linspace(0, 1, 48).reshape(3, 4, 4)


def save_lens(folder: Path) -> Path:
    TunedLens(WEIGHT, BIAS, FACTS).save(folder / FILE)
    return folder / FILE


def test_a_lens_is_read_as_it_was_written(tmp_path):
    path = save_lens(tmp_path)
    for place in (path, tmp_path, str(path)):
        lens = TunedLens.load(place)
        assert torch.equal(lens.bias, BIAS)
        assert lens.weight is not None
        assert torch.equal(lens.weight, WEIGHT)
        assert lens.facts == FACTS


def bit_flip(at: int) -> Callable[[Path], object]:
    def flip(path: Path) -> None:
        content = bytearray(path.read_bytes())
        content[-at] ^= 1 << at % 8
        path.write_bytes(content)

    return flip


def metadata_file(metadata: dict[str, str] | None) -> Callable[[Path], object]:
    return lambda path: save_file({"bias": BIAS, "weight": WEIGHT}, path, metadata=metadata)


def replace_by_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


@pytest.mark.parametrize(
    "damage",
    [
        *(bit_flip(at) for at in range(1, 4 * (BIAS.numel() + WEIGHT.numel()), 31)),
        lambda path: path.write_bytes(path.read_bytes().replace(b"0" * 64, b"1" * 64)),
        lambda path: path.write_bytes(b"nothing"),
        *(metadata_file({"layerwise.tuned_lens": text})
          for text in ("{", "[" * 100_000, "9" * 5000, "[]", "[{}, 3]", json.dumps(FACTS))),
        metadata_file(None), replace_by_pipe,
    ],
)  # fmt: skip
def test_a_file_that_is_not_as_a_lens_was_written_is_refused(tmp_path, damage):
    damage(save_lens(tmp_path))
    with pytest.raises(UserError, match="damaged or not a tuned lens"):
        TunedLens.load(tmp_path / FILE)


def test_a_lens_of_another_shape_is_refused_at_a_model():
    lens = TunedLens(None, BIAS, FACTS)
    lens.check("0" * 64, ("resid_post",), (3, 4))
    with pytest.raises(UserError, match="has 3 depths of width 4, and the model has 4 of 4"):
        lens.check("0" * 64, ("resid_post",), (4, 4))


def test_a_training_that_diverges_is_told():
    texts = [Text(tuple(range(3, 30))), Text(tuple(range(40, 60)))]
    trainer = LensTrainer(tiny_model("gpt2"), texts, False, 5, 0.1, 0, 2**28)
    trainer.step()
    trainer.spread.fill_(float("inf"))  # what is translated is no number any more
    with pytest.raises(UserError, match="diverged at step 2 of 5: expected finite translators"):
        trainer.step()
