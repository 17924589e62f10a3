"""Lens objects over one's own tensors: against the model's logits, the grid, and gradients."""

from __future__ import annotations

import pytest
import torch

import layerwise as lw
from layerwise.analyses.shared.translators import TunedLens
from layerwise.models.instance.facts import model_facts
from layerwise.models.instance.kinds import hook_name, model_inputs, n_encoder_layers
from layerwise.prompts.residual_lens import LogitLens

from .models.decoder.tiny import tiny_decoder
from .models.seq2seq.tiny import tiny_seq2seq
from .models.tiny import tiny_model

PROMPT = (5, 17, 40, 9, 33)
# By TransformerLens: LayerNorm, RMSNorm, biases. Over their own modules: soft-caps of logits,
# scaled logits, another norm. Two stacks: scaled logits, norms behind sums.
LENS = ["gpt2", "llama", "gpt_neox", "opt", "bloom"]
OWN_MODULES = ["gemma 2", "cohere", "granite", "gpt-oss"]
TWO_STACKS = ["t5", "bart"]
CASES = [*LENS, *OWN_MODULES, *TWO_STACKS]
# In nats, of logits in float32 that the model and the lens compute in batches of other sizes.
CLOSE = 1e-4


def case_model(case):
    if case in LENS:
        return tiny_model(case)
    return tiny_seq2seq(case) if case in TWO_STACKS else tiny_decoder(case)


def cached(model, tokens=PROMPT):
    """The logits of the user's own run, and what it recorded."""
    with torch.no_grad():
        return model.run_with_cache(*model_inputs(model, [tokens]))


def drawn_maps(model, facts=None):
    """Translators with random numbers, as if they had been trained on the model."""
    width, depths = model.cfg.d_model, model.cfg.n_layers
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(depths, width, width, generator=generator) / width
    bias = torch.randn(depths, width, generator=generator)
    known = {"model": "tiny", "model_hash": model_facts(model).hash}
    return TunedLens(weight, bias, facts or known)


@pytest.mark.parametrize("case", CASES)
def test_the_last_layer_reads_the_models_own_logits(case):
    model = case_model(case)
    logits, cache = cached(model)
    last = model.cfg.n_layers - 1
    stream = cache[hook_name(model, last, "resid_post")]
    read = lw.LogitLens(model)(stream, last)
    assert read.shape == logits.shape
    assert read.dtype == torch.float32
    assert (read - logits).abs().max() < CLOSE
    one = lw.LogitLens(model)(stream[0, -1], last)
    assert torch.allclose(one, read[0, -1], atol=CLOSE)
    spread = (logits - logits.mean(-1, keepdim=True)).abs().max()
    assert spread > 100 * CLOSE  # so that equal logits say something


@pytest.mark.parametrize("case", ["llama", "gemma 2", "t5"])
@pytest.mark.parametrize("tuned", [False, True])
def test_gradients_reach_the_stream(case, tuned):
    model = case_model(case)
    layer = n_encoder_layers(model)
    stream = cached(model)[1][hook_name(model, layer, "resid_post")].clone().requires_grad_()
    lens = LogitLens(model, drawn_maps(model) if tuned else None)
    lens(stream, layer)[0, -1, 7].backward()
    assert stream.grad is not None
    assert stream.grad[0, -1].abs().max() > 0
    assert stream.grad[0, :-1].abs().sum() == 0
    step, small = stream.grad[0, -1] / stream.grad[0, -1].norm(), 1e-2
    with torch.no_grad():
        up, down = (lens(stream[0, -1] + sign * small * step, layer)[7] for sign in (1, -1))
    slope = float(stream.grad[0, -1].norm())
    assert float(up - down) / (2 * small) == pytest.approx(slope, rel=0.02)


