"""A ``TransformerBridge`` that is handed over: the decoder in it, or a sentence."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from transformers import AutoModelForCausalLM

import layerwise as lw
from layerwise.analyses.training.api import load_checkpoint
from layerwise.models import from_bridge, load_model, model_facts, original_tokenizer
from layerwise.models.conversion.bridge import VERIFIED
from layerwise.models.decoder import DecoderModel
from layerwise.models.libraries.hooked import has_hooked_transformer
from layerwise.models.names.registry import ORGANISM_WEIGHTS
from tests.models.decoder.test_loading import tiny_family_folder
from tests.models.decoder.tiny import CASES
from tests.models.refusal import expect_refusal
from tests.models.tiny import TEXT, session_folder, tiny_folder, tiny_tokenizer

# All but what TransformerLens's own adapter refuses; by day one that is wrapped in parts, and one
# whose queries, keys and values the bridge cuts out of one weight.
# What TransformerLens's own bridge refuses, or computes otherwise than the model that it wraps.
NOT_BRIDGED = ["phi, normed queries", "falcon, two norms"]
NOT_BRIDGED += ["cohere", "cohere 2"] if has_hooked_transformer() else []
BRIDGED = [
    pytest.param(case, marks=[] if case in ("gemma 2", "gpt-neox") else pytest.mark.long)
    for case in CASES
    if case not in NOT_BRIDGED
]


def boot(folder: Path | str, **options: Any) -> Any:
    """The bridge to a folder, as its user makes it."""
    from transformer_lens.model_bridge import TransformerBridge

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return TransformerBridge.boot_transformers(
            str(folder), device="cpu", dtype=torch.float32, **options
        )


@pytest.fixture(scope="module")
def folder() -> Path:
    """A model whose tokenizer puts nothing before texts, though it has a BOS token."""
    return tiny_folder(session_folder(), "qwen2")


@pytest.fixture
def bridge(folder: Path) -> Any:
    return boot(folder)


def test_it_is_its_original(bridge: Any, folder: Path) -> None:
    model, original = from_bridge(bridge), AutoModelForCausalLM.from_pretrained(folder)
    tokens = torch.arange(5, 45)[None]
    assert torch.allclose(model(tokens), original(tokens).logits, atol=1e-5)
    facts, named = model_facts(model), load_model(folder, backend="hugging-face")
    assert facts.parity is not None
    assert facts.parity < 1e-4
    assert (facts.backend, facts.source, facts.verified) == ("hugging-face", "user", VERIFIED)
    assert facts.hash == model_facts(named).hash
    plain = original_tokenizer(named)(TEXT).input_ids
    assert bridge.tokenizer(TEXT).input_ids == [bridge.tokenizer.bos_token_id, *plain]
    assert original_tokenizer(model)(TEXT).input_ids == plain
    assert model.to_tokens(TEXT, truncate=False)[0].tolist() == plain


def test_it_has_the_bridges_weights_and_leaves_the_bridge_alone(bridge: Any) -> None:
    before = list(bridge.original_model.parameters())
    wanted = [one.requires_grad for one in before]
    model = from_bridge(bridge)
    assert from_bridge(bridge) is model
    assert {one.data_ptr() for one in model.parameters()} <= {one.data_ptr() for one in before}
    assert list(map(id, bridge.original_model.parameters())) == list(map(id, before))
    assert [one.requires_grad for one in before] == wanted
    assert not any(one.requires_grad for one in model.parameters())
    with torch.no_grad():
        bridge.unembed.weight.mul_(2.0)
    assert from_bridge(bridge) is not model


@pytest.mark.parametrize("case", BRIDGED)
def test_families(case: str, tmp_path: Path) -> None:
    parity = model_facts(from_bridge(boot(tiny_family_folder(case, tmp_path)))).parity
    assert parity is not None
    assert parity < 1e-4


@pytest.mark.long
def test_analyses_take_it_for_the_model() -> None:
    handed = boot(ORGANISM_WEIGHTS / "organism-decoder")
    named = load_model("organism-decoder", backend="hugging-face")
    asked: dict[str, Any] = {"tasks": "organism-facts", "protocols": "continuation", "limit": 6}
    one, other = (lw.ablate(model, layers=[2], **asked) for model in (handed, named))
    pd.testing.assert_frame_equal(one.records, other.records)
    assert one.facts.model.verified == VERIFIED
    assert isinstance(load_checkpoint(0, handed, {}), DecoderModel)
    assert isinstance(load_checkpoint(0, lambda: handed, {}), DecoderModel)
    with expect_refusal("no Hugging Face original to write from"):
        lw.prune_model(handed, remove=[1], out="pruned")


def test_what_was_changed_is_refused(bridge: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    point = bridge.blocks[0].hook_out
    point.add_hook(lambda value, hook: None)
    with expect_refusal("has hooks on it", "reset_hooks"):
        from_bridge(bridge)
    bridge.reset_hooks(including_permanent=True)
    model = from_bridge(bridge)
    own = bridge.forward
    with monkeypatch.context() as patched:
        patched.setattr(bridge, "forward", lambda *args, **named: 1.5 * own(*args, **named))
        with expect_refusal("does not say what the model that it wraps says", "boot_transformers"):
            from_bridge(bridge)
    assert from_bridge(bridge) is model
    bridge.enable_compatibility_mode()
    with expect_refusal("were processed", "without enable_compatibility_mode"):
        lw.ablate(bridge)


def test_other_modules_within_it_are_refused(folder: Path) -> None:
    original = AutoModelForCausalLM.from_pretrained(folder)
    bridge = boot(folder, hf_model=original)
    del bridge.original_model.model.norm._modules["_original_component"]
    with expect_refusal(
        "wraps a changed Qwen2ForCausalLM", "'model.norm.weight'", "save_pretrained"
    ):
        from_bridge(bridge)


def test_what_wraps_no_decoder_of_transformers_is_refused(bridge, monkeypatch):
    with expect_refusal("is of type DecoderModel", "a TransformerBridge"):
        from_bridge(from_bridge(bridge))
    bridge.original_model.config.is_encoder_decoder = True
    with expect_refusal("wraps a Qwen2ForCausalLM", "load the model by its name"):
        from_bridge(bridge)
    bridge.original_model = torch.nn.Linear(2, 2)
    with expect_refusal("wraps a Linear", "load the model by its name"):
        from_bridge(bridge)


def test_a_tokenizer_that_is_stored_nowhere_is_the_bridges(folder: Path) -> None:
    tokenizer = tiny_tokenizer(bos=True)
    tokenizer.init_kwargs.update(name_or_path="nowhere/at all", add_bos_token=True)
    bridge = boot(folder, tokenizer=tokenizer)
    assert from_bridge(bridge).tokenizer is bridge.tokenizer
    without = boot(folder)
    without._tokenizer = None
    with expect_refusal("has no tokenizer"):
        from_bridge(without)
