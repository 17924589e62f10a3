"""Off-loaded decoders over their own modules: the same outcomes, one or two layers in memory."""

from __future__ import annotations

import functools
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

import layerwise as lw
from layerwise.errors import UserError
from layerwise.models import load_model, model_facts, weights_hash
from layerwise.models.decoder import DecoderModel
from layerwise.models.decoder.load import hooked_decoder
from layerwise.models.decoder.weight_parts import part_by_name
from layerwise.models.weights.offload import BlocksOnDisk, OnDisk, blocks_on_disk
from layerwise.sweep import (
    Generated,
    last_residuals,
    mean_activations,
    sweep,
)
from tests.analysis import word_task
from tests.models.decoder.test_loading import folder_of
from tests.models.decoder.tiny import CASES, tiny_original
from tests.models.off_disk import ASKED, CHANGES, CONTEXTS, PATCHES, SOURCED, TOKENS, mapped
from tests.models.refusal import refused
from tests.models.tiny import tiny_folder
from tests.test_over_original import pairs

# By day those that differ most here: soft-caps and norms behind, rotations of two kinds, a layer's
# numbers that are no parameter, attention handed over, rotations that grow, matrices transposed,
# an MLP without a module.
OFTEN = ("gemma 2", "gemma 3", "deepseek 3", "falcon", "llama, dynamic", "gpt-2, by layer", "opt")
FAMILIES = [case if case in OFTEN else pytest.param(case, marks=pytest.mark.long) for case in CASES]
NATS = 1e-4


def from_disk(folder: Path, **options: Any) -> Any:
    return load_model(folder, backend="hugging-face", offload="disk", **options)


def in_memory(folder: Path, **options: Any) -> Any:
    return load_model(folder, backend="hugging-face", **options)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return folder_of("gemma 2", tmp_path)


def layer_weights(model: Any) -> list[torch.nn.Parameter]:
    return [model.get_parameter(name) for name in blocks_on_disk(model).part_with]


def all_on_disk(model: Any) -> bool:
    return all(isinstance(weight, OnDisk) for weight in layer_weights(model))


def assert_same(given: Any, expected: Any) -> None:
    for mine, theirs in zip(given.outcomes, expected.outcomes, strict=True):
        for a, b in zip(mine, theirs, strict=True):
            if isinstance(a, Generated):
                assert a == b
            else:
                assert a.token_logprobs == pytest.approx(b.token_logprobs, abs=NATS)


@pytest.mark.parametrize("case", FAMILIES)
def test_outcomes_are_those_of_the_model_in_memory(case: str, tmp_path: Path) -> None:
    folder = folder_of(case, tmp_path)
    whole, model = in_memory(folder), from_disk(folder)
    assert isinstance(model, DecoderModel)
    assert model_facts(model) == model_facts(whole)
    expected = dict(whole.named_buffers())
    assert all(torch.equal(one, expected[name]) for name, one in model.named_buffers())
    for changes, asked, budget in (
        (CHANGES, ASKED, 10_000_000),
        (CHANGES, ASKED[1:3], 50_000),
        (PATCHES, SOURCED, 10_000_000),
    ):
        run = functools.partial(sweep, interventions=changes, requests=asked, memory_budget=budget)
        assert_same(run(model), run(whole))
    if case == "gemma 2":  # the reference runs the model itself, whatever the family
        slow = sweep(model, CHANGES, ASKED, method="reference")
        assert_same(slow, sweep(whole, CHANGES, ASKED))
    assert len(layer_weights(model)) > model.cfg.n_layers
    assert all_on_disk(model)


