"""Backends of folders, which say what their originals say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, Gemma3nTextConfig

from layerwise.errors import UserError
from layerwise.models import load_model, model_facts
from layerwise.models.conversion import backends
from layerwise.models.decoder import DecoderModel
from layerwise.models.decoder.families import TESTED
from layerwise.models.decoder.load import hooked_decoder
from layerwise.sweep import Generate, LogLikelihood, Scored, intact, patch, resample, skip, sweep
from layerwise.sweep import zero as zero_at
from tests.hooked import HookedTransformer
from tests.models.refusal import expect_refusal
from tests.models.tiny import TEXT, copied_folder, scramble, tiny_folder, tiny_tokenizer

from .tiny import tiny_original

BIASES = {"attention_bias": True}
HEADS = {"head_dim": 20}


def tiny_family_folder(case: str, tmp_path: Path, **fields: Any) -> Path:
    """A tiny model of a family, in hub format with a tokenizer that prepends ``<s>``."""

    def write(drawn: Path) -> None:
        tiny_original(case, vocab_size=304, **fields).save_pretrained(drawn)
        tiny_tokenizer(bos=True).save_pretrained(drawn)

    return copied_folder(f"decoder {case} {fields}", write, tmp_path / case)


@pytest.mark.parametrize("case", ["gemma 2", "olmo", "granite", "cohere 2"])
def test_what_is_not_converted_runs_over_its_own_modules(case: str, tmp_path: Path) -> None:
    folder = tiny_family_folder(case, tmp_path, max_position_embeddings=256)
    model, again = load_model(folder), load_model(folder)
    facts = model_facts(model)
    assert isinstance(model, DecoderModel)
    assert facts == model_facts(again)
    assert (facts.backend, facts.dtype) == ("hugging-face", "float32")
    assert facts.parity is not None
    assert facts.parity < 1e-5
    # Older releases of transformers leave soft-caps out of other kinds of attention.
    original = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager").eval()
    ids = AutoTokenizer.from_pretrained(folder)(TEXT).input_ids
    assert model.to_tokens(TEXT)[0].tolist() == ids
    assert facts.n_parameters == original.num_parameters()
    with torch.inference_mode():
        expected = original(torch.tensor([ids])).logits.log_softmax(-1)
        given = model(torch.tensor([ids])).log_softmax(-1)
    torch.testing.assert_close(given, expected, atol=1e-3, rtol=0)


@pytest.mark.hooked_transformer
@pytest.mark.parametrize("fields", [BIASES, HEADS], ids=str)
def test_what_is_converted_wrongly_runs_over_its_own_modules(fields, tmp_path, monkeypatch):
    """And TransformerLens is not tried at the next load."""
    folder = tiny_folder(tmp_path, "llama", **fields)
    assert model_facts(load_model(folder)).backend == "hugging-face"
    monkeypatch.delattr(backends, "hooked_model")
    assert model_facts(load_model(folder)).backend == "hugging-face"


@pytest.mark.hooked_transformer
@pytest.mark.parametrize(
    "error",
    [
        OSError(28, "No space left on device"),
        MemoryError(),
        RuntimeError("DefaultCPUAllocator: can't allocate memory"),
    ],
    ids=["disk", "memory", "torch"],
)
def test_what_the_machine_lacks_is_no_reason_for_another_backend(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    folder = tiny_folder(tmp_path, "llama")

    def fail(*_: object, **__: object) -> None:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr("transformer_lens.loading_from_pretrained.get_pretrained_state_dict", fail)
        with pytest.raises(type(error)):
            load_model(folder)
    assert model_facts(load_model(folder)).backend == "transformer-lens"


@pytest.mark.hooked_transformer
def test_transformer_lens_comes_first_and_either_can_be_asked_for(tmp_path: Path) -> None:
    folder = tiny_folder(tmp_path, "qwen2")
    by_name = {
        name: load_model(folder, backend=name)
        for name in ("auto", "transformer-lens", "hugging-face")
    }
    assert isinstance(by_name["auto"], HookedTransformer)
    assert isinstance(by_name["transformer-lens"], HookedTransformer)
    assert isinstance(by_name["hugging-face"], DecoderModel)
    with expect_refusal("Unknown backend 'jax'", "hugging-face"):
        load_model(folder, backend="jax")


@pytest.mark.hooked_transformer
@pytest.mark.parametrize("family", ["llama", "qwen2"])
def test_both_backends_give_the_same_outcomes(family: str, tmp_path: Path) -> None:
    folder = tiny_folder(tmp_path, family)
    one, other = (load_model(folder, backend=b) for b in ("transformer-lens", "hugging-face"))
    begin = (5, 9, 20, 31, 7)
    asked = [LogLikelihood((*begin, n), (n + 3, 8), source=(3, *begin)) for n in range(40, 44)]
    asked += [Generate(begin, 8, source=begin[::-1]), Generate((*begin, 4), 5, source=begin)]
    changes = [
        intact(), *map(skip, range(3)), *(zero_at("z", 1, head) for head in range(4)),
        resample("mlp_out", 2), resample("z", 0, 3),
    ]  # fmt: skip
    patches = [patch(site, 1, -1) for site in ("resid_pre", "attn_out", "resid_mid", "mlp_out")]
    for interventions, requests in ((changes, asked), (patches, asked[:4])):
        pairs = zip(
            *(sweep(model, interventions, requests).outcomes for model in (one, other)),
            strict=True,
        )
        for mine, theirs in pairs:
            for a, b in zip(mine, theirs, strict=True):
                assert type(a) is type(b)
                if isinstance(a, Scored) and isinstance(b, Scored):
                    assert a.token_logprobs == pytest.approx(b.token_logprobs, abs=1e-4)
                else:
                    assert a == b


def test_an_unknown_family_is_tried_and_compared_before_its_first_sweep(tmp_path, monkeypatch):
    import transformers

    from layerwise.sweep.checks import faithful

    assert "ArceeForCausalLM" not in TESTED
    config = transformers.ArceeConfig(
        vocab_size=304, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, head_dim=8, max_position_embeddings=64,
        bos_token_id=0, eos_token_id=1, pad_token_id=1,
    )  # fmt: skip
    original: Any = transformers.AutoModelForCausalLM.from_config(config)
    scramble(original, 1)
    original.save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    tried: list[str] = []
    trial, compare = backends.refuse_wrong_sites, faithful._compare
    monkeypatch.setattr(
        backends, "refuse_wrong_sites", lambda model: (tried.append("sites"), trial(model))
    )
    monkeypatch.setattr(
        faithful, "_compare", lambda model: (tried.append("engine"), compare(model))
    )
    model = load_model(tmp_path)
    for _ in range(2):
        sweep(model, [intact(), skip(1)], [LogLikelihood((4, 5), (6,))])
    assert tried == ["sites", "engine"]


@pytest.mark.parametrize(
    ("config", "fields", "why"),
    [
        ("FalconConfig", {"alibi": True}, "its positions are slopes of scores"),
        ("OpenAIGPTConfig", {"n_embd": 32, "n_layer": 2, "n_head": 4}, "has no token embedding"),
        ("OPTConfig", {"do_layer_norm_before": False}, "has norms behind the sums"),
        ("OPTConfig", {"word_embed_proj_dim": 16}, "projects its embeddings"),
        ("OPTConfig", {"_remove_final_layer_norm": True}, "has no norm behind its layers"),
    ],
)  # fmt: skip
def test_what_cannot_be_run_is_refused_before_weights_are_read(config, fields, why, tmp_path):
    import transformers

    sizes = {"vocab_size": 304, "hidden_size": 32, "intermediate_size": 48,
             "num_hidden_layers": 2, "num_attention_heads": 4}  # fmt: skip
    made: Any = transformers.AutoModelForCausalLM.from_config(
        getattr(transformers, config)(**{**sizes, **fields})
    )
    made.save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    for backend in ("auto", "hugging-face"):
        with expect_refusal("Its own modules cannot be run, since", why, "use another model"):
            load_model(tmp_path, backend=backend)


def test_a_bloom_whose_sums_begin_with_normed_streams_is_refused() -> None:
    original = tiny_original("bloom", apply_residual_connection_post_layernorm=True)
    with expect_refusal("Its own modules cannot be run, since", "to the normed stream"):
        hooked_decoder(original, None, "bloom")


def test_narrow_formats_are_loaded_as_transformers_does(tmp_path: Path) -> None:
    folder = tiny_family_folder("gemma 3", tmp_path)
    model = load_model(folder, dtype="bfloat16")
    original = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).eval()
    tokens = torch.arange(20, 50)[None]
    with torch.inference_mode():
        expected = original(tokens).logits.float().log_softmax(-1)
        given = model(tokens).float().log_softmax(-1)
    assert model.W_E.dtype == torch.bfloat16
    # Summed in another order than transformers' default attention does.
    assert (given - expected).abs().max() < 1.0


def test_windows_of_untested_families_end_the_context(tmp_path, monkeypatch):
    from layerwise.models.decoder import load

    folder = tiny_family_folder("gemma 3", tmp_path)
    assert load_model(folder).cfg.n_ctx == 64
    monkeypatch.setattr(load, "TESTED", frozenset())
    model = load.hooked_decoder(tiny_original("gemma 3"), None, "unknown")
    assert model.cfg.n_ctx == json.loads((folder / "config.json").read_text())["sliding_window"]


def test_a_family_with_a_width_for_each_mlp_is_refused_in_a_sentence(tmp_path: Path) -> None:
    config = Gemma3nTextConfig(
        vocab_size=304, vocab_size_per_layer_input=304, hidden_size=32, num_hidden_layers=2,
        hidden_size_per_layer_input=8, intermediate_size=[48, 48], num_attention_heads=4,
        num_key_value_heads=2, head_dim=8, num_kv_shared_layers=0, laurel_rank=4,
        layer_types=["sliding_attention", "full_attention"], altup_num_inputs=2,
        activation_sparsity_pattern=[0.0, 0.0], pad_token_id=0, bos_token_id=0, eos_token_id=1,
    )  # fmt: skip
    original = AutoModelForCausalLM.from_config(config)
    scramble(original, 0)
    original.save_pretrained(tmp_path / "gemma3n")
    tiny_tokenizer().save_pretrained(tmp_path / "gemma3n")
    # In lower releases its attention is not called without keys and values that layers share.
    of_lower = "Gemma3nTextAttention cannot be called"
    with pytest.raises(UserError, match=f"is not its original|{of_lower}"):
        load_model(tmp_path / "gemma3n")


@pytest.mark.parametrize("chosen", ["sdpa", "eager", "owner/name"])
def test_an_implementation_of_attention_that_was_chosen_after_loading_is_refused(tmp_path, chosen):
    model = load_model(tiny_folder(tmp_path, "llama"), backend="hugging-face")
    assert isinstance(model, DecoderModel)
    tokens, original = torch.tensor([[1, 2, 3]]), cast("Any", model.original)
    expected = model(tokens)
    original.config._attn_implementation = chosen
    for use in (lambda: model(tokens), lambda: sweep(model, [skip(1)], [Generate((1, 2), 2)])):
        with expect_refusal(f"was changed to {chosen!r}", "set_attn_implementation('layerwise')"):
            use()
    original.set_attn_implementation("layerwise")
    assert torch.equal(model(tokens), expected)
