"""Hooked models against Hugging Face, family by family, and models that must be refused."""

from __future__ import annotations

import math

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from layerwise.models import load_model, model_facts
from layerwise.models.conversion import backends, parity
from layerwise.models.huggingface.parity_text import batches
from tests.cases import few_by_day, in_long_runs
from tests.models.refusal import expect_refusal
from tests.models.tiny import FAMILIES, TEXT, tiny_folder, tiny_model

pytestmark = pytest.mark.hooked_transformer

LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 1e4,
    "factor": 4.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
RIGHT = [
    ("gpt2", {}),
    ("gpt2", {"scale_attn_by_inverse_layer_idx": True}),
    ("gpt_neox", {"use_parallel_residual": False}),
    ("llama", {"num_key_value_heads": 1, "tie_word_embeddings": True}),
    ("llama", {"rope_parameters": LLAMA3}),
    ("mistral", {"sliding_window": 7}),
    ("qwen2", {}),
    ("qwen3", {"num_key_value_heads": 1, "head_dim": 16}),
    ("opt", {"num_attention_heads": 2, "ffn_dim": 96, "activation_function": "gelu"}),
    ("phi3", {"sliding_window": 9}),
    ("mixtral", {}),
    ("gptj", {}),
    ("gpt_neo", {}),
    ("bloom", {}),
    *in_long_runs(
        ("gpt_neox", {}),
        ("llama", {"num_key_value_heads": 4, "tie_word_embeddings": True}),
        ("mistral", {"sliding_window": None}),
        ("mistral", {"num_key_value_heads": 1, "head_dim": 16, "tie_word_embeddings": True}),
        ("opt", {}),
        ("mixtral", {"num_key_value_heads": 4, "sliding_window": 8}),
        ("qwen2", {"num_key_value_heads": 4, "tie_word_embeddings": True}),
        ("qwen2", {"num_key_value_heads": 1}),
        ("qwen3", {"num_key_value_heads": 4, "tie_word_embeddings": True}),
        ("gpt2", {"n_layer": 2, "n_head": 1, "n_inner": 192}),
        ("gpt_neox", {"rotary_pct": 1.0, "tie_word_embeddings": True}),
        ("phi3", {"num_key_value_heads": 4, "tie_word_embeddings": True}),
    ),
]
LINEAR = {"rope_type": "linear", "rope_theta": 1e4, "factor": 4.0}
YARN = {**LINEAR, "rope_type": "yarn", "original_max_position_embeddings": 64}
WRONG = [
    ("llama", {"attention_bias": True}),
    ("llama", {"rope_parameters": LINEAR}),
    ("llama", {"rope_parameters": YARN}),
]


def label(value):
    return "-".join(map(str, value)) if isinstance(value, dict) else str(value)


@pytest.mark.long(
    but=[
        "llama-rope_parameters",
        "mistral-sliding_window0",
        "qwen3-num_key_value_heads-head_dim",
        "mixtral-",
        "gptj-",
        "gpt_neo-",
        "bloom-",
    ]
)
@pytest.mark.parametrize(("family", "config"), RIGHT, ids=label)
def test_log_probabilities_at_every_length_are_those_of_the_original(tmp_path, family, config):
    folder = tiny_folder(tmp_path, family, bos=True, **config)
    model = load_model(folder)
    original = AutoModelForCausalLM.from_pretrained(folder).eval()
    ids = AutoTokenizer.from_pretrained(folder)(TEXT).input_ids
    facts = model_facts(model)
    assert facts.n_parameters == original.num_parameters()
    for length in [1, 2, 3, 8, 11, 50, len(ids)]:
        tokens = torch.tensor([ids[:length], ids[-length:]])
        with torch.inference_mode():
            expected = original(tokens).logits.log_softmax(-1)
            given = model(tokens).log_softmax(-1)
        assert expected.std() > 0.5, "flat log-probabilities would hide a wrong conversion"
        torch.testing.assert_close(given, expected, atol=5e-4, rtol=0)
    assert 0 < facts.parity < 5e-4


@pytest.mark.parametrize(("family", "config"), WRONG, ids=label)
def test_settings_that_are_not_converted_are_refused(tmp_path, family, config):
    folder = tiny_folder(tmp_path, family, **config)
    with expect_refusal(str(folder), "is not its original in float32", "at most 0.001"):
        load_model(folder, backend="transformer-lens")


@pytest.mark.parametrize(
    ("family", "config"),
    [
        ("llama", {"head_dim": 20}),
        ("opt", {"do_layer_norm_before": False}),
        ("opt", {"word_embed_proj_dim": 24}),
    ],
    ids=label,
)
def test_shapes_that_are_not_converted_are_refused(tmp_path, family, config):
    with expect_refusal("TransformerLens cannot convert this"):
        load_model(tiny_folder(tmp_path, family, **config), backend="transformer-lens")


def swapped_heads(monkeypatch, name):
    hooked_model = backends.hooked_model

    def swap(*arguments):
        model = hooked_model(*arguments)
        weight = getattr(model.blocks[1].attn, name)
        weight.data = weight.data[[1, 0, 2, 3]]
        return model

    monkeypatch.setattr(backends, "hooked_model", swap)


SWAPPED = ["gpt2", "gpt_neox", "llama", "mistral", "qwen3", "opt", "phi3"]


