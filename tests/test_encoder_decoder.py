"""Analyses of encoder-decoders, from one end to the other."""

from __future__ import annotations

from functools import cache
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lm_eval.api.model import TemplateLM
from transformers import T5Config

import layerwise as lw
from layerwise.analyses.tuned_lens.api import train_lens
from layerwise.errors import UserError
from layerwise.ground.layer_names import layer_name, layer_number, spans
from layerwise.models.organisms.layout import Spot
from layerwise.models.organisms.wired_seq2seq.layout import WiredSeq2SeqLayout
from layerwise.models.seq2seq import Seq2SeqModel
from layerwise.planning.plan import plan_run
from layerwise.profiling.api import EXTRAS, wanted_extras
from layerwise.runs.setup import check_layers, prepare
from layerwise.sweep import (
    Generate,
    LogLikelihood,
    mean_activations,
    position_means,
    residuals_at,
    site_noise,
)
from layerwise.sweep.changes.edits import Site
from layerwise.sweep.requests import Tokens
from layerwise.sweep.walk.readout import final_logits
from layerwise.tasks._encoding import encode, encode_pair
from tests.models.seq2seq.tiny import tiny_folder, tiny_seq2seq
from tests.models.tiny import tiny_tokenizer
from tests.planted import small_task
from tests.planted_seq2seq import small_seq2seq
from tests.test_logit_lens import NUMBERS

LIMIT = 6
# With an idle layer and an idle head in each stack.
SMALL = WiredSeq2SeqLayout(
    5, 4, 2, 3, Spot(0, 1), Spot(2, 0), Spot(3, 1), Spot(4, 0), Spot(5, 1), Spot(7, 2), 8
)


@cache
def wired_model() -> Seq2SeqModel:
    model = lw.load_model("wired-seq2seq")
    assert isinstance(model, Seq2SeqModel)
    return model


def test_the_prompt_goes_to_the_encoder_and_the_answer_to_the_decoder() -> None:
    model = wired_model()
    setup = prepare(model, "wired-lookup", ("continuation", "generate"), limit=2)
    (task,) = setup.tasks
    end = setup.tokenizer.eos_token_id
    asked = setup.requests(task, task.items[0], "continuation")
    assert len({one.request.context for one in asked}) == 1
    for one in asked:
        assert isinstance(one.request, LogLikelihood)
        prompt = list(setup.tokenizer(one.context).input_ids)
        assert list(one.request.context) == prompt
        assert one.continuation is not None
        answer = setup.tokenizer(one.continuation, add_special_tokens=False).input_ids
        assert list(one.request.continuation) == answer
        assert end not in one.request.continuation
    (text,) = setup.requests(task, task.items[0], "generate")
    assert isinstance(text.request, Generate)
    assert text.request.context == asked[0].request.context


def test_white_space_moves_to_the_answer_and_special_tokens_stay_in_the_input() -> None:
    tokenizer = tiny_tokenizer(bos=True)
    prompt, answer = encode_pair(tokenizer, "The capital of France is ", "Paris", apart=True)
    assert prompt == tuple(tokenizer("The capital of France is").input_ids)
    assert prompt[0] == tokenizer.bos_token_id
    assert tokenizer.decode(list(answer)) == " Paris"
    assert encode(tokenizer, "<s>a", apart=True) == tuple(tokenizer("a").input_ids)


def test_the_harness_encodes_in_the_same_way() -> None:
    tokenizer = tiny_tokenizer(bos=True)
    harness = SimpleNamespace(
        backend="seq2seq",
        tok_encode=lambda text, add_special_tokens=True: (
            tokenizer(text, add_special_tokens=add_special_tokens).input_ids
        ),
    )
    for context, continuation in (("Question: 2 + 3? Answer:", " 5"), ("a key ", "opens a door")):
        given = encode_pair(tokenizer, context, continuation, apart=True)
        expected = TemplateLM._encode_pair(harness, context, continuation)  # type: ignore[arg-type]
        assert tuple(map(list, given)) == expected


def test_layers_by_number_and_by_address() -> None:
    model = wired_model()
    n_encoder = model.cfg.n_encoder_layers
    assert check_layers(["encoder.3", "decoder.0", 3], model) == (3, n_encoder)
    assert check_layers(None, model) == tuple(range(model.cfg.n_layers))
    with pytest.raises(UserError, match=r"no layer 'decoder.99': expected one of encoder.0 to"):
        check_layers(["decoder.99"], model)


