"""The facts of a model, of one without weights too; hashes, and the original tokenizer."""

from __future__ import annotations

import copy
import hashlib
import warnings

import huggingface_hub
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from layerwise.models import LoadedFacts, load_model, model_facts, original_tokenizer, weights_hash
from layerwise.models.files.cache import folder_sha256
from layerwise.models.huggingface.folder import has_weights
from layerwise.models.instance.loaded import CHANGED
from layerwise.models.instance.structure import model_version
from layerwise.models.meta_model import (
    is_meta_model,
    load_meta_model,
    meta_model_facts,
)
from layerwise.sweep import LogLikelihood, intact, skip, sweep
from tests.hooked import HookedTransformer, HookedTransformerConfig
from tests.models.refusal import expect_refusal
from tests.models.tiny import TEXT, tiny_folder, tiny_model


def own_model(seed: int = 0, **fields) -> HookedTransformer:
    config = {"n_layers": 2, "d_model": 16, "n_heads": 2, "d_head": 8, "n_ctx": 32, "d_vocab": 20}
    cfg = HookedTransformerConfig(**config, act_fn="relu", seed=seed, device="cpu", **fields)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return HookedTransformer(cfg)


@pytest.mark.hooked_transformer
def test_facts_of_a_folder(tmp_path):
    folder = tiny_folder(tmp_path, "llama", tie_word_embeddings=True)
    facts = model_facts(load_model(folder))
    original = AutoModelForCausalLM.from_pretrained(folder)
    assert facts == LoadedFacts(
        name=str(folder),
        source="folder",
        hash=facts.hash,
        n_layers=3,
        n_heads=4,
        n_key_value_heads=2,
        d_model=48,
        d_vocab=304,
        n_ctx=256,
        n_parameters=sum(p.numel() for p in original.parameters()),
        dtype="float32",
        device="cpu",
        parity=facts.parity,
        source_hash=folder_sha256(folder),
        verified="nothing tells which files are the right ones; log-probabilities compared with "
        "the original's",
    )
    assert len(facts.hash) == 64


def test_facts_of_a_users_own_model():
    model = own_model(model_name="mine")
    facts = model_facts(model)
    assert (facts.name, facts.source, facts.parity) == ("mine", "user", None)
    assert (facts.source_hash, facts.verified) == ("", "not verified: made by the user")
    assert (facts.n_heads, facts.n_key_value_heads, facts.n_layers) == (2, 2, 2)
    assert facts.n_parameters == sum(p.numel() for p in model.parameters())


@pytest.mark.hooked_transformer
def test_facts_follow_an_edit_of_the_weights():
    model = copy.deepcopy(tiny_model("llama"))
    before = model_facts(model)
    model.blocks[0].attn.W_Q.data[0, 0, 0] += 1
    after = model_facts(model)
    assert before.parity is not None
    assert after.parity is None
    assert after.verified == "not verified: weights or settings were changed after loading"
    assert after.hash != before.hash
    assert after.source == "folder"


CHANGED_BY = {
    "scale": ("auto", lambda m: m.blocks[1].attn, "attn_scale", lambda old: 2 * old),
    "eps": ("auto", lambda m: m.ln_final, "eps", lambda old: 1e-3),
    "function": ("auto", lambda m: m.blocks[0].mlp, "act_fn", lambda old: torch.nn.functional.gelu),
    "lambda": ("auto", lambda m: m.blocks[0].mlp, "act_fn", lambda old: lambda x: x.relu()),
    "table": ("auto", lambda m: m.blocks[2].attn, "rotary_sin", lambda old: old.add_(1e-3)),
    "own scale": (
        "hugging-face", lambda m: m.blocks[1].parts.attn.module, "scaling", lambda old: 2 * old,
    ),
    "own eps": ("hugging-face", lambda m: m.ln_final, "variance_epsilon", lambda old: 1e-3),
    "own function": (
        "hugging-face", lambda m: m.blocks[0].parts.mlp, "act_fn", lambda old: torch.nn.GELU(),
    ),
    "frequencies": (
        "hugging-face", lambda m: m.parts.blocks[0].attn.rotary.module, "inv_freq",
        lambda old: old.mul_(1.001),
    ),
    "cap": ("hugging-face", lambda m: m.cfg, "output_logits_soft_cap", lambda old: 30.0),
}  # fmt: skip


@pytest.mark.hooked_transformer
@pytest.mark.parametrize("name", CHANGED_BY)
def test_facts_follow_a_change_of_what_shapes_the_numbers(llama_folder, name):
    backend, holder_of, attribute, new = CHANGED_BY[name]
    model = load_model(llama_folder, backend=backend)
    before, version = model_facts(model), model_version(model)
    copied = copy.deepcopy(model)
    assert model_facts(copied) == before
    for one in (model, copied):
        with torch.inference_mode(False), torch.no_grad():
            holder = holder_of(one)
            setattr(holder, attribute, new(getattr(holder, attribute)))
        after = model_facts(one)
        assert (after.parity, after.verified) == (None, CHANGED)
        assert after.hash != before.hash
        assert weights_hash(one) == before.hash
    assert model_facts(copied).hash == after.hash
    assert model_version(model) != version  # so that the engine is compared with it