@pytest.mark.parametrize(
    ("family", "name"),
    [
        # By day one of the two, of two families.
        pytest.param(family, name, marks=[] if i == 3 * j else pytest.mark.long)
        for i, family in enumerate(SWAPPED)
        for j, name in enumerate(["W_Q", "W_O"])
    ],
)
def test_a_model_with_two_heads_swapped_fails_the_check(tmp_path, monkeypatch, family, name):
    swapped_heads(monkeypatch, name)
    with expect_refusal("is not its original"):
        load_model(tiny_folder(tmp_path, family), backend="transformer-lens")


def test_a_wrong_model_is_refused_with_its_distance_from_float64_and_that_of_rounding(
    tmp_path, monkeypatch
):
    swapped_heads(monkeypatch, "W_Q")
    with expect_refusal(
        "from the original in float64 the copy is up to", "takes the original itself up"
    ):
        load_model(tiny_folder(tmp_path, "gpt2"), backend="transformer-lens")


@pytest.mark.parametrize("family", few_by_day(FAMILIES, "llama"))
def test_rounding_of_every_family_explains_what_is_left(tmp_path, monkeypatch, family):
    """However small a difference is tolerated without asking: float64 then tells."""
    monkeypatch.setattr(parity, "TOLERANCE", 1e-9)
    facts = model_facts(load_model(tiny_folder(tmp_path, family)))
    assert 1e-9 < facts.parity < 1e-3


def test_a_failed_check_is_not_remembered_as_passed(tmp_path, monkeypatch):
    folder = tiny_folder(tmp_path, "llama")
    with monkeypatch.context() as patch:
        swapped_heads(patch, "W_Q")
        with expect_refusal("is not its original"):
            load_model(folder, backend="transformer-lens")
    assert model_facts(load_model(folder)).parity < 1e-3


def test_the_check_is_done_once_for_the_same_files(tmp_path, monkeypatch):
    folder = tiny_folder(tmp_path, "llama")
    first = model_facts(load_model(folder))
    monkeypatch.setattr(parity, "largest_difference", lambda *_: math.inf)
    assert model_facts(load_model(folder)) == first


@pytest.mark.parametrize("changed", ["config.json", "model.safetensors", "a version"])
def test_the_check_is_done_again_when_something_changes(tmp_path, monkeypatch, changed):
    folder = tiny_folder(tmp_path, "llama")
    load_model(folder)
    if changed == "config.json":
        config = folder / "config.json"
        config.write_text(config.read_text().replace("10000.0", "20000.0"))
    elif changed == "model.safetensors":
        other = tiny_folder(tmp_path, "llama", seed=1)
        (folder / changed).write_bytes((other / changed).read_bytes())
    else:
        version = parity.metadata.version
        monkeypatch.setattr(parity.metadata, "version", lambda name: version(name) + ".post1")
    monkeypatch.setattr(parity, "largest_difference", lambda *_: math.inf)
    with expect_refusal("is not its original"):
        load_model(folder, backend="transformer-lens")


def test_nan_is_an_infinite_difference(tmp_path):
    model = load_model(tiny_folder(tmp_path, "gpt2"))
    texts = batches([5, 6, 7, 8])
    expected = [torch.full((*text["input_ids"].shape, 304), math.nan) for text in texts]
    assert parity.largest_difference(model, expected, texts) == math.inf
    with expect_refusal("differ by up to inf nats", "at most 0.001"):
        parity.check_parity(
            "m", model, expected, texts, lambda: pytest.fail("float64 was asked for")
        )


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_reduced_precision_is_reported_not_refused(tmp_path, dtype):
    folder = tiny_folder(tmp_path, "llama")
    full = model_facts(load_model(folder))
    reduced = model_facts(load_model(folder, dtype=dtype))
    again = model_facts(load_model(folder, dtype=dtype))
    assert reduced == again
    assert reduced.dtype == dtype
    assert full.parity < 1e-3 < reduced.parity < 3


@pytest.mark.parametrize(
    ("family", "config", "n_ctx"),
    [
        ("llama", {"max_position_embeddings": 128}, 128),
        ("mistral", {"max_position_embeddings": 4096}, 4096),
        ("mistral", {"sliding_window": 20}, 256),
        ("qwen2", {"use_sliding_window": True, "sliding_window": 90, "max_window_layers": 0}, 90),
        ("llama", {"rope_parameters": {**LINEAR, "rope_type": "dynamic"}}, 256),
    ],
    ids=label,
)
def test_context_ends_where_the_conversion_stops_being_right(tmp_path, family, config, n_ctx):
    assert load_model(tiny_folder(tmp_path, family, **config)).cfg.n_ctx == n_ctx


def test_positions_beyond_the_first_rotary_table_are_right(tmp_path):
    folder = tiny_folder(tmp_path, "llama", max_position_embeddings=4096, num_hidden_layers=1)
    model, original = load_model(folder), AutoModelForCausalLM.from_pretrained(folder)
    tokens = torch.randint(300, (1, 2500), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected = original(tokens).logits[:, -8:].log_softmax(-1)
        given = model(tokens)[:, -8:].log_softmax(-1)
    torch.testing.assert_close(given, expected, atol=1e-3, rtol=0)


def test_a_model_that_crashes_is_refused(tmp_path):
    folder = tiny_folder(tmp_path, "gpt_neox", rotary_pct=0.25)
    with expect_refusal("does not run", "correct its config.json"):
        load_model(folder)


def test_parameters_that_the_original_lacks_are_zero():
    """Bloom has no learned positions; their memory would hold anything, NaN too."""
    model = tiny_model("bloom")
    assert not model.pos_embed.W_pos.any()