def test_hooks_means_residuals_and_gradients(folder: Path) -> None:
    whole, model = in_memory(folder), from_disk(folder)
    halve = [("blocks.1.hook_resid_pre", lambda resid, hook: resid / 2)]
    given, expected = (one.run_with_hooks(TOKENS, fwd_hooks=halve) for one in (model, whole))
    torch.testing.assert_close(given, expected)
    given, expected = (mean_activations(one, CONTEXTS, ["attn_out"]) for one in (model, whole))
    assert all(torch.allclose(given[key], expected[key], atol=1e-5) for key in expected)
    torch.testing.assert_close(last_residuals(model, CONTEXTS), last_residuals(whole, CONTEXTS))
    resid = torch.randn(1, 5, 32, requires_grad=True)
    model.blocks[3](resid, torch.arange(5)).sum().backward()
    assert resid.grad is not None
    assert resid.grad.abs().sum() > 0
    assert all_on_disk(model)


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="reads Linux's /proc")
@pytest.mark.parametrize(
    ("case", "method"), [("gemma 2", "engine"), ("llama", "reference"), ("deepseek 3", "engine")]
)
def test_no_more_than_two_layers_are_in_memory(
    case: str, method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = from_disk(folder_of(case, tmp_path))
    stored = blocks_on_disk(model)
    assert stored is not None
    files, n_held, n_mapped, fill = stored.files.folder, [], [], BlocksOnDisk._fill

    def watched(blocks: BlocksOnDisk, layer: int) -> None:
        fill(blocks, layer)
        n_held.append(sum(holders > 0 for holders in blocks.holders) + 1)
        assert f"blocks.{layer}.safetensors" in mapped(files)
        n_mapped.append(len(mapped(files)))

    monkeypatch.setattr(BlocksOnDisk, "_fill", watched)
    sweep(model, CHANGES, ASKED[1:3], method=method)
    assert len(n_held) >= model.cfg.n_layers
    assert max(n_held) <= 2
    assert max(n_mapped) <= 2
    assert all_on_disk(model)
    assert mapped(files) == set()


def test_a_later_load_does_not_read_the_original(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from layerwise.models.conversion import backends

    expected = model_facts(from_disk(folder))

    def fail(*_: Any, **__: Any) -> None:
        raise AssertionError("loaded again")

    monkeypatch.setattr(backends, "load_original", fail)
    assert model_facts(from_disk(folder)) == expected


def test_narrow_formats_keep_what_stays_wide(folder: Path) -> None:
    whole, model = (load(folder, dtype="bfloat16") for load in (in_memory, from_disk))
    assert {weight.dtype for weight in model.parameters()} == {torch.bfloat16}
    for (name, mine), (same, theirs) in zip(
        model.named_buffers(), whole.named_buffers(), strict=True
    ):
        assert (name, mine.dtype) == (same, theirs.dtype)
        assert torch.equal(mine, theirs)
    assert model_facts(model) == model_facts(whole)
    torch.testing.assert_close(model(TOKENS), whole(TOKENS))


def test_tied_embeddings_are_one_weight(tmp_path: Path) -> None:
    folder = folder_of("gemma", tmp_path, tie_word_embeddings=True)
    model = from_disk(folder)
    assert model.parts.unembed.weight is model.parts.embedding.weight
    assert not isinstance(model.W_E, OnDisk)
    stored = blocks_on_disk(model)
    assert stored is not None
    outside = [path.name for path in stored.files.folder.glob("original*")]
    assert sorted(outside) == [
        "original.model.embed_tokens.safetensors", "original.model.norm.safetensors",
    ]  # fmt: skip
    assert model_facts(model) == model_facts(in_memory(folder))


def test_models_with_the_same_weights_keep_their_own_settings(tmp_path: Path) -> None:
    """One folder of weights serves both, and rotations are each model's own."""
    folders = [folder_of(case, tmp_path) for case in ("llama, biases", "llama, yarn")]
    folders[0] = folder_of("llama 3", tmp_path)
    models = [from_disk(folder) for folder in folders]
    stored = [blocks_on_disk(model) for model in models]
    assert stored[0] is not None
    assert stored[1] is not None
    assert stored[0].files.folder == stored[1].files.folder
    for model, folder in zip(models, folders, strict=True):
        assert_same(sweep(model, CHANGES, ASKED), sweep(in_memory(folder), CHANGES, ASKED))


def test_a_buffer_that_files_hold_is_part_of_the_hash(tmp_path: Path) -> None:
    folder = folder_of("deepseek 3", tmp_path)
    model = in_memory(folder)
    digest = weights_hash(model)
    model.original.model.layers[2].mlp.gate.e_score_correction_bias += 1.0
    assert weights_hash(model) != digest
    changed = shutil.copytree(folder, tmp_path / "changed")
    model.original.save_pretrained(changed)
    for place in (folder, changed):
        assert_same(
            sweep(from_disk(place), CHANGES, ASKED), sweep(in_memory(place), CHANGES, ASKED)
        )


@pytest.mark.parametrize(
    "do",
    [
        lambda model: model.blocks[0].attn.W_O,
        lambda model: model.original.model.layers[0].mlp.up_proj.weight.data,
        lambda model: model.state_dict(),
        lambda model: model.to("cpu"),
        lambda model: model.original.model.layers[0].input_layernorm(torch.zeros(1, 1, 32)),
        lambda model: model.original(TOKENS),
    ],
)
def test_what_needs_weights_that_are_on_disk_is_refused(folder: Path, do: Any) -> None:
    model = from_disk(folder)
    with refused("blocks are on disk", "without offload"):
        do(model)
    with torch.inference_mode():
        assert torch.isfinite(model(TOKENS)).all()


def test_a_weight_of_the_users_own_is_refused(folder: Path) -> None:
    model = from_disk(folder)
    model.original.model.layers[1].mlp.up_proj.weight = torch.nn.Parameter(torch.zeros(48, 32))
    with refused("layers.1.mlp.up_proj.weight", "was replaced", "without offload"):
        sweep(model, CHANGES, ASKED)


def test_files_that_are_damaged_meanwhile_are_told(folder: Path) -> None:
    model = from_disk(folder)
    expected = sweep(model, CHANGES, ASKED).outcomes
    stored = blocks_on_disk(model)
    assert stored is not None
    path = stored.files.folder / "blocks.1.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[:-10])
    for method in ("engine", "reference"):
        with refused("cannot be read", "delete that folder"):
            sweep(model, CHANGES, ASKED, method=method)
    path.write_bytes(whole)
    assert sweep(model, CHANGES, ASKED).outcomes == expected


def test_layers_that_share_weights_are_refused() -> None:
    for of, own in (("self_attn", "q_proj"), ("mlp", "up_proj")):
        original = tiny_original("llama")
        first, second = (getattr(layer, of) for layer in original.model.layers[:2])
        getattr(second, own).weight = getattr(first, own).weight
        with refused("cannot be off-loaded", "in another place", "leave offload out"):
            part_by_name(hooked_decoder(original, None, "tied"))
    original = tiny_original("llama")
    original.model.layers[1].mlp = original.model.layers[0].mlp
    with refused("cannot be off-loaded", "in another place"):
        part_by_name(hooked_decoder(original, None, "shared"))


def test_numbers_that_are_no_weights_are_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = tiny_original("llama")
    original.model.layers[1].mlp.offset = torch.ones(32)
    with refused("keeps numbers outside of its weights", "layers.1.mlp", "leave offload out"):
        part_by_name(hooked_decoder(original, None, "offset"))
    from layerwise.models import load

    def not_by_layer(model: Any) -> None:
        raise UserError("not by layer: expected layers; leave offload out.")

    def fail(*_: Any, **__: Any) -> None:
        raise AssertionError("weights were read")

    monkeypatch.setattr(load, "part_by_name", not_by_layer)
    monkeypatch.setattr(load, "_on_disk", fail)
    with refused("not by layer"):
        from_disk(folder)


ANALYSES = {
    "attribution": lambda model: lw.attribution(model, word_task(3), "continuation").attribution,
    "paths": lambda model: (
        lw.patch_paths(model, pairs(model), receivers=("logits", "v:2.0")).path_patching
    ),
    "heads": lambda model: lw.head_scores(model, sequences=2, length=8).heads,
    "patching": lambda model: lw.patch_activations(model, pairs(model)).patching,
}


@pytest.mark.parametrize("name", ANALYSES)
def test_analyses_give_the_tables_of_the_model_in_memory(name: str, tmp_path: Path) -> None:
    folder = tiny_folder(tmp_path, "llama", seed=1)
    tables = [ANALYSES[name](model) for model in (in_memory(folder), from_disk(folder))]
    numbers = [table.select_dtypes("number") for table in tables]
    assert len(numbers[0])
    assert (numbers[0] - numbers[1]).abs().max().max() < 5e-4
