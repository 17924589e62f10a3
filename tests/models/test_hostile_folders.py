"""Folders whose configuration, index or weights lie: a sentence before anything is allocated."""

from __future__ import annotations

import hashlib
import json
import struct
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from layerwise.models import load_model, model_facts
from layerwise.models.huggingface.folder import read_config
from tests.models.refusal import expect_refusal
from tests.models.test_refusals import edit_config, edit_weights
from tests.models.tiny import tiny_folder

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
SHARD = "model-00001-of-00001.safetensors"


@pytest.fixture
def folder(tmp_path):
    return tiny_folder(tmp_path, "llama")


def shard(folder, name=SHARD, mapped=None):
    """Let an index name the weights; by ``name`` in it if ``mapped`` is not given."""
    (folder / WEIGHTS).rename(folder / SHARD)
    names = dict.fromkeys(load_file(folder / SHARD), name)
    index = {"metadata": {"total_size": 1}, "weight_map": mapped or names}
    (folder / INDEX).write_text(json.dumps(index))


def test_a_sharded_folder_is_loaded(folder):
    shard(folder)
    assert load_model(folder).cfg.n_layers == 3


@pytest.mark.parametrize(
    "name",
    [
        "../elsewhere.safetensors", "/etc/hostname", "sub/model.safetensors", "x" * 5000,
        "a\0b.safetensors", "sub\\model.safetensors", "model.bin", 3, ["a"], "",
    ],
)  # fmt: skip
def test_an_index_that_names_no_file_of_the_folder_is_refused(folder, name):
    shard(folder, name)
    (folder.parent / "elsewhere.safetensors").write_bytes((folder / SHARD).read_bytes())
    with expect_refusal(INDEX, "as a file of weights", "in the same folder"):
        load_model(folder)


@pytest.mark.parametrize(
    "content", ["{", "[]", '{"weight_map": []}', '{"weight_map": {}}', "[" * 100_000]
)
def test_an_index_that_is_none_is_refused(folder, content):
    shard(folder)
    (folder / INDEX).write_text(content)
    with expect_refusal(INDEX):
        load_model(folder)


def test_weights_that_are_links_are_loaded(folder):
    """A snapshot of the hub consists of links to files elsewhere."""
    (folder / WEIGHTS).rename(folder.parent / "blob")
    (folder / WEIGHTS).symlink_to("../blob")
    assert load_model(folder).cfg.n_layers == 3


def put_unreadable(kind: str, path: Path) -> None:
    """Put what cannot be read in the place of a file."""
    path.unlink(missing_ok=True)
    if kind == "folder":
        path.mkdir()
    else:
        path.symlink_to(path.name if kind == "link to itself" else "nowhere")


@pytest.mark.parametrize("kind", ["link to itself", "link to nothing", "folder"])
@pytest.mark.parametrize(
    "name", ["config.json", "tokenizer_config.json", "generation_config.json", "x.json", WEIGHTS]
)
def test_a_link_to_nothing_or_a_folder_in_a_files_place_is_refused(folder, kind, name):
    put_unreadable(kind, folder / name)
    with expect_refusal(name):
        load_model(folder)


def test_a_damaged_blob_of_the_hubs_cache_is_told(folder):
    content = (folder / WEIGHTS).read_bytes()
    blob = folder.parent / "blobs" / hashlib.sha256(content).hexdigest()
    blob.parent.mkdir()
    (folder / WEIGHTS).rename(blob)
    (folder / WEIGHTS).symlink_to(blob)
    assert model_facts(load_model(folder)).verified.startswith("weights have the SHA-256 that the")
    blob.write_bytes(content[:9_000] + bytes([content[9_000] ^ 1]) + content[9_001:])
    with expect_refusal(str(blob), "SHA-256 that is its name", "delete that file"):
        load_model(folder)


@pytest.mark.parametrize("dtype", [torch.complex64, torch.int32, torch.float8_e4m3fn])
def test_weights_that_are_no_real_numbers_are_refused(folder, dtype):
    name = "model.layers.1.mlp.up_proj.weight"
    try:
        edit_weights(folder, lambda weights: weights.update({name: weights[name].to(dtype)}))
    except KeyError:
        pytest.skip(f"this release of safetensors writes no {dtype}")
    with expect_refusal(name, "number format", "BF16"):
        load_model(folder)


def test_masks_beside_the_weights_may_be_whole_numbers(tmp_path):
    folder = tiny_folder(tmp_path, "gpt2")
    mask = torch.ones(1, 1, 256, 256, dtype=torch.uint8).tril()
    name = "transformer.h.0.attn.bias"
    edit_weights(folder, lambda weights: weights.update({name: mask}))
    assert load_model(folder).cfg.n_layers == 3


def test_weights_of_a_shard_that_would_be_read_instead_are_refused(folder):
    (folder / "shard-00000-model-00001-of-00001.safetensors").write_bytes(b"")
    with expect_refusal("not in model.safetensors", "shard-00000"):
        load_model(folder)


