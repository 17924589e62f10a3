"""Off-loaded models: the same outcomes, one or two layers in memory, and files that are whole.

Both those that TransformerLens converts and those that run over their own modules.
"""

from __future__ import annotations

import functools
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import layerwise as lw
from layerwise.errors import UserError
from layerwise.models import load_model, model_facts, weights_hash
from layerwise.models.conversion import backends
from layerwise.models.conversion.offloading import part_by_name
from layerwise.models.decoder.load import hooked_decoder
from layerwise.models.huggingface.originals import refuse_nonfinite
from layerwise.models.weights import offload, weight_files
from layerwise.models.weights.offload import BlocksOnDisk, OnDisk, blocks_on_disk
from layerwise.sweep import Generated, last_residuals, mean_activations, sweep
from tests import commands
from tests.analysis import word_task, write_jsonl
from tests.cases import in_long_runs
from tests.models.decoder.test_loading import tiny_family_folder
from tests.models.decoder.tiny import CASES, tiny_original
from tests.models.off_disk import (
    ASKED,
    CHANGES,
    CONTEXTS,
    PATCHES,
    SOURCED,
    TOKENS,
    mapped_block_files,
)
from tests.models.refusal import expect_refusal
from tests.models.tiny import tiny_folder
from tests.test_over_original import pairs

HOOKED, OWN = "transformer-lens", "hugging-face"
hooked = pytest.mark.hooked_transformer
both = pytest.mark.parametrize("backend", [pytest.param(HOOKED, marks=hooked), OWN])
# How far outcomes may be apart, in nats.
NATS = {HOOKED: 0.0, OWN: 1e-4}
# By day those that differ most. Converted: two kinds of attention. Over their own modules:
# rotations of two kinds, a layer's numbers that are no parameter, matrices transposed.
OFTEN = ("gpt_neo", "gemma 3", "deepseek 3", "gpt-2, by layer")
FAMILIES = [
    *((HOOKED, family) for family in ("gpt_neo", "llama", "mixtral", "gpt2", "qwen3")),
    *((OWN, case) for case in CASES),
]
MODELS = [
    pytest.param(backend, case, marks=[
        *([hooked] if backend == HOOKED else []), *([] if case in OFTEN else [pytest.mark.long])])
    for backend, case in FAMILIES
]  # fmt: skip


def write_model_folder(backend: str, tmp_path: Path, case: str = "", **fields: Any) -> Path:
    """A folder with a tiny model for a backend."""
    if backend == HOOKED:
        return tiny_folder(tmp_path, case or "llama", **fields)
    return tiny_family_folder(case or "gemma 2", tmp_path, **fields)


def from_disk(folder: Path, backend: str = OWN, **options: Any) -> Any:
    return load_model(folder, backend=backend, offload="disk", **options)


def in_memory(folder: Path, backend: str = OWN, **options: Any) -> Any:
    return load_model(folder, backend=backend, **options)


def stored_blocks(model: Any) -> BlocksOnDisk:
    stored = blocks_on_disk(model)
    assert stored is not None
    return stored


def layer_weights(model: Any) -> list[torch.nn.Parameter]:
    return [model.get_parameter(name) for name in stored_blocks(model).part_with]


def all_on_disk(model: Any) -> bool:
    return all(isinstance(weight, OnDisk) for weight in layer_weights(model))


def assert_same(given: Any, expected: Any, nats: float = NATS[OWN]) -> None:
    if not nats:
        assert given.outcomes == expected.outcomes
        return
    for mine, theirs in zip(given.outcomes, expected.outcomes, strict=True):
        for a, b in zip(mine, theirs, strict=True):
            if isinstance(a, Generated):
                assert a == b
            else:
                assert a.token_logprobs == pytest.approx(b.token_logprobs, abs=nats)


@pytest.fixture
def folder(tmp_path) -> Path:
    return tiny_folder(tmp_path, "llama")


@pytest.fixture
def model(folder):
    return from_disk(folder, HOOKED)