@pytest.fixture(scope="module")
def llama_folder(tmp_path_factory):
    return tiny_folder(tmp_path_factory.mktemp("models"), "llama")


@pytest.mark.hooked_transformer
def test_what_runs_do_with_a_model_changes_no_facts(llama_folder):
    for backend in ("transformer-lens", "hugging-face"):
        model = load_model(llama_folder, backend=backend)
        before = model_facts(model)
        model.run_with_cache(torch.tensor([[1, 2, 3]]))
        model.generate(torch.tensor([[1, 2, 3]]), max_new_tokens=2)
        sweep(model, [intact(), skip(1)], [LogLikelihood((1, 2, 3), (4,))])
        if backend == "transformer-lens":
            model.set_use_attn_result(True)
        model.train().eval()
        assert model_facts(model) == before


def test_hash_is_the_same_for_the_same_weights_alone(tmp_path):
    one, other = own_model(), own_model(seed=1)
    assert weights_hash(one) == weights_hash(own_model())
    assert weights_hash(one) != weights_hash(other)
    other.load_state_dict(one.state_dict())
    assert weights_hash(one) == weights_hash(other)
    assert weights_hash(one) != weights_hash(one.to(torch.bfloat16, print_details=False))
    first = tiny_folder(tmp_path, "llama", seed=3)
    second = tiny_folder(tmp_path, "llama", seed=3)
    assert model_facts(load_model(first)).hash == model_facts(load_model(second)).hash


def test_hash_is_what_it_says_it_is():
    model = own_model()
    digest = hashlib.sha256()
    for name, p in sorted(model.named_parameters()):
        digest.update(f"{name} {tuple(p.shape)} torch.float32\n".encode())
        digest.update(p.detach().contiguous().numpy().tobytes())
    assert weights_hash(model) == digest.hexdigest()


@pytest.mark.hooked_transformer
def test_model_and_file_do_not_touch_each_other(tmp_path):
    folder = tiny_folder(tmp_path, "llama")
    path = folder / "model.safetensors"
    content = path.read_bytes()
    load_model(folder)
    model = load_model(folder)
    before = weights_hash(model)
    with path.open("r+b") as file:
        file.seek(len(content) // 2)
        file.write(bytes(len(content) // 2))
    assert weights_hash(model) == before
    path.write_bytes(content)
    for parameter in model.parameters():
        parameter.data.zero_()
    assert path.read_bytes() == content


@pytest.mark.parametrize("bos", [False, True])
@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_tokens_are_those_of_the_original(tmp_path, family, bos):
    folder = tiny_folder(tmp_path, family, bos=bos)
    model = load_model(folder)
    expected = AutoTokenizer.from_pretrained(folder)(TEXT).input_ids
    assert (expected[0] == 0) is bos
    assert original_tokenizer(model)(TEXT).input_ids == expected
    assert model.to_tokens(TEXT)[0].tolist() == expected


def test_tokenizer_of_a_users_own_model(tmp_path):
    model = own_model()
    with expect_refusal("has no tokenizer", "set_tokenizer"):
        original_tokenizer(model)
    model.tokenizer = AutoTokenizer.from_pretrained(tiny_folder(tmp_path, "gpt2"))
    assert original_tokenizer(model) is model.tokenizer


@pytest.mark.parametrize("family", ["llama", "gpt_neo"])
def test_an_outline_has_the_shapes_of_the_model(tmp_path, family):
    folder = tiny_folder(tmp_path, family)
    model, outline = load_model(folder), load_meta_model(folder)
    shapes = {name: (p.shape, p.dtype) for name, p in model.named_parameters()}
    assert {name: (p.shape, p.dtype) for name, p in outline.named_parameters()} == shapes
    assert is_meta_model(outline)
    assert not is_meta_model(model)
    known, told = model_facts(model), meta_model_facts(outline)
    for name in ("name", "n_layers", "n_heads", "n_key_value_heads", "d_model", "d_vocab", "n_ctx"):
        assert getattr(told, name) == getattr(known, name)
    text = "the red key opens"
    assert original_tokenizer(outline)(text).input_ids == original_tokenizer(model)(text).input_ids


def test_an_outline_needs_no_weights_and_takes_no_memory(tmp_path):
    folder = tiny_folder(tmp_path, "llama")
    assert has_weights(folder)
    (folder / "model.safetensors").unlink()
    assert not has_weights(folder)
    outline = load_meta_model(folder, dtype="bfloat16")
    assert all(parameter.is_meta for parameter in outline.parameters())
    assert (meta_model_facts(outline).dtype, meta_model_facts(outline).device) == (
        "bfloat16",
        "cpu",
    )


def test_of_the_hub_no_weights_are_asked_for(monkeypatch, tmp_path):
    from huggingface_hub.utils import filter_repo_objects

    files = ["config.json", "model.safetensors", "model.safetensors.index.json", "tokenizer.json"]
    asked: list[str] = []

    def fetch(hub_id, **patterns):
        asked.extend(filter_repo_objects(files, **patterns))
        return str(tiny_folder(tmp_path, "gpt2"))

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetch)
    assert meta_model_facts(load_meta_model("owner/name")).name == "owner/name"
    assert asked == [name for name in files if name != "model.safetensors"]