@pytest.mark.parametrize(
    ("named", "part"),
    [
        ({"site": "cross_z", "kind": "zero", "layers": ["encoder.1"]}, "name decoder layers"),
        ({"site": "cross_attn_out", "kind": "nothing"}, "Unknown kind"),
        ({"site": "z", "kind": "zero", "heads": [9]}, "9 is out of range"),
    ],
)
def test_changes_that_cannot_be_made(named, part: str) -> None:
    with pytest.raises(UserError, match=part):
        lw.ablate(
            wired_model(), "wired-lookup", "continuation", limit=LIMIT, progress=False, **named
        )


@pytest.mark.parametrize("case", ["t5", "bart"])
def test_means_and_noise_of_both_stacks(case: str) -> None:
    model = tiny_seq2seq(case)
    texts = [(5, 6, 7, 8), (9, 10, 11), (5, 6, 12, 13, 14)]
    sites: tuple[Site, ...] = ("attn_out", "cross_attn_out", "z")
    caches = [
        model.run_with_cache(torch.tensor([text]), torch.tensor([model.prefix]))[1]
        for text in texts
    ]
    means = mean_activations(model, texts, sites)
    by_position = position_means(model, texts, sites)
    noise = site_noise(model, texts, sites, seed=0, n_draws=4000)
    n_encoder = model.cfg.n_encoder_layers
    keys: set[tuple[Site, int]] = {
        (s, n) for s in sites for n in range(5) if n >= n_encoder or s != "cross_attn_out"
    }
    assert set(means) == set(by_position) == set(noise) == keys
    for site, layer in keys:
        name = model.hook_name(layer, "attn.hook_z" if site == "z" else f"hook_{site}")
        held = torch.cat([cache[name][0] for cache in caches])
        torch.testing.assert_close(means[site, layer], held.mean(0), atol=1e-5, rtol=1e-4)
        first = torch.stack([cache[name][0, 0] for cache in caches]).mean(0)
        torch.testing.assert_close(by_position[site, layer][0], first, atol=1e-5, rtol=1e-4)
        assert len(by_position[site, layer]) == 1 + (3 if layer < n_encoder else 1)
        spread = noise[site, layer].pow(2).mean(0)
        expected = held.var(0, correction=0)
        torch.testing.assert_close(spread, expected, atol=1e-6, rtol=0.15)


def test_prompts_that_are_too_long() -> None:
    model = lw.load_model(tiny_folder("bart"))
    with pytest.raises(UserError, match=r"tokens \(prompt or answer\), but the model takes 128"):
        lw.ablate(model, "kv-words", "continuation", limit=8, progress=False)


@pytest.mark.parametrize("case", ["t5", "bart"])
def test_the_logit_lens_reads_the_decoder(case: str) -> None:
    """Against ``run_with_cache`` and the model's own unembedding, over prompt and answer."""
    model = tiny_seq2seq(case)
    texts, n_prompt = [(5, 6, 7, 8, 9, 10), (11, 12, 13)], [4, 3]
    positions = [(3, 4, 5), (2,)]
    n_encoder, n_layers = model.cfg.n_encoder_layers, model.cfg.n_layers
    places = [("resid_post", n_encoder - 1)]
    places += [(s, n) for n in range(n_encoder, n_layers) for s in ("resid_mid", "resid_post")]
    found = residuals_at(model, texts, positions, places, n_prompt=n_prompt)
    row = 0
    for text, n, wanted in zip(texts, n_prompt, positions, strict=True):
        said = torch.tensor([[*model.prefix, *text[n:]]])
        logits, cache = model.run_with_cache(torch.tensor([text[:n]]), said)
        for pos in wanted:
            at = pos - n + len(model.prefix)
            for place, (site, layer) in enumerate(places):
                name = model.hook_name(layer, f"hook_{site}")
                held = cache["decoder.hook_embed" if layer < n_encoder else name][0, at]
                torch.testing.assert_close(found[place, row], held, atol=1e-5, rtol=1e-5)
            last = final_logits(model, found[-1, row : row + 1])[0]
            torch.testing.assert_close(last, logits[0, at], atol=1e-4, rtol=0)
            row += 1


