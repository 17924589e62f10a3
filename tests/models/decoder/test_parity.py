"""Decoders over their own modules against these modules as Hugging Face runs them."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

from layerwise.models.decoder.families import TESTED
from layerwise.models.decoder.load import hooked_decoder
from tests.cases import in_long_runs
from tests.models.decoder.tiny import CASES, NEWER, tiny_decoder, tiny_original

TOKENS = torch.randint(0, 50, (2, 31), generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("case", CASES)
def test_log_probabilities_are_those_of_the_original(case: str) -> None:
    """Also of texts six times as long as a window."""
    original, model = tiny_original(case), tiny_decoder(case)
    for length in (1, 2, 5, 6, 31):
        with torch.inference_mode():
            expected = original(input_ids=TOKENS[:, :length], use_cache=False).logits
            given = model(TOKENS[:, :length])
        gap = given.log_softmax(-1) - expected.log_softmax(-1)
        assert gap.abs().max() < 3e-5, length


def test_the_original_goes_on_computing_what_it_did() -> None:
    original, model = tiny_original("gemma 2"), tiny_decoder("gemma 2")
    with torch.inference_mode():
        assert torch.equal(original(TOKENS).logits, model.original(TOKENS).logits)


@pytest.mark.parametrize("case", ["gemma 2", "cohere 2", "smollm 3"])
def test_greedy_texts_are_those_of_generate(case: str) -> None:
    model = tiny_decoder(case)
    original = tiny_original(case)
    original.generation_config.eos_token_id = None
    expected = original.generate(TOKENS[:, :9], max_new_tokens=8, do_sample=False, pad_token_id=1)[
        :, 9:
    ]
    for use_cache in (True, False):
        assert torch.equal(model.generate(TOKENS[:, :9], 8, use_cache=use_cache), expected)


def test_every_class_that_is_trusted_has_a_case() -> None:
    absent = {name for name, case in NEWER.items() if case not in CASES}
    assert {tiny_decoder(case).cfg.original_architecture for case in CASES} == TESTED - absent


def test_frequencies_of_rotations_stay_exact_in_a_narrow_format() -> None:
    """As when transformers loads a model in bfloat16."""
    model = copy.deepcopy(tiny_decoder("gemma 3")).to(torch.bfloat16)
    exact = dict(tiny_decoder("gemma 3").named_buffers())
    frequencies = {name: b for name, b in model.named_buffers() if "inv_freq" in name}
    assert frequencies
    for name, buffer in frequencies.items():
        assert torch.equal(buffer, exact[name])
    assert model.W_E.dtype == torch.bfloat16


def test_stopping_early_gives_the_stream_that_enters_a_layer() -> None:
    model = tiny_decoder("olmo 2")
    kept: dict[str, Any] = {}

    def keep(value: torch.Tensor, hook: Any) -> None:
        kept[hook.name] = value

    names = [f"blocks.{layer}.hook_resid_pre" for layer in range(4)]
    with torch.inference_mode():
        model.run_with_hooks(TOKENS, fwd_hooks=[(name, keep) for name in names])
        for layer in range(4):
            assert torch.equal(model(TOKENS, stop_at_layer=layer), kept[names[layer]])


@pytest.mark.long
@pytest.mark.parametrize("case", ["bloom", *in_long_runs(("mpt",))])
def test_slopes_of_long_texts_are_not_rounded_away_in_a_narrow_format(case: str) -> None:
    """Bloom's original rounds a slope times a position, thousands, to bfloat16: 2 nats here."""
    longer = {"max_seq_len": 2048} if case == "mpt" else {}
    original = tiny_original(case, **longer)
    tokens = torch.randint(0, 50, (1, 1500), generator=torch.Generator().manual_seed(5))
    with torch.inference_mode():
        expected = original(tokens, use_cache=False).logits.log_softmax(-1)
        model = hooked_decoder(original.to(torch.bfloat16), None, case)
        given = model(tokens).float().log_softmax(-1)
    assert float((given - expected).abs().max()) < 1.0
    assert float((given - expected).abs().mean()) < 0.1


@pytest.mark.parametrize("case", ["bloom", "mpt"])
def test_slopes_of_heads_that_are_no_power_of_two(case: str) -> None:
    sizes = {"hidden_size": 48, "n_head": 6} if case == "bloom" else {"d_model": 48, "n_heads": 6}
    original = tiny_original(case, **sizes)
    with torch.inference_mode():
        expected = original(TOKENS, use_cache=False).logits.log_softmax(-1)
        given = hooked_decoder(original, None, case)(TOKENS).log_softmax(-1)
    torch.testing.assert_close(given, expected, atol=3e-5, rtol=0)