@pytest.mark.long(but=["hugging-face-gpt-2, by layer"])
@pytest.mark.parametrize(("backend", "case"), MODELS)
def test_outcomes_are_those_of_the_model_in_memory(backend, case, tmp_path):
    folder = write_model_folder(backend, tmp_path, case)
    whole, model = in_memory(folder, backend), from_disk(folder, backend)
    assert model_facts(model) == model_facts(whole)
    expected = dict(whole.named_buffers())
    assert all(torch.equal(one, expected[name]) for name, one in model.named_buffers())
    for changes, asked, budget in (
        (CHANGES, ASKED, 10_000_000),
        (CHANGES, ASKED[1:3], 50_000),
        (PATCHES, SOURCED, 10_000_000),
    ):
        run = functools.partial(sweep, interventions=changes, requests=asked, memory_budget=budget)
        assert_same(run(model), run(whole), NATS[backend])
    assert len(layer_weights(model)) > model.cfg.n_layers
    assert all_on_disk(model)


@pytest.mark.long
@both
def test_brute_force_hooks_means_and_residuals(backend, tmp_path):
    folder = write_model_folder(backend, tmp_path)
    whole, model = in_memory(folder, backend), from_disk(folder, backend)
    slow = [sweep(one, CHANGES, ASKED, method="reference") for one in (model, whole)]
    assert_same(*slow, NATS[backend])
    close = functools.partial(torch.testing.assert_close, atol=NATS[backend] / 10, rtol=1e-5)
    halve = [("blocks.1.hook_resid_pre", lambda resid, hook: resid / 2)]
    close(*(one.run_with_hooks(TOKENS, fwd_hooks=halve) for one in (model, whole)))
    close(*(one.run_with_cache(TOKENS)[1]["blocks.2.attn.hook_z"] for one in (model, whole)))
    given, expected = (mean_activations(one, CONTEXTS, ["attn_out"]) for one in (model, whole))
    for key, value in expected.items():
        close(given[key], value)
    close(last_residuals(model, CONTEXTS), last_residuals(whole, CONTEXTS))
    resid = torch.randn(1, 5, model.cfg.d_model, requires_grad=True)
    positions = () if backend == HOOKED else (torch.arange(5),)
    model.blocks[2](resid, *positions).sum().backward()
    assert resid.grad is not None
    assert resid.grad.abs().sum() > 0
    assert all_on_disk(model)


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="reads Linux's /proc")
@pytest.mark.parametrize(
    ("backend", "case", "method"),
    [
        pytest.param(HOOKED, "gpt_neo", "engine", marks=hooked),
        (OWN, "deepseek 3", "engine"),
        pytest.param(HOOKED, "llama", "reference", marks=[hooked, pytest.mark.long]),
        pytest.param(OWN, "llama", "reference", marks=pytest.mark.long),
    ],
)
def test_no_more_than_two_layers_are_in_memory(backend, case, method, tmp_path, monkeypatch):
    model = from_disk(write_model_folder(backend, tmp_path, case), backend)
    files, n_held, n_mapped, fill = stored_blocks(model).files.folder, [], [], BlocksOnDisk._fill

    def watched(blocks: BlocksOnDisk, layer: int) -> None:
        fill(blocks, layer)
        n_held.append(sum(holders > 0 for holders in blocks.holders) + 1)
        assert f"blocks.{layer}.safetensors" in mapped_block_files(files)
        n_mapped.append(len(mapped_block_files(files)))

    monkeypatch.setattr(BlocksOnDisk, "_fill", watched)
    sweep(model, CHANGES, ASKED[1:3], method=method)
    assert len(n_held) >= model.cfg.n_layers
    assert max(n_held) <= 2
    assert max(n_mapped) <= 2
    assert all_on_disk(model)
    assert mapped_block_files(files) == set()


@pytest.mark.long
@both
def test_a_later_load_needs_neither_the_original_nor_this_machine(
    backend, cache, tmp_path, monkeypatch
):
    folder = write_model_folder(backend, tmp_path)
    expected = model_facts(from_disk(folder, backend))
    cache.rename(tmp_path / "cache-elsewhere")
    monkeypatch.setenv("LAYERWISE_CACHE", str(tmp_path / "cache-elsewhere"))
    moved = folder.rename(tmp_path / "elsewhere")

    def fail(*_: Any, **__: Any) -> None:
        raise AssertionError("loaded again")

    monkeypatch.setattr(backends, "load_original", fail)
    monkeypatch.setattr(backends, "hooked_model", fail)
    assert model_facts(from_disk(moved, backend)) == replace(expected, name=str(moved))