@pytest.mark.parametrize("case", ["llama", "gemma 2", "t5", "bart"])
@pytest.mark.parametrize("tuned", [False, True])
def test_the_lens_has_the_numbers_of_the_grid(case, tuned):
    model = case_model(case)
    maps = {"tuned": drawn_maps(model)} if tuned else {}
    lens = lw.LogitLens(model, **maps)
    grid = lw.lens_grid(model, PROMPT, token=7, lens="tuned" if tuned else "logit", **maps)
    name = f"log-probability of {grid.chosen[0]}"
    cache = cached(model)[1]
    for layer in range(n_encoder_layers(model), model.cfg.n_layers):
        stream = cache[hook_name(model, layer, "resid_post")][0]
        read = lens(stream, layer).log_softmax(-1)[:, 7]
        expected = grid.table.loc[grid.table["layer"] == layer, name].tolist()
        assert read.tolist() == pytest.approx(expected, abs=CLOSE)
    table = lens.trajectory(PROMPT, token=7)
    assert table[name].tolist() == grid.table[name].tolist()
    assert table["top"].tolist() == grid.table["top"].tolist()
    assert len(table) == len(grid.table)
    best = table.loc[table["layer"] == layer, "top_probability"].str[0].tolist()
    assert best == pytest.approx(lens(stream, layer).softmax(-1).amax(-1).tolist(), abs=CLOSE)


def test_the_layer_before_the_first_is_the_embedding():
    model = tiny_model("llama")
    stream = cached(model)[1][hook_name(model, 0, "resid_pre")][0]
    table = lw.LogitLens(model).trajectory(PROMPT, token=7)
    first = table.loc[table["layer"] == -1]
    (name,) = (column for column in table if column.startswith("log-probability"))
    read = lw.LogitLens(model)(stream, -1).log_softmax(-1)[:, 7]
    assert read.tolist() == pytest.approx(first[name].tolist(), abs=CLOSE)


def test_layers_of_a_decoder_go_by_their_address_too():
    model = tiny_seq2seq("t5")
    lens, stream = lw.LogitLens(model), torch.randn(3, model.cfg.d_model)
    layer = n_encoder_layers(model)
    assert torch.equal(lens(stream, "decoder.0"), lens(stream, layer))
    for wrong in (0, "encoder.0", model.cfg.n_layers, True):
        with pytest.raises(lw.UserError, match=r"cannot be read by the lens: expected one of 2 "):
            lens(stream, wrong)
    with pytest.raises(lw.UserError, match=r"There is no layer 'decoder\.9'"):
        lens(stream, "decoder.9")


def test_streams_of_inference_mode_and_other_formats_are_read():
    model = tiny_model("llama")
    lens, last = lw.LogitLens(model), model.cfg.n_layers - 1
    with torch.inference_mode():
        logits, cache = model.run_with_cache(*model_inputs(model, [PROMPT]))
        inside = lens(cache[hook_name(model, last, "resid_post")], last)
    stream = cache[hook_name(model, last, "resid_post")]
    assert torch.equal(lens(stream, last), inside)
    assert torch.allclose(lens(stream.double(), last), logits, atol=CLOSE)


def test_streams_of_another_width_are_refused():
    lens = lw.LogitLens(tiny_model("llama"))
    for wrong in (torch.zeros(4, 47), torch.zeros(48, 4), torch.tensor(1.0)):
        with pytest.raises(lw.UserError, match="last dimension is the model's width, 48"):
            lens(wrong, 0)


def test_a_tuned_lens_is_read_from_its_folder_and_refused_for_another_model(tmp_path):
    model = tiny_model("llama")
    maps = drawn_maps(model)
    maps.save(tmp_path / "lens.safetensors")
    lens = lw.LogitLens(model, tmp_path / "lens.safetensors")
    stream = torch.randn(2, model.cfg.d_model)
    assert torch.equal(lens(stream, 1), lw.LogitLens(model, maps)(stream, 1))
    assert not torch.allclose(lens(stream, 1), lw.LogitLens(model)(stream, 1), atol=0.1)
    assert repr(lens).endswith("tuned)")
    other = drawn_maps(model, {"model": "another", "model_hash": "ab" * 32})
    with pytest.raises(lw.UserError, match="This tuned lens was trained on 'another'"):
        lw.LogitLens(model, other)
    with pytest.raises(lw.UserError, match="expected a loaded model"):
        lw.LogitLens("smollm2-135m")
