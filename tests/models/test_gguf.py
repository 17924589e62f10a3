"""GGUF files: converted once, completely or not at all."""

from __future__ import annotations

import hashlib
import json
import os
import time

import gguf
import numpy as np
import pytest
import safetensors.torch
import torch

from layerwise.models import load_model, model_facts, original_tokenizer
from layerwise.models.names import gguf_files
from layerwise.models.names.gguf_files import folder_of_gguf
from tests.models.refusal import expect_refusal
from tests.models.tiny import TEXT, tiny_tokenizer

D_MODEL, D_MLP, LAYERS, HEADS, KV_HEADS = 32, 48, 2, 4, 2
# More than the tokenizer has, since transformers adds a special token to it.
D_VOCAB = 304


def write_gguf(
    path, architecture="llama", *, n_blocks=LAYERS, without=(), more=None, kv=KV_HEADS,
    tensors=None, said=None,
):  # fmt: skip
    """A small GGUF file, without some of its tensors and with others, and what more it says."""
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_context_length(128)
    writer.add_embedding_length(D_MODEL)
    writer.add_block_count(n_blocks)
    writer.add_feed_forward_length(D_MLP)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(kv)
    writer.add_rope_dimension_count(D_MODEL // HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_layer_norm_eps(1e-5)
    writer.add_vocab_size(D_VOCAB)
    writer.add_key_length(D_MODEL // HEADS)
    writer.add_pad_token_id(1)
    for key, value in (said or {}).items():
        add = writer.add_string if isinstance(value, str) else writer.add_float32
        add(f"{architecture}.{key}", value)
    tokenizer = json.loads(tiny_tokenizer().backend_tokenizer.to_str())["model"]
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(sorted(tokenizer["vocab"], key=tokenizer["vocab"].get))
    writer.add_token_merges([" ".join(pair) for pair in tokenizer["merges"]])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    for name, shape in ((shapes() if tensors is None else tensors) | (more or {})).items():
        if name not in without:
            writer.add_tensor(name, draw(name, shape))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def shapes():
    head = D_MODEL // HEADS
    named = {"token_embd": (D_VOCAB, D_MODEL), "output": (D_VOCAB, D_MODEL)}
    named["output_norm"] = (D_MODEL,)
    for layer in range(LAYERS):
        block = {
            "attn_norm": (D_MODEL,),
            "attn_q": (HEADS * head, D_MODEL),
            "attn_k": (KV_HEADS * head, D_MODEL),
            "attn_v": (KV_HEADS * head, D_MODEL),
            "attn_output": (D_MODEL, HEADS * head),
            "ffn_norm": (D_MODEL,),
            "ffn_gate": (D_MLP, D_MODEL),
            "ffn_up": (D_MLP, D_MODEL),
            "ffn_down": (D_MODEL, D_MLP),
        }
        named |= {f"blk.{layer}.{key}": shape for key, shape in block.items()}
    return {f"{key}.weight": shape for key, shape in named.items()}


def draw(name, shape):
    generator = np.random.default_rng(abs(hash(shape)) % 1000 + len(name))
    noise = generator.standard_normal(shape, dtype=np.float32)
    return 1 + 0.2 * noise if len(shape) == 1 else 1.5 * noise / np.float32(shape[-1] ** 0.5)


@pytest.fixture
def path(tmp_path):
    return write_gguf(tmp_path / "tiny.gguf")


@pytest.mark.hooked_transformer
def test_a_gguf_file_becomes_a_model(path):
    model = load_model(path)
    facts = model_facts(model)
    assert (facts.source, facts.name) == ("gguf", str(path))
    assert (facts.n_layers, facts.n_heads, facts.n_key_value_heads) == (LAYERS, HEADS, KV_HEADS)
    assert facts.n_ctx == 128
    assert facts.source_hash == hashlib.sha256(path.read_bytes()).hexdigest()
    assert len(facts.conversion_hash) == 64
    assert facts.verified.startswith("conversion of the GGUF file has the recorded SHA-256; log-")
    assert facts.parity < 1e-3
    assert original_tokenizer(model)(TEXT).input_ids == tiny_tokenizer()(TEXT).input_ids
    expected = torch.from_numpy(draw("blk.1.ffn_up.weight", (D_MLP, D_MODEL)))
    assert torch.equal(model.blocks[1].mlp.W_in.detach(), expected.T)


def test_it_is_converted_once(path, monkeypatch):
    first = model_facts(load_model(path))

    def fail(*_):
        raise AssertionError("converted again")

    monkeypatch.setattr(gguf_files, "_convert", fail)
    moved = path.rename(path.with_name("moved.gguf"))
    assert model_facts(load_model(moved)).hash == first.hash


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(28, "No space left on device")])
def test_a_conversion_that_stops_leaves_nothing(path, cache, monkeypatch, error):
    def stop(_, file, **__):
        with open(file, "wb") as half:
            half.write(b"half")
        assert len(list((cache / "gguf").glob("partial-*"))) == 1
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(safetensors.torch, "save_model", stop)
        if isinstance(error, OSError):
            with expect_refusal("cannot be written", "No space left on device", "LAYERWISE_CACHE"):
                load_model(path)
        else:
            with pytest.raises(KeyboardInterrupt):
                load_model(path)
    assert list((cache / "gguf").iterdir()) == []
    assert model_facts(load_model(path)).parity < 1e-3


def test_what_a_killed_conversion_left_is_swept_up_in_time(path, cache):
    old, new = cache / "gguf" / "partial-old", cache / "gguf" / "partial-new"
    for leftover in (old, new):
        leftover.mkdir(parents=True)
    os.utime(old, (time.time() - 7200,) * 2)
    folder_of_gguf(path)
    assert not old.exists()
    assert new.exists(), "another process may be at work there"


def test_a_faster_process_wins(path, cache, monkeypatch):
    convert = gguf_files._convert

    def overtaken(source, folder):
        convert(source, folder)
        faster = cache / "gguf" / gguf_files.file_sha256(source)
        faster.mkdir()
        (faster / "theirs").touch()

    monkeypatch.setattr(gguf_files, "_convert", overtaken)
    folder = folder_of_gguf(path)
    assert [path.name for path in folder.iterdir()] == ["theirs"]
    assert list(folder.parent.iterdir()) == [folder]


def test_a_file_that_is_no_gguf(tmp_path):
    path = tmp_path / "model.gguf"
    path.write_bytes(b"PK\3\4 something else")
    with expect_refusal("model.gguf is no GGUF file"):
        load_model(path)


def test_a_file_with_another_hash(path):
    with expect_refusal("is not the file it should be", "reinstall"):
        folder_of_gguf(path, expected_sha256="0" * 64)
