"""Adapter folders: merged into their base and equal to the un-merged model, or refused."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import load_file, save_file

from layerwise.ground import limited
from layerwise.models import load_model, model_facts, original_tokenizer
from layerwise.models.decoder.model import DecoderModel
from layerwise.models.meta_model import load_meta_model
from layerwise.models.names import sources
from tests.cases import in_long_runs
from tests.forking import exit_code, fork_work
from tests.models.decoder.test_loading import tiny_family_folder
from tests.models.refusal import expect_refusal
from tests.models.seq2seq import tiny as seq2seq
from tests.models.test_names import put_into_hub_cache
from tests.models.tiny import FAMILIES, TEXT, tiny_folder, tiny_tokenizer

peft = pytest.importorskip("peft")
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")
WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"
LLAMA = {"target_modules": ["q_proj", "v_proj", "down_proj"]}
TIED = {"tie_word_embeddings": True}


def base_model(folder: Path) -> Any:
    encoder_decoder = json.loads((folder / "config.json").read_text()).get("is_encoder_decoder")
    kind = AutoModelForSeq2SeqLM if encoder_decoder else AutoModelForCausalLM
    return kind.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()


def write_adapter(
    base: Path, out: Path, config: Any, *, named: str | None = None, n_tokens: int | None = None
) -> Any:
    """Draw an adapter of a base, write it to a folder, and give the un-merged model."""
    model = base_model(base)
    if n_tokens is not None:
        model.resize_token_embeddings(n_tokens, mean_resizing=False)
    beside = peft.get_peft_model(model, config).eval()
    generator = torch.Generator().manual_seed(3)
    for name, weight in beside.named_parameters():
        if weight.requires_grad:
            noise = torch.randn(weight.shape, generator=generator)
            # what multiplies begins at one
            weight.data = weight.data + 0.1 * noise if "ia3" in name else 0.1 * noise
    beside.save_pretrained(out)
    edit(out, base_model_name_or_path=named or str(base))
    return beside


def edit(folder: Path, **fields: Any) -> None:
    path = folder / CONFIG
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


@torch.inference_mode()
def logprobs_of_original(beside: Any, tokens: torch.Tensor) -> torch.Tensor:
    given = {"decoder_input_ids": tokens[:, :5]} if beside.config.is_encoder_decoder else {}
    return beside(input_ids=tokens, **given).logits.log_softmax(-1)


@torch.inference_mode()
def logprobs_of_loaded(model: Any, tokens: torch.Tensor) -> torch.Tensor:
    encoder_decoder = hasattr(model, "encoder")
    given = (tokens, tokens[:, :5]) if encoder_decoder else (tokens,)
    return model(*given).log_softmax(-1)


def text_tokens(model: Any) -> torch.Tensor:
    return torch.tensor([original_tokenizer(model)(TEXT).input_ids[:40]])


def lora(**fields: Any) -> Any:
    return peft.LoraConfig(**{"r": 4, "lora_alpha": 16, "task_type": "CAUSAL_LM", **fields})


OF_TWO_STACKS = lora(target_modules=["q", "v", "wo"], task_type="SEQ_2_SEQ_LM")
FORMS = {
    "lora": ("llama", {}, lora(**LLAMA)),
    "dora": ("llama", {}, lora(use_dora=True, **LLAMA)),
    "patterns and biases": (
        "qwen2",
        {},
        lora(rank_pattern={"v_proj": 2}, alpha_pattern={"q_proj": 3}, bias="all", **LLAMA),
    ),
    "unembedding of tied": ("llama", TIED, lora(target_modules=["lm_head"])),
    "whole embedding of tied": ("llama", TIED, lora(modules_to_save=["embed_tokens"], **LLAMA)),
    "chosen tokens": ("llama", TIED, lora(trainable_token_indices=[3, 9], **LLAMA)),
    "conv1d": ("gpt2", {}, lora(target_modules=["c_attn", "c_fc"], fan_in_fan_out=True)),
    "ia3": (
        "llama",
        {},
        peft.IA3Config(
            task_type="CAUSAL_LM",
            target_modules=["k_proj", "down_proj"],
            feedforward_modules=["down_proj"],
        ),
    ),
    "own modules": ("gemma", {}, lora(**LLAMA)),
    "flan-t5": ("flan-t5", {}, OF_TWO_STACKS),
}
SELDOM = {
    "rslora": ("llama", {}, lora(use_rslora=True, **LLAMA)),
    "embedding of tied": ("llama", TIED, lora(target_modules=["embed_tokens", "q_proj"])),
    "whole embeddings": ("llama", {}, lora(modules_to_save=["embed_tokens", "lm_head"], **LLAMA)),
    "some layers": ("llama", {}, lora(layers_to_transform=[1], layers_pattern="layers", **LLAMA)),
    "loha": ("llama", {}, peft.LoHaConfig(r=4, task_type="CAUSAL_LM", **LLAMA)),
    "lokr": ("llama", {}, peft.LoKrConfig(r=4, task_type="CAUSAL_LM", **LLAMA)),
    "t5": ("t5", {}, OF_TWO_STACKS),
}


def family_folder(family: str, tmp_path: Path, fields: dict[str, Any]) -> Path:
    if family in seq2seq.CASES:
        return seq2seq.tiny_folder(family)
    if family in FAMILIES:
        return tiny_folder(tmp_path, family, **fields)
    return tiny_family_folder(family, tmp_path, **fields)


@pytest.mark.long(but=["chosen tokens", "dora", "conv1d"])
@pytest.mark.parametrize("form", [*FORMS, *in_long_runs(*((form,) for form in SELDOM))])
def test_a_loaded_adapter_is_the_unmerged_model(tmp_path, form):
    family, config, adapter = (FORMS | SELDOM)[form]
    base = family_folder(family, tmp_path, config)
    beside = write_adapter(base, tmp_path / "adapter", adapter)
    model = load_model(tmp_path / "adapter")
    tokens = text_tokens(model)
    unmerged, loaded = logprobs_of_original(beside, tokens), logprobs_of_loaded(model, tokens)
    assert (unmerged - logprobs_of_original(base_model(base), tokens)).abs().max() > 0.01
    assert (loaded - unmerged).abs().max() < 1e-4
    assert model_facts(model).adapter.endswith(f"merged into {base}")
    assert isinstance(model, DecoderModel) or form != "own modules"


def test_an_adapter_of_an_encoder_decoder_is_made_for_that_task(tmp_path):
    write_adapter(seq2seq.tiny_folder("t5"), tmp_path / "adapter", OF_TWO_STACKS)
    edit(tmp_path / "adapter", task_type="CAUSAL_LM")
    with expect_refusal("made for another task", "SEQ_2_SEQ_LM"):
        load_model(tmp_path / "adapter")


@pytest.fixture(scope="module")
def base_and_adapter(tmp_path_factory) -> Path:
    """A base and an adapter, drawn once."""
    root = tmp_path_factory.mktemp("adapters")
    base = tiny_folder(root, "llama").rename(root / "base")
    write_adapter(base, root / "adapter", lora(**LLAMA))
    return root


@pytest.fixture
def base(tmp_path, base_and_adapter) -> Path:
    return shutil.copytree(base_and_adapter / "base", tmp_path / "base")


@pytest.fixture
def folder(tmp_path, base, base_and_adapter) -> Path:
    adapter = shutil.copytree(base_and_adapter / "adapter", tmp_path / "adapter")
    edit(adapter, base_model_name_or_path=str(base))
    return adapter


@pytest.mark.long(but=["True-fields0"])
@pytest.mark.parametrize(
    ("tied", "fields"),
    [(True, {}), (False, {}), (False, {"modules_to_save": ["embed_tokens", "lm_head"]})],
)
def test_a_vocabulary_that_was_resized_comes_with_the_adapter(tmp_path, tied, fields):
    base, folder = tiny_folder(tmp_path, "llama", tie_word_embeddings=tied), tmp_path / "adapter"
    beside = write_adapter(base, folder, lora(**LLAMA, **fields), n_tokens=311)
    model = load_model(folder)
    tokens = torch.cat([text_tokens(model), torch.tensor([[310, 305]])], 1)
    assert model.cfg.d_vocab == 311
    assert (
        logprobs_of_loaded(model, tokens) - logprobs_of_original(beside, tokens)
    ).abs().max() < 1e-4
    weights = load_file(folder / WEIGHTS)
    whole = {name: weight for name, weight in weights.items() if "embed_tokens" not in name}
    save_file(whole, folder / WEIGHTS)
    if tied:  # the other end has the same weights
        tokens_said = logprobs_of_loaded(load_model(folder), tokens)
        assert (tokens_said - logprobs_of_original(beside, tokens)).abs().max() < 1e-4
    else:
        with expect_refusal("does not fit"):
            load_model(folder)


def test_the_tokenizer_is_the_adapters_if_it_fits(folder):
    plain = original_tokenizer(load_model(folder))("a b").input_ids
    tiny_tokenizer(bos=True).save_pretrained(folder)
    assert original_tokenizer(load_model(folder))("a b").input_ids == [0, *plain]
    larger = tiny_tokenizer(bos=True)
    larger.add_tokens(["<more>"] * 1 + [f"<{index}>" for index in range(20)])
    larger.save_pretrained(folder)
    assert original_tokenizer(load_model(folder))("a b").input_ids == plain


def test_facts_cover_adapter_and_base(folder, base):
    def facts():
        known = model_facts(load_model(folder))
        return known.source_hash, known.conversion_hash, known.hash

    first = facts()
    assert first == facts()
    known = model_facts(load_model(folder))
    assert load_meta_model(folder).cfg.d_vocab == 304
    assert known.adapter == f"LORA of rank 4, merged into {base}"
    assert known.source == "folder"
    assert known.name == str(folder)
    edit_tensors(base / "model.safetensors", "model.norm.weight")
    second = facts()
    edit_tensors(folder / WEIGHTS, "base_model.model.model.layers.1.self_attn.q_proj.lora_B.weight")
    assert all(len(set(three)) == 3 for three in zip(first, second, facts(), strict=True))


def edit_tensors(path: Path, name: str) -> None:
    weights = load_file(path)
    weights[name] = weights[name] * 1.01
    save_file(weights, path, metadata={"format": "pt"})


def test_a_damaged_merge_is_told(folder, cache):
    load_model(folder)
    (written,) = (cache / "adapters").glob("*/model.safetensors")
    edit_tensors(written, "model.norm.weight")
    with expect_refusal("is damaged", "made again"):
        load_model(folder)


def test_a_merged_model_needs_no_peft_and_an_unmerged_one_says_so(folder, monkeypatch):
    first = model_facts(load_model(folder)).hash
    monkeypatch.setitem(sys.modules, "peft", None)
    assert model_facts(load_model(folder)).hash == first
    edit(folder, lora_alpha=8)
    with expect_refusal("by the package peft", "layerwise[distill]"):
        load_model(folder)


def test_the_base_is_found_from_the_folder_on_or_on_the_hub_if_it_was_asked(
    folder, base, monkeypatch, tmp_path
):
    expected = model_facts(load_model(folder)).hash
    edit(folder, base_model_name_or_path=f"../{base.name}")
    assert model_facts(load_model(folder)).hash == expected

    fetched = {"owner/base": base, "owner/adapter": folder}
    with monkeypatch.context() as patched:
        patched.setattr(sources, "_fetch", lambda hub_id, _: fetched[hub_id])
        edit(folder, base_model_name_or_path="owner/base")
        known = model_facts(load_model("owner/adapter"))
        assert (known.hash, known.source) == (expected, "hub")
        assert known.adapter.endswith("merged into owner/base")
        edit(folder, base_model_name_or_path="owner/adapter")
        with expect_refusal("is an adapter itself"):
            load_model("owner/adapter")
        edit(folder, base_model_name_or_path="owner/base", revision="v2")
        with expect_refusal("certain revision of its base"):
            load_model("owner/adapter")

    def fetch(*_):
        raise AssertionError("the hub was asked")

    edit(folder, base_model_name_or_path="owner/tiny", revision=None)
    monkeypatch.setattr(sources, "_fetch", fetch)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    with expect_refusal("'owner/tiny' is not on this machine", "`layerwise models owner/tiny`"):
        load_model(folder)
    put_into_hub_cache(tmp_path / "hub", base)
    assert model_facts(load_model(folder)).hash == expected


def test_weights_in_the_hubs_cache_must_be_what_they_are_named_by(folder, tmp_path):
    blob = tmp_path / "blobs" / ("0" * 64)
    blob.parent.mkdir()
    (folder / WEIGHTS).rename(blob)
    (folder / WEIGHTS).symlink_to(blob)
    with expect_refusal("are damaged", blob.name):
        load_model(folder)


@pytest.mark.parametrize(
    ("fields", "parts"),
    [
        ({"peft_type": "PREFIX_TUNING"}, ["'PREFIX_TUNING'", "no change of weights"]),
        ({"peft_type": "BONE"}, ["'BONE'", "is not known", "LORA"]),
        ({"peft_type": ["LORA"]}, ["is not known"]),
        ({"init_lora_weights": "pissa_niter_4"}, ["on a changed base", "pissa"]),
        ({"megatron_config": {"a": 1}, "megatron_core": "antigravity"}, ["sets megatron_config"]),
        ({"task_type": "SEQ_CLS"}, ["made for another task", "'SEQ_CLS'", "CAUSAL_LM"]),
        ({"base_model_name_or_path": None}, ["does not say which model it adapts"]),
        ({"base_model_name_or_path": "/no/where"}, ["cannot be had", "no file or folder"]),
        ({"base_model_name_or_path": "wired-decoder"}, ["cannot be had", "wired-decoder"]),
        ({"base_model_name_or_path": "a\0b"}, ["cannot be had"]),
        ({"base_model_name_or_path": "."}, ["is an adapter itself"]),
        ({"field_of_tomorrow": 1}, ["'field_of_tomorrow'", "update peft"]),
        ({"r": "many"}, ["does not fit"]),
        ({"r": 10**9}, ["does not fit (it has the rank 1000000000, and no tensor of that size)"]),
        ({"rank_pattern": {"q_proj": 10**9}}, ["it has the rank 1000000000"]),
        ({"target_modules": ["q_proj"]}, ["does not fit", "against its configuration"]),
        ({"target_modules": ["q_proj", "v_proj", "down_proj", "k_proj"]}, ["it lacks 6 tensors"]),
    ],
)
def test_adapters_that_cannot_be_merged_are_refused(folder, fields, parts):
    edit(folder, **fields)
    with expect_refusal(*parts):
        load_model(folder)
    with expect_refusal(*parts):
        load_meta_model(folder)


SLOW = r"(\w+\.?)+!"


@pytest.mark.parametrize(
    "fields",
    [
        {"target_modules": SLOW},
        {"rank_pattern": {SLOW: 8}},
    ],
    ids=lambda fields: next(iter(fields)),
)
def test_a_pattern_that_hangs_is_refused(folder, fields, monkeypatch):
    """In a fork, so that a test without the limits fails and ends."""
    monkeypatch.setattr(limited, "SECONDS", 0.3)
    edit(folder, **fields)

    def work() -> int:
        with expect_refusal(
            "The patterns in", CONFIG, "seconds of the processor", "list the names"
        ):
            load_model(folder)
        return 0

    assert exit_code(fork_work(work), 40) == 0


def test_weights_that_are_no_safetensors_are_refused(folder, base):
    (folder / WEIGHTS).rename(folder / "adapter_model.bin")
    with expect_refusal("only pickled weights", "can run code"):
        load_model(folder)
    (folder / "adapter_model.bin").unlink()
    with expect_refusal("has no weights", WEIGHTS):
        load_model(folder)
    (folder / WEIGHTS).write_bytes(b"no such file")
    with expect_refusal("does not fit"):
        load_model(folder)
    shutil.copy(base / "model.safetensors", folder)
    with expect_refusal("holds both a whole model and an adapter"):
        load_model(folder)


def test_a_merge_that_is_not_what_is_beside_the_weights_is_refused(folder, monkeypatch):
    spoilt = peft.tuners.lora.Linear.get_delta_weight
    monkeypatch.setattr(
        peft.tuners.lora.Linear, "get_delta_weight", lambda *given: 1.1 * spoilt(*given)
    )
    with expect_refusal("is not what it is beside it", "nats"):
        load_model(folder)