@both
def test_narrow_formats_keep_what_stays_wide(backend, tmp_path):
    folder = write_model_folder(backend, tmp_path)
    whole, model = (load(folder, backend, dtype="bfloat16") for load in (in_memory, from_disk))
    assert {weight.dtype for weight in model.parameters()} == {torch.bfloat16}
    kept = dict(whole.named_buffers())
    for name, mine in model.named_buffers():
        assert mine.dtype == kept[name].dtype
        assert torch.equal(mine, kept[name])
    assert model_facts(model) == model_facts(whole)
    torch.testing.assert_close(model(TOKENS), whole(TOKENS))


@hooked
def test_tied_embeddings_are_stored_once_and_can_be_changed_apart(tmp_path):
    model = from_disk(tiny_folder(tmp_path, "llama", tie_word_embeddings=True), HOOKED)
    files = stored_blocks(model).files.folder
    embedding = (files / "embed.safetensors").stat().st_size
    assert (files / "unembed.safetensors").stat().st_size < embedding / 2
    before = model.unembed.W_U.data.clone()
    digest = weights_hash(model)
    model.embed.W_E.data.zero_()
    assert torch.equal(model.unembed.W_U, before)
    assert weights_hash(model) != digest
    for name in ("rotary_sin", "rotary_cos"):  # tables are kept once
        assert len({getattr(block.attn, name).data_ptr() for block in model.blocks}) == 1


def test_tied_embeddings_over_own_modules_are_one_weight(tmp_path):
    folder = tiny_family_folder("gemma", tmp_path, tie_word_embeddings=True)
    model = from_disk(folder)
    assert model.parts.unembed.weight is model.parts.embedding.weight
    assert not isinstance(model.W_E, OnDisk)
    outside = [path.name for path in stored_blocks(model).files.folder.glob("original*")]
    assert sorted(outside) == [
        "original.model.embed_tokens.safetensors", "original.model.norm.safetensors",
    ]  # fmt: skip
    assert model_facts(model) == model_facts(in_memory(folder))


@pytest.mark.long
def test_models_with_the_same_weights_keep_their_own_settings(tmp_path):
    """One folder of weights serves both, and rotations are each model's own."""
    folders = [tiny_family_folder(case, tmp_path) for case in ("llama 3", "llama, yarn")]
    models = [from_disk(folder) for folder in folders]
    assert len({stored_blocks(model).files.folder for model in models}) == 1
    for model, folder in zip(models, folders, strict=True):
        assert_same(sweep(model, CHANGES, ASKED), sweep(in_memory(folder), CHANGES, ASKED))


@pytest.mark.long
def test_a_buffer_that_files_hold_is_part_of_the_hash(tmp_path):
    folder = tiny_family_folder("deepseek 3", tmp_path)
    model = in_memory(folder)
    digest = weights_hash(model)
    model.original.model.layers[2].mlp.gate.e_score_correction_bias += 1.0
    assert weights_hash(model) != digest
    changed = shutil.copytree(folder, tmp_path / "changed")
    model.original.save_pretrained(changed)
    swept = [sweep(load(changed), CHANGES, ASKED) for load in (from_disk, in_memory)]
    assert_same(*swept)


@pytest.mark.long(
    but=[
        "transformer-lens-<lambda>0",
        "transformer-lens-<lambda>1",
        "transformer-lens-<lambda>2",
        "transformer-lens-<lambda>3",
        "hugging-face-<lambda>0",
        "hugging-face-<lambda>1",
    ]
)
@pytest.mark.parametrize(
    ("backend", "do"),
    [
        *(pytest.param(HOOKED, do, marks=hooked) for do in (
            lambda model: model.blocks[0].mlp.W_in.detach().mul_(2),
            lambda model: setattr(model.blocks[1].attn.W_O, "data", torch.zeros(4, 12, 48)),
            lambda model: model.state_dict(),
            lambda model: model.to("cpu", print_details=False),
        )),
        *((OWN, do) for do in (
            lambda model: model.blocks[0].attn.W_O,
            lambda model: model.to("cpu"),
            lambda model: model.original.model.layers[0].input_layernorm(torch.zeros(1, 1, 32)),
            lambda model: model.original(TOKENS),
        )),
    ],
)  # fmt: skip
def test_what_needs_weights_that_are_on_disk_is_refused(backend, do, tmp_path):
    model = from_disk(write_model_folder(backend, tmp_path), backend)
    with expect_refusal("blocks are on disk", "without offload"):
        do(model)
    with torch.inference_mode():
        assert torch.isfinite(model(TOKENS)).all()


