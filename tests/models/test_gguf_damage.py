"""GGUF files that lack tensors, have others, or lie about themselves: a sentence, nothing kept."""

from __future__ import annotations

import struct

import pytest

from layerwise.models import load_model
from layerwise.models.names import gguf_files
from tests.models.refusal import expect_refusal
from tests.models.test_gguf import D_MODEL, shapes, write_gguf


def is_cache_empty(cache):
    return not (cache / "gguf").exists() or list((cache / "gguf").iterdir()) == []


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"without": ["blk.1.ffn_up.weight"]}, ["lacks 1 tensor, ", "blk.1.ffn_up.weight"]),
        ({"without": list(shapes())}, ["header has 2 blocks", "tensors have 0"]),
        ({"n_blocks": 1}, ["header has 1 blocks", "tensors have 2"]),
        ({"n_blocks": 10**9}, ["header has 1000000000 blocks"]),
        ({"more": {"blk.0.attn_q.bias": (D_MODEL,)}}, ["has, against", "blk.0.attn_q.bias"]),
        ({"more": {"rope_freqs.weight": (4,)}}, ["has, against", "rope_freqs.weight"]),
        ({"more": {"blk.0.ffn_up.weight": (40, D_MODEL)}}, ["blk.0.ffn_up.weight has shape"]),
        ({"kv": 4}, ["attn_k.weight has shape (16, 32), expected (32, 32)"]),
        ({"architecture": "mamba"}, ["architecture is 'mamba'", "llama"]),
    ],
    ids=lambda value: str(value)[:40],
)
def test_tensors_that_are_not_those_of_the_header_are_refused(tmp_path, cache, changes, parts):
    with expect_refusal("tiny.gguf cannot be converted", *parts):
        load_model(write_gguf(tmp_path / "tiny.gguf", **changes))
    assert is_cache_empty(cache)


def test_an_output_that_is_tied_to_the_embedding_may_be_left_out(tmp_path):
    path = write_gguf(tmp_path / "tiny.gguf", without=["output.weight"])
    model = load_model(path)
    assert (model.W_U.T == model.W_E).all()


@pytest.mark.parametrize(
    ("name", "parameter"),
    [
        ("blk.1.ffn_up.weight", "layers.1.mlp.up_proj"),
        ("blk.0.attn_q.weight", "layers.0.self_attn.q_proj"),
    ],
)
def test_values_that_are_not_those_of_the_file_are_refused(
    tmp_path, cache, monkeypatch, name, parameter
):
    path = write_gguf(tmp_path / "tiny.gguf")
    read = gguf_files._read_by_transformers

    def disturbed(*asked):
        tokenizer, model = read(*asked)
        weight = model.model.get_submodule(parameter).weight.data
        # Rows in another order are as wrong as other rows.
        weight.copy_(weight.roll(1, 0))
        return tokenizer, model

    monkeypatch.setattr(gguf_files, "_read_by_transformers", disturbed)
    with expect_refusal("was not converted rightly", name):
        load_model(path)
    assert is_cache_empty(cache)


def put_value(content, place, form, value):
    size = struct.calcsize(form)
    return content[:place] + struct.pack(form, value) + content[place + size :]


HOSTILE = {
    "version 9": lambda c: put_value(c, 4, "<I", 9),
    "of another byte order": lambda c: put_value(c, 4, ">I", 3),
    "many tensors": lambda c: put_value(c, 8, "<Q", 150_000),
    "many fields": lambda c: put_value(c, 16, "<Q", 9_999),
    "a key without end": lambda c: put_value(c, 24, "<Q", 2**62),
    "a text without end": lambda c: put_value(c, 24 + 8 + 20 + 4, "<Q", 2**40),
    "an unknown type": lambda c: put_value(c, 24 + 8 + 20, "<I", 77),
    "half the data": lambda c: c[: len(c) // 2],
}


@pytest.mark.parametrize("change", HOSTILE.values(), ids=list(HOSTILE))
def test_hostile_headers_get_a_sentence(tmp_path, cache, change):
    path = write_gguf(tmp_path / "tiny.gguf")
    path.write_bytes(change(path.read_bytes()))
    with expect_refusal("tiny.gguf cannot be converted", "header does not fit the file"):
        load_model(path)
    assert is_cache_empty(cache)


def text(value):
    return struct.pack("<Q", len(value)) + value


def write_gguf_file(tmp_path, fields, tensors=b"", n_tensors=0):
    path = tmp_path / "made.gguf"
    n_fields = len(fields)
    path.write_bytes(
        struct.pack("<4sIQQ", b"GGUF", 3, n_tensors, n_fields) + b"".join(fields) + tensors
    )
    return path


def field(name, kind, value):
    return text(name) + struct.pack("<I", kind) + value


ARRAYS = struct.pack("<IQ", 9, 1)
TENSOR = text(b"a") + struct.pack("<IQIQ", 1, 32, 0, 0)


@pytest.mark.parametrize(
    ("fields", "tensors", "part"),
    [
        ([field(b"k", 9, ARRAYS * 5000)], [], "an array of type 9"),
        ([field(b"k", 9, struct.pack("<IQ", 0, 3_000_000) + bytes(3_000_000))], [], "elements"),
        ([field(b"k", 8, text(b"\xff\xfe"))], [], "can't decode"),
        ([field(b"k", 0, b"\0")] * 2, [], "'k' is there twice"),
        ([field(b"general.alignment", 4, struct.pack("<I", 3))], [], "alignment"),
        ([], [text(b"a") + struct.pack("<I", 2**31)], ""),
        ([], [text(b"a") + struct.pack("<IQIQ", 1, 2**63, 0, 0)], ""),
        ([], [text(b"a") + struct.pack("<IQIQ", 1, 0, 0, 0)], "'a' is empty"),
        ([], [text(b"a") + struct.pack("<IQIQ", 1, 32, 999, 0)], ""),
        ([], [text(b"a") + struct.pack("<IQIQ", 1, 33, 2, 0)], ""),
        ([], [text(b"a") + struct.pack("<IQIQ", 1, 32, 0, 5), bytes(512)], "odd place"),
        ([], [TENSOR, TENSOR, bytes(512)], ""),
        ([], [TENSOR, TENSOR.replace(b"a", b"b"), bytes(512)], "lies over"),
    ],
)
def test_headers_that_cannot_be_true(tmp_path, fields, tensors, part):
    n_tensors = sum(any(tensor) for tensor in tensors)
    with expect_refusal("header does not fit the file", part):
        load_model(write_gguf_file(tmp_path, fields, b"".join(tensors), n_tensors))