@pytest.mark.parametrize(
    ("fields", "parts"),
    [
        ({"num_hidden_layers": 10**9}, ["calls for 1000000000 layers", "at most"]),
        ({"num_hidden_layers": 900}, ["calls for 900 layers", "as there are tensors for"]),
        ({"num_hidden_layers": -1}, ["layers (num_hidden_layers)"]),
        ({"num_hidden_layers": True}, ["layers (num_hidden_layers)"]),
        ({"intermediate_size": 10**9}, ["calls for", "parameters, the files hold"]),
        ({"intermediate_size": 10**18}, ["config.json"]),
        ({"vocab_size": 10**9}, ["calls for", "parameters, the files hold"]),
        ({"max_position_embeddings": 10**9}, ["allows texts of 1000000000 tokens"]),
        ({"num_labels": 2**63}, ["calls for 9223372036854775808 labels"]),
        ({"model_type": ["a"]}, ["unknown architecture"]),
        ({"model_type": {"a": 1}, "auto_map": {"AutoConfig": "a.B"}}, ["code of its own"]),
        ({"architectures": [["a"]]}, ["unknown architecture"]),
        ({"transformers_weights": "other.safetensors"}, ["not in model.safetensors"]),
    ],
    ids=lambda value: str(value)[:40],
)
def test_configurations_that_do_not_fit_are_refused(folder, fields, parts):
    edit_config(folder, **fields)
    with expect_refusal(*parts):
        load_model(folder)


@pytest.mark.parametrize("fields", [{"model_max_length": ["a"]}, {"unk_token": ""}])
def test_a_setting_that_only_reading_a_text_looks_at_gets_a_sentence(folder, fields):
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))
    with expect_refusal("The tokenizer in", "cannot be loaded"):
        load_model(folder)


@pytest.mark.parametrize("name", ["config.json", "generation_config.json"])
@pytest.mark.parametrize(
    "fields", [{"eos_token_id": 1e308}, {"eos_token_id": [[1]]}, {"decoder_start_token_id": [1]}]
)
def test_token_ids_that_are_none_are_refused(folder, name, fields):
    kept = json.loads((folder / name).read_text()) if (folder / name).is_file() else {}
    (folder / name).write_text(json.dumps(kept | fields))
    with expect_refusal(name, "expected the id of a token"):
        load_model(folder)


@pytest.mark.hooked_transformer
def test_a_field_that_only_a_conversion_reads_gets_a_sentence(tmp_path):
    folder = tiny_folder(tmp_path, "gpt2")
    edit_config(folder, sliding_window="wide")
    with expect_refusal("cannot convert this GPT2LMHeadModel"):
        load_model(folder, backend="transformer-lens")


def test_long_texts_need_memory_where_positions_are_not_rotary(tmp_path):
    with expect_refusal("allows texts of 100000 tokens", "at most 65536"):
        read_config(tiny_folder(tmp_path, "gptj", n_positions=100_000))


@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json", "tokenizer.json"])
@pytest.mark.parametrize(
    "content",
    [
        b"[" * 100_000, b"\xff\xfe\x00", b'{"a": ' + b"9" * 5_000 + b"}", b"",
        b"null", b'{"added_tokens": 3, "model": null, "tokenizer_class": []}',
    ],
    ids=range(6),
)  # fmt: skip
def test_json_that_is_damaged_gets_a_sentence(folder, name, content):
    (folder / name).write_bytes(content)
    with expect_refusal(str(folder)):
        load_model(folder)


@pytest.mark.parametrize(
    "header",
    [
        b"[]", b'{"a": 1}', b'{"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 80]}}',
        b'{"a": {"dtype": "F32", "shape": [4294967296, 4294967296], "data_offsets": [0, 0]}}',
        b'{"a": {"dtype": "X", "shape": [2], "data_offsets": [0, 8]}}', b"[" * 100_000,
    ],
    ids=range(6),
)  # fmt: skip
def test_headers_of_weights_that_cannot_be_true_are_refused(folder, header):
    (folder / WEIGHTS).write_bytes(struct.pack("<Q", len(header)) + header + bytes(8))
    with expect_refusal("weights", "cannot be loaded", "whole safetensors"):
        load_model(folder)


@pytest.mark.parametrize(
    "name",
    ["x" * 300, "/tmp/" + "x" * 300, "~nosuch/x", "a\0b", "/a\0b", "owner/" + "x" * 300, "", " "],
)
def test_names_that_no_file_can_have_get_a_sentence(name):
    with expect_refusal("xpected"):
        load_model(name)


def test_the_long_name_of_a_file_is_cut_short(tmp_path):
    with pytest.raises(ValueError, match="expected names of at most 255 bytes") as told:
        load_model("./" + "x" * 5_000)
    assert len(str(told.value)) < 500