@both
def test_a_weight_of_the_users_own_is_refused_and_not_forgotten(backend, tmp_path):
    model = from_disk(write_model_folder(backend, tmp_path), backend)
    digest = weights_hash(model)
    if backend == HOOKED:
        name, holder = "blocks.1.attn.W_O", model.blocks[1].attn
        holder.W_O = torch.nn.Parameter(torch.zeros(4, 12, 48))
    else:
        name, holder = "layers.1.mlp.up_proj.weight", model.original.model.layers[1].mlp.up_proj
        holder.weight = torch.nn.Parameter(torch.zeros(48, 32))
    for do in (lambda: sweep(model, CHANGES, ASKED), lambda: model(TOKENS)):
        with expect_refusal(name, "was replaced", "without offload"):
            do()
    if backend == HOOKED:
        assert weights_hash(model) != digest


@hooked
def test_numbers_that_are_none_are_found_on_disk(model, monkeypatch):
    refuse_nonfinite("tiny", model)
    read = weight_files.WeightFiles.read

    def with_nan(self, part, device):
        found = read(self, part, device)
        return found | {name: w * torch.nan for name, w in found.items() if "2.mlp.W_in" in name}

    monkeypatch.setattr(weight_files.WeightFiles, "read", with_nan)
    with expect_refusal("blocks.2.mlp.W_in", "NaN"):
        refuse_nonfinite("tiny", model)


@pytest.mark.long
@hooked
@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(28, "No space left on device")])
def test_writing_that_stops_leaves_nothing(folder, cache, monkeypatch, error):
    write, done = weight_files._aligned_safetensors, []

    def stop(tensors):
        if len(done) == 2:
            assert len(list((cache / "offload").glob("partial-*/*"))) == 2
            raise error
        done.append(tensors)
        return write(tensors)

    with monkeypatch.context() as patched:
        patched.setattr(weight_files, "_aligned_safetensors", stop)
        if isinstance(error, OSError):
            with expect_refusal("cannot be written", "No space left on device", "LAYERWISE_CACHE"):
                from_disk(folder, HOOKED)
        else:
            with pytest.raises(KeyboardInterrupt):
                from_disk(folder, HOOKED)
    assert list((cache / "offload").iterdir()) == []
    assert model_facts(from_disk(folder, HOOKED)) == model_facts(load_model(folder))


@hooked
def test_what_was_not_written_as_meant_is_not_used(folder, monkeypatch):
    write = weight_files._aligned_safetensors
    halved = lambda tensors: write({name: tensor / 2 for name, tensor in tensors.items()})  # noqa: E731
    monkeypatch.setattr(weight_files, "_aligned_safetensors", halved)
    with expect_refusal("cannot be read", "not those of the model in memory"):
        from_disk(folder, HOOKED)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-10])


def foreign(path: Path) -> None:
    path.write_text(json.dumps({"n_parameters": 3}))


@hooked
@pytest.mark.parametrize(
    ("name", "harm"),
    [
        ("blocks.1.safetensors", truncate),
        ("embed.safetensors", Path.unlink),
        ("index.json", foreign),
    ],
)
def test_damaged_files_are_told_at_the_next_load(folder, model, name, harm):
    stored = stored_blocks(model).files.folder
    harm(stored / name)
    with expect_refusal("cannot be read", str(stored), "delete that folder"):
        from_disk(folder, HOOKED)


@pytest.mark.parametrize(
    ("backend", "harm"), [pytest.param(HOOKED, truncate, marks=hooked), (OWN, Path.unlink)]
)
def test_files_that_are_damaged_meanwhile_are_told(backend, harm, tmp_path):
    model = from_disk(write_model_folder(backend, tmp_path), backend)
    expected = sweep(model, CHANGES, ASKED).outcomes
    path = stored_blocks(model).files.folder / "blocks.1.safetensors"
    whole = path.read_bytes()
    harm(path)
    for method in ("engine", "reference"):
        with expect_refusal("cannot be read", "delete that folder"):
            sweep(model, CHANGES, ASKED, method=method)
    path.write_bytes(whole)
    assert sweep(model, CHANGES, ASKED).outcomes == expected


