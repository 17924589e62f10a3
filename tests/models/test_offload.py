"""Off-loaded models: the same outcomes, one or two blocks in memory, and files that are whole."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from layerwise.models import load_model, model_facts, weights_hash
from layerwise.models.conversion import backends
from layerwise.models.files import weight_files
from layerwise.models.huggingface.originals import refuse_nonfinite
from layerwise.models.weights import offload
from layerwise.models.weights.offload import BlocksOnDisk, OnDisk, blocks_on_disk
from layerwise.sweep import (
    last_residuals,
    mean_activations,
    sweep,
)
from tests import commands
from tests.analysis import word_task, write_jsonl
from tests.models.off_disk import ASKED, CHANGES, CONTEXTS, PATCHES, SOURCED, TOKENS, mapped
from tests.models.refusal import refused
from tests.models.tiny import tiny_folder

pytestmark = pytest.mark.hooked_transformer

# By day three that differ most: two kinds of attention, tied embeddings, experts.
MODELS = [
    ("gpt_neo", {}),
    ("llama", {"tie_word_embeddings": True}),
    ("mixtral", {}),
    *(pytest.param(family, {}, marks=pytest.mark.long) for family in ("gpt2", "qwen3")),
]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory) -> Path:
    """A folder with a model that was loaded before, and the cache of that time."""
    root = tmp_path_factory.mktemp("prepared")
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("LAYERWISE_CACHE", str(root / "cache"))
        load_model(tiny_folder(root, "llama").rename(root / "model"), offload="disk")
    return root


@pytest.fixture
def folder(prepared, cache) -> Path:
    """A model that was loaded before."""
    shutil.copytree(prepared / "cache", cache)
    return prepared / "model"


@pytest.fixture
def fresh(tmp_path) -> Path:
    """A model that was never loaded."""
    return tiny_folder(tmp_path, "llama")


@pytest.fixture
def model(folder):
    return load_model(folder, offload="disk")


@pytest.fixture
def stored(model) -> Path:
    """The folder with the weights of ``model``."""
    return files_of(model)


def files_of(model) -> Path:
    return blocks_on_disk(model).files.folder


def all_on_disk(model) -> bool:
    return all(isinstance(parameter, OnDisk) for parameter in model.blocks.parameters())


@pytest.mark.parametrize(("family", "config"), MODELS)
def test_outcomes_are_those_of_the_model_in_memory(tmp_path, family, config):
    folder = tiny_folder(tmp_path, family, **config)
    whole, model = load_model(folder), load_model(folder, offload="disk")
    assert model_facts(model) == model_facts(whole)
    for changes, asked, budget in (
        (CHANGES, ASKED, 10_000_000),
        (CHANGES, ASKED[1:3], 50_000),
        (PATCHES, SOURCED, 10_000_000),
    ):
        expected = sweep(whole, changes, asked, memory_budget=budget).outcomes
        assert sweep(model, changes, asked, memory_budget=budget).outcomes == expected
    assert all_on_disk(model)


def test_brute_force_and_hooks_of_ones_own_work_too(folder, model):
    whole = load_model(folder)
    slow = [sweep(one, CHANGES, ASKED, method="reference").outcomes for one in (model, whole)]
    assert slow[0] == slow[1]
    halve = [("blocks.1.hook_resid_pre", lambda resid, hook: resid / 2)]
    given, expected = (one.run_with_hooks(TOKENS, fwd_hooks=halve) for one in (model, whole))
    assert torch.equal(given, expected)
    assert torch.equal(
        model.run_with_cache(TOKENS)[1]["blocks.2.attn.hook_z"],
        whole.run_with_cache(TOKENS)[1]["blocks.2.attn.hook_z"],
    )
    assert all_on_disk(model)


def test_means_and_residuals(folder, model):
    whole = load_model(folder)
    given, expected = (mean_activations(one, CONTEXTS, ["attn_out"]) for one in (model, whole))
    assert all(torch.equal(given[key], expected[key]) for key in expected)
    assert torch.equal(last_residuals(model, CONTEXTS), last_residuals(whole, CONTEXTS))


def test_a_sweep_leaves_a_model_that_can_be_used(model):
    sweep(model, CHANGES, ASKED)
    model(TOKENS).sum().backward()


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="reads Linux's /proc")
@pytest.mark.parametrize(
    ("family", "method"), [("llama", "engine"), ("llama", "reference"), ("gpt_neo", "engine")]
)
def test_no_more_than_two_blocks_are_in_memory(tmp_path, monkeypatch, family, method):
    model = load_model(tiny_folder(tmp_path, family), offload="disk")
    n_held, n_mapped, fill = [], [], BlocksOnDisk._fill

    def watched(blocks, layer):
        fill(blocks, layer)
        in_memory = [not isinstance(p, OnDisk) for p in model.blocks.parameters()]
        n_held.append(sum(in_memory) / len(in_memory) * model.cfg.n_layers)
        assert f"blocks.{layer}.safetensors" in mapped(files_of(model))
        n_mapped.append(len(mapped(files_of(model))))

    monkeypatch.setattr(BlocksOnDisk, "_fill", watched)
    sweep(model, CHANGES, ASKED[1:3], method=method)
    assert max(n_held) <= 2
    assert max(n_mapped) <= 2
    assert all_on_disk(model)
    assert mapped(files_of(model)) == set()


def test_a_later_load_needs_neither_the_original_nor_this_machine(
    fresh, cache, tmp_path, monkeypatch
):
    expected = model_facts(load_model(fresh, offload="disk"))
    cache.rename(tmp_path / "cache-elsewhere")
    monkeypatch.setenv("LAYERWISE_CACHE", str(tmp_path / "cache-elsewhere"))
    moved = fresh.rename(tmp_path / "elsewhere")

    def fail(*_, **__):
        raise AssertionError("loaded again")

    monkeypatch.setattr(backends, "load_original", fail)
    monkeypatch.setattr(backends, "hooked_model", fail)
    assert model_facts(load_model(moved, offload="disk")) == replace(expected, name=str(moved))


def test_a_loaded_model_keeps_to_its_number_format(folder):
    model = load_model(folder, dtype="bfloat16", offload="disk")
    whole = load_model(folder, dtype="bfloat16")
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    assert model_facts(model) == model_facts(whole)
    assert torch.equal(model(TOKENS), whole(TOKENS))


def test_tied_embeddings_are_stored_once_and_can_be_changed_apart(tmp_path):
    model = load_model(tiny_folder(tmp_path, "llama", tie_word_embeddings=True), offload="disk")
    embedding = (files_of(model) / "embed.safetensors").stat().st_size
    assert (files_of(model) / "unembed.safetensors").stat().st_size < embedding / 2
    before = model.unembed.W_U.data.clone()
    digest = weights_hash(model)
    model.embed.W_E.data.zero_()
    assert torch.equal(model.unembed.W_U, before)
    assert weights_hash(model) != digest


def test_tables_are_kept_once(model):
    for name in ("rotary_sin", "rotary_cos"):
        assert len({getattr(block.attn, name).data_ptr() for block in model.blocks}) == 1


@pytest.mark.parametrize(
    "do",
    [
        lambda model: model.blocks[0].attn.W_Q.data,
        lambda model: model.blocks[0].mlp.W_in.detach().mul_(2),
        lambda model: setattr(model.blocks[1].attn.W_O, "data", torch.zeros(4, 12, 48)),
        lambda model: model.W_Q,
        lambda model: model.state_dict(),
        lambda model: model.to("cpu", print_details=False),
        lambda model: model.blocks[0].ln1(torch.zeros(1, 1, 48)),
    ],
)
def test_what_needs_weights_that_are_on_disk_is_refused(model, do):
    with refused("blocks are on disk", "without offload"):
        do(model)
    with torch.inference_mode():
        assert torch.isfinite(model(TOKENS)).all()


def test_a_parameter_of_the_users_own_is_refused_and_not_forgotten(model):
    digest = weights_hash(model)
    model.blocks[1].attn.W_O = torch.nn.Parameter(torch.zeros(4, 12, 48))
    assert weights_hash(model) != digest
    for do in (lambda: sweep(model, CHANGES, ASKED), lambda: model(TOKENS)):
        with refused("blocks.1.attn.W_O", "was replaced", "without offload"):
            do()


def test_numbers_that_are_none_are_found_on_disk(tmp_path, model, monkeypatch):
    refuse_nonfinite("tiny", model)
    read = weight_files.WeightFiles.read

    def with_nan(self, part, device):
        found = read(self, part, device)
        return found | {name: w * torch.nan for name, w in found.items() if "2.mlp.W_in" in name}

    monkeypatch.setattr(weight_files.WeightFiles, "read", with_nan)
    with refused("blocks.2.mlp.W_in", "NaN"):
        refuse_nonfinite("tiny", model)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(28, "No space left on device")])
def test_writing_that_stops_leaves_nothing(fresh, cache, monkeypatch, error):
    write, done = weight_files._aligned, []

    def stop(tensors):
        if len(done) == 2:
            assert len(list((cache / "offload").glob("partial-*/*"))) == 2
            raise error
        done.append(tensors)
        return write(tensors)

    with monkeypatch.context() as patched:
        patched.setattr(weight_files, "_aligned", stop)
        if isinstance(error, OSError):
            with refused("cannot be written", "No space left on device", "LAYERWISE_CACHE"):
                load_model(fresh, offload="disk")
        else:
            with pytest.raises(KeyboardInterrupt):
                load_model(fresh, offload="disk")
    assert list((cache / "offload").iterdir()) == []
    assert model_facts(load_model(fresh, offload="disk")) == model_facts(load_model(fresh))


def test_what_was_not_written_as_meant_is_not_used(fresh, monkeypatch):
    write = weight_files._aligned
    halved = lambda tensors: write({name: tensor / 2 for name, tensor in tensors.items()})  # noqa: E731
    monkeypatch.setattr(weight_files, "_aligned", halved)
    with refused("cannot be read", "not those of the model in memory"):
        load_model(fresh, offload="disk")


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-10])


@pytest.mark.parametrize("name", ["blocks.1.safetensors", "embed.safetensors", "index.json"])
@pytest.mark.parametrize("harm", [truncate, Path.unlink])
def test_damaged_files_are_told_at_the_next_load(folder, stored, name, harm):
    harm(stored / name)
    with refused("cannot be read", str(stored), "delete that folder"):
        load_model(folder, offload="disk")


def test_an_index_of_something_else(folder, stored):
    (stored / "index.json").write_text(json.dumps({"n_parameters": 3}))
    with refused("cannot be read", "delete that folder"):
        load_model(folder, offload="disk")


@pytest.mark.parametrize("harm", [truncate, Path.unlink])
def test_files_that_are_damaged_meanwhile_are_told(model, stored, harm):
    expected = sweep(model, CHANGES, ASKED).outcomes
    path = stored / "blocks.1.safetensors"
    whole = path.read_bytes()
    harm(path)
    for method in ("engine", "reference"):
        with refused("cannot be read", "delete that folder"):
            sweep(model, CHANGES, ASKED, method=method)
    path.write_bytes(whole)
    assert sweep(model, CHANGES, ASKED).outcomes == expected


def test_a_run_that_is_interrupted_lets_go_of_the_weights(model):
    def stop(resid, hook):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        model.run_with_hooks(TOKENS, fwd_hooks=[("blocks.1.hook_resid_mid", stop)])
    assert all_on_disk(model)


def test_reading_that_is_interrupted_leaves_the_weights_on_disk(model, monkeypatch):
    expected, put = sweep(model, CHANGES, ASKED).outcomes, offload.put_parameters

    def stop(model, weights):
        half = dict(list(weights.items())[: len(weights) // 2])
        put(model, half)
        monkeypatch.setattr(offload, "put_parameters", put)
        raise KeyboardInterrupt

    monkeypatch.setattr(offload, "put_parameters", stop)
    with pytest.raises(KeyboardInterrupt):
        sweep(model, CHANGES, ASKED)
    assert all_on_disk(model)
    assert sweep(model, CHANGES, ASKED).outcomes == expected


def test_a_system_that_cannot_be_asked_to_read_ahead(model, monkeypatch):
    expected = sweep(model, CHANGES, ASKED).outcomes
    monkeypatch.delattr(weight_files.os, "posix_fadvise", raising=False)
    assert sweep(model, CHANGES, ASKED).outcomes == expected


def test_an_unknown_place(folder):
    with refused("Unknown place to off-load to 'disc'. Did you mean 'disk'?"):
        load_model(folder, offload="disc")


def test_pieces_are_the_whole(monkeypatch):
    monkeypatch.setattr(offload, "_PIECE", 100)
    for weight in (torch.tensor(2.0), torch.randn(7), torch.randn(9, 5).T, torch.randn(3, 40)):
        pieces = list(offload.in_pieces(weight))
        assert torch.equal(torch.cat(pieces).reshape(weight.shape), weight)
        assert all(len(piece) == 1 or piece.nbytes <= 100 for piece in pieces)


def test_a_run_goes_on_with_the_other_kind(tmp_path):
    write_jsonl(tmp_path / "words.jsonl", word_task(9).items)
    out = tmp_path / "run"
    asked = ["ablate", commands.model_folder(), "--task", tmp_path / "words.jsonl", "--out", out]
    commands.done(*asked, "--protocol", "continuation", "--offload", "disk")
    records = (out / "records.parquet").read_bytes()
    commands.done(*asked, "--protocol", "continuation")
    assert (out / "records.parquet").read_bytes() == records


def test_a_command_with_an_unknown_place(tmp_path):
    for command in ("ablate", "lens", "patch", "profile"):
        commands.refused(
            command, commands.model_folder(), "--offload", "gpu",
            says="Unknown place to off-load to 'gpu'.", unchanged=tmp_path,
        )  # fmt: skip