@torch.inference_mode()
def lens_logprobs_at(model: Seq2SeqModel, prompt: Tokens, said: Tokens) -> dict[Any, torch.Tensor]:
    """Log-probabilities of the next token by lens and layer, a forward pass for each."""
    n_encoder, n_layers = model.cfg.n_encoder_layers, model.cfg.n_layers
    tokens, behind = torch.tensor([prompt]), torch.tensor([[*model.prefix, *said]])
    cache = model.run_with_cache(tokens, behind)[1]
    post = {layer: model.hook_name(layer, "hook_resid_post") for layer in range(n_layers)}
    logits = {("logit", n_encoder - 1): final_logits(model, cache["decoder.hook_embed"][0, -1:])[0]}
    for layer in range(n_encoder, n_layers):
        logits["logit", layer] = final_logits(model, cache[post[layer]][0, -1:])[0]
    for layer in range(-1, n_encoder):
        resid = cache["encoder.hook_embed" if layer < 0 else post[layer]]
        memory = model.parts.encoder.final_norm(resid)
        logits["decoder", layer] = model.decode(behind, memory)[0, -1]
    return {place: of.double().log_softmax(-1) for place, of in logits.items()}


@pytest.mark.long
@pytest.mark.parametrize(("case", "budget"), [("t5", 2**20), ("bart", 2**30)])
def test_answers_of_several_tokens_are_read_where_they_are_told_apart(case: str, budget: int):
    """Of the decoder lens the encoder ends early."""
    model = lw.load_model(tiny_folder(case))
    assert isinstance(model, Seq2SeqModel)
    options = {"memory_budget": budget, "progress": False}
    lens = lw.logit_lens(model, NUMBERS, "continuation", **options).lens
    (task,) = (setup := prepare(model, [NUMBERS], "continuation")).tasks
    expected = {"two tokens": (2, 4), "one token": (2, 3), "at once": (1, 2)}
    for item in task.items:
        asked = setup.requests(task, item, "continuation")
        (gold,) = [one.request for one in asked if one.gold]
        assert isinstance(gold, LogLikelihood)
        answer, (start, stop) = gold.continuation, expected[item.id]
        at = [lens_logprobs_at(model, gold.context, answer[:n]) for n in range(start, stop)]
        rows = lens.loc[lens["item"] == item.id].set_index(["lens", "layer"])
        assert set(rows.index) == set(at[0])
        for place, row in rows.iterrows():
            logprobs = [of[place] for of in at]
            pairs = list(zip(logprobs, answer[start:stop], strict=True))
            assert row["rank"] == max(int((of > of[token]).sum()) for of, token in pairs)
            total = sum(float(of[token]) for of, token in pairs)
            assert row["logprob"] == pytest.approx(total, abs=1e-4)
            assert row["token"] == setup.tokenizer.decode(answer[start:stop])


def test_positions_that_the_decoder_does_not_have() -> None:
    with pytest.raises(UserError, match="expected positions from -1 to -1"):
        lw.logit_lens(wired_model(), "wired-lookup", positions=[-2], limit=LIMIT, progress=False)
    with pytest.raises(UserError, match="expected positions from -1 to -1"):
        lw.logit_lens(wired_model(), "wired-lookup", positions="all", limit=LIMIT, progress=False)


@pytest.mark.long
def test_a_profile_joins_both_stacks() -> None:
    found = lw.profile(
        small_seq2seq(SMALL), [small_task("knowledge"), small_task("reasoning")], "generate",
        limit=10, pairs=1,
        also=["attribution", "estimates", "paths", "head-scores"], progress=False,
    )  # fmt: skip
    table = found.results[-1].to_pandas()
    critical = table.loc[(table["method"] == "ablation") & (table["measure"] == "critical set")]
    expected = {"knowledge": [3, 5, 7, 8], "reasoning": [0, 2, 4, 5, 7, 8]}
    found_at = {(r.axis, r.capability): list(r.layers) for r in critical.itertuples()}
    assert found_at == {
        (axis, capability): [layer for layer in layers if layer in of_axis]
        for axis, of_axis in (("computation", range(9)), ("encoder", range(5)),
                              ("decoder", range(5, 9)))
        for capability, layers in expected.items()
    }  # fmt: skip
    methods = {"ablation", "logit lens", "decoder lens", "direct attribution"}
    assert methods <= set(table["method"])
    made = {type(result).__name__: result for result in found.results}
    assert {"PatchingResult", "AttributionPatchingResult", "HeadsResult"} <= set(made)
    paths = made["PathPatchingResult"].effects()
    assert set(paths.loc[paths["recovered"] > 0.5, "sender"]) == {"mlp decoder.3"}
    page = found.report.html
    assert "decoder.3" in page
    assert {"emergence", "emergence_within_stacks"} <= set(found.report.figures)
    assert "Cross-attention of layer decoder.2" in page
    assert "Cross-attention of layer encoder.2" not in page
    assert "Direct paths</h2>" in page