@hooked
def test_what_is_interrupted_leaves_the_weights_on_disk(model, monkeypatch):
    def stop_run(resid, hook):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        model.run_with_hooks(TOKENS, fwd_hooks=[("blocks.1.hook_resid_mid", stop_run)])
    assert all_on_disk(model)
    expected, put = sweep(model, CHANGES, ASKED).outcomes, offload.put_parameters

    def stop_reading(model, weights):
        put(model, dict(list(weights.items())[: len(weights) // 2]))
        monkeypatch.setattr(offload, "put_parameters", put)
        raise KeyboardInterrupt

    monkeypatch.setattr(offload, "put_parameters", stop_reading)
    with pytest.raises(KeyboardInterrupt):
        sweep(model, CHANGES, ASKED)
    assert all_on_disk(model)
    monkeypatch.delattr(weight_files.os, "posix_fadvise", raising=False)  # not on every system
    assert sweep(model, CHANGES, ASKED).outcomes == expected


@pytest.mark.long
@hooked
def test_a_run_goes_on_with_the_other_kind(tmp_path):
    write_jsonl(tmp_path / "words.jsonl", word_task(9).items)
    out = tmp_path / "run"
    asked = ["ablate", commands.model_folder(), "--task", tmp_path / "words.jsonl", "--out", out]
    commands.run_cleanly(*asked, "--protocol", "continuation", "--offload", "disk")
    records = (out / "records.parquet").read_bytes()
    commands.run_cleanly(*asked, "--protocol", "continuation")
    assert (out / "records.parquet").read_bytes() == records


def test_an_unknown_place(tmp_path):
    with expect_refusal("Unknown place to off-load to 'disc'. Did you mean 'disk'?"):
        load_model(tiny_folder(tmp_path, "llama"), offload="disc")
    commands.assert_command_refused(
        "profile", commands.model_folder(), "--offload", "gpu",
        says="Unknown place to off-load to 'gpu'.", unchanged=tmp_path,
    )  # fmt: skip


def test_layers_that_share_weights_are_refused():
    original = tiny_original("llama")
    first, second = (layer.self_attn for layer in original.model.layers[:2])
    second.q_proj.weight = first.q_proj.weight
    with expect_refusal("cannot be off-loaded", "in another place", "leave offload out"):
        part_by_name(hooked_decoder(original, None, "tied"))
    original = tiny_original("llama")
    original.model.layers[1].mlp = original.model.layers[0].mlp
    with expect_refusal("cannot be off-loaded", "in another place"):
        part_by_name(hooked_decoder(original, None, "shared"))


def test_numbers_that_are_no_weights_are_refused(tmp_path, monkeypatch):
    original = tiny_original("llama")
    original.model.layers[1].mlp.offset = torch.ones(32)
    with expect_refusal(
        "keeps numbers outside of its weights", "layers.1.mlp", "leave offload out"
    ):
        part_by_name(hooked_decoder(original, None, "offset"))
    from layerwise.models import load

    def not_by_layer(model: Any) -> None:
        raise UserError("not by layer: expected layers; leave offload out.")

    def fail(*_: Any, **__: Any) -> None:
        raise AssertionError("weights were read")

    monkeypatch.setattr(load, "part_by_name", not_by_layer)
    monkeypatch.setattr(load, "_on_disk", fail)
    with expect_refusal("not by layer"):
        from_disk(write_model_folder(OWN, tmp_path))


ANALYSES = {
    "attribution": lambda model: lw.attribution(model, word_task(3), "continuation").attribution,
    "paths": lambda model: (
        lw.patch_paths(model, pairs(model), receivers=("logits", "v:2.0")).path_patching
    ),
    "heads": lambda model: lw.head_scores(model, sequences=2, length=8).heads,
    "patching": lambda model: lw.patch_activations(model, pairs(model)).patching,
}


@pytest.mark.long
@pytest.mark.parametrize("name", ["heads", "paths", *in_long_runs(("attribution",), ("patching",))])
def test_analyses_give_the_tables_of_the_model_in_memory(name: str, tmp_path: Path) -> None:
    folder = tiny_folder(tmp_path, "llama", seed=1)
    tables = [ANALYSES[name](model) for model in (in_memory(folder), from_disk(folder))]
    numbers = [table.select_dtypes("number") for table in tables]
    assert len(numbers[0])
    assert (numbers[0] - numbers[1]).abs().max().max() < 5e-4