def test_a_profile_of_two_stacks_can_do_all() -> None:
    assert wanted_extras(["all"], wired_model().cfg) == tuple(
        n for n in EXTRAS if n != "interactions"
    )


def test_a_plan_from_the_configuration_alone(tmp_path) -> None:
    """Of the size of flan-t5-small, of which there are no weights here."""
    sizes: dict[str, Any] = {
        "vocab_size": 32128, "d_model": 512, "d_kv": 64, "d_ff": 1024, "num_layers": 8,
        "num_heads": 6, "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False,
        "decoder_start_token_id": 0, "n_positions": 512,
        "architectures": ["T5ForConditionalGeneration"],
    }  # fmt: skip
    config = T5Config(**sizes)
    config.save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    plan = plan_run(tmp_path, "facts", ("continuation", "generate"), limit=8, fewshot=0)
    assert plan.seconds is None
    assert "weights" in " ".join(plan.notes)
    assert plan.total.interventions == 18  # intact, no layers, and each without one
    assert plan.total.token_passes < plan.total.brute_force_token_passes / 3
    # Layers of 512 x (4 x 384 + 3 x 1024), and more in the decoder.
    assert plan.total.flop / plan.total.token_passes > 2 * 512 * (4 * 384 + 3 * 1024)


@pytest.mark.long
def test_short_tables_name_layers_by_their_stack() -> None:
    model, task = small_seq2seq(SMALL), small_task("knowledge")
    n_encoder, n_decoder = model.cfg.n_encoder_layers, model.cfg.n_decoder_layers
    asked: dict[str, Any] = {"protocols": "continuation", "limit": LIMIT, "progress": False}
    more = {**asked, "limit": 20}
    skipped = lw.ablate(model, task, layers=["encoder.3", "decoder.0"], **more)
    assert set(skipped.summary_rows()["intervention"]) == {
        "skip:layer=encoder.3", "skip:layer=decoder.0",
    }  # fmt: skip
    sets = lw.ablate(model, task, block=2, layers=["encoder.4", "decoder.0"], **more)
    assert set(sets.summary_rows()["intervention"]) == {"skip:layers=encoder.4+decoder.0"}
    read = lw.logit_lens(model, task, **asked).summary_rows()
    assert read["layer"].tolist() == [
        "encoder embedding", *(f"encoder.{layer}" for layer in range(n_encoder)),
        "decoder embedding", *(f"decoder.{layer}" for layer in range(n_decoder)),
    ]  # fmt: skip
    trained = train_lens(model, task, n_texts=40, steps=1, progress=False)
    exact = {f"encoder.{n_encoder - 1}", f"decoder.{n_decoder - 1}"}  # there is nothing to train
    streams = [name for name in read["layer"] if name not in exact]
    assert trained.result.summary_rows()["layer"].tolist() == streams


@pytest.mark.parametrize(
    ("layer", "name", "n_encoder"),
    [(1, "1", 0), (2, "2", 0), (0, "encoder.0", 4), (3, "encoder.3", 4), (4, "decoder.0", 4)],
)
def test_layers_have_numbers_or_addresses(layer: int, name: str, n_encoder: int) -> None:
    assert layer_name(layer, n_encoder) == name
    assert layer_number(name, n_encoder, n_encoder + 3) == layer
    assert spans(n_encoder, n_encoder + 3) == ([(0, 3), (4, 6)] if n_encoder else [(0, 2)])


@pytest.mark.parametrize(
    ("name", "n_encoder"),
    [
        *((name, 4) for name in ("encoder.4", "decoder.2", "3", "other.1", "encoder.-1", "", ".")),
        *((name, 0) for name in ("3", "encoder.0", ".1", "-1", "x")),
    ],
)
def test_layers_that_a_model_lacks(name: str, n_encoder: int) -> None:
    expected = "encoder.0 to encoder.3, decoder.0 to decoder.1" if n_encoder else r"0 to 2\."
    with pytest.raises(UserError, match=f"no layer {name!r}: expected one of {expected}"):
        layer_number(name, n_encoder, 6 if n_encoder else 3)
