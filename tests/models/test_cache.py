"""The cache folder, and that every file that a model reads belongs to its hash and its copies."""

from __future__ import annotations

import hashlib
import os
import re
import time
from fnmatch import fnmatch
from pathlib import Path

import torch
import transformers
from safetensors.torch import save_file

from layerwise.models import load_model, model_facts, original_tokenizer
from layerwise.models.files import cache
from layerwise.models.files import cache as cache_module
from layerwise.models.files.cache import (
    atomic_folder,
    contents_sha256,
    file_sha256,
    folder_sha256,
    read_record,
    write_record,
)
from layerwise.models.files.written_folder import copy_other_files
from layerwise.models.huggingface.folder import has_tokenizer
from layerwise.models.names import sources
from tests.models.tiny import tiny_folder


def test_what_is_kept_has_the_permissions_of_any_new_file(cache):
    before = os.umask(0o027)
    try:
        write_record("checks", "a", {})
        with atomic_folder(cache / "gguf" / "b") as partial:
            save_file({"a": torch.zeros(1)}, partial / "model.safetensors")
    finally:
        os.umask(before)
    files = (cache / "checks" / "a.json", cache / "gguf" / "b" / "model.safetensors")
    assert [path.stat().st_mode & 0o777 for path in files] == [0o640, 0o640]
    assert (cache / "gguf" / "b").stat().st_mode & 0o777 == 0o750


def test_a_file_is_read_once_and_again_when_it_changes(tmp_path, monkeypatch):
    path = tmp_path / "file"
    path.write_bytes(b"one")
    assert file_sha256(path) == hashlib.sha256(b"one").hexdigest()
    with monkeypatch.context() as patch:
        patch.setattr(cache_module.hashlib, "file_digest", None)
        assert file_sha256(path) == hashlib.sha256(b"one").hexdigest()
    path.write_bytes(b"two")
    os.utime(path, ns=(1, 1))
    assert file_sha256(path) == hashlib.sha256(b"two").hexdigest()


def test_a_change_with_its_time_set_back_is_noticed(tmp_path, monkeypatch):
    path = tmp_path / "file"
    path.write_bytes(b"one")
    monkeypatch.setattr(cache_module, "_SETTLED_AFTER", -1.0)
    before = path.stat()
    for digest in (file_sha256, contents_sha256):
        path.write_bytes(b"one")
        assert digest(path) == hashlib.sha256(b"one").hexdigest()
        time.sleep(0.02)  # a tick of the file system's clock
        path.write_bytes(b"two")
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
        assert digest(path) == hashlib.sha256(b"two").hexdigest()


def test_records_survive_damage(cache):
    write_record("kind", "key", {"parity": 0.25})
    assert read_record("kind", "key") == {"parity": 0.25}
    (path,) = (cache / "kind").iterdir()
    other = path.read_text().replace("0.25", "0.75")
    for damage in ("{", "[]", "", other):
        path.write_text(damage)
        assert read_record("kind", "key") is None
    assert read_record("kind", "other") is None


def test_a_folder_is_its_names_and_contents_that_matter(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    before = folder_sha256(tmp_path)
    (tmp_path / "README.md").write_text("hello")
    assert folder_sha256(tmp_path) == before
    (tmp_path / "config.json").write_text("{ }")
    changed = folder_sha256(tmp_path)
    (tmp_path / "config.json").rename(tmp_path / "other.json")
    assert len({before, changed, folder_sha256(tmp_path)}) == 3


def known_vocabularies() -> set[str]:
    """The names of files that tokenizers of transformers read."""
    names = set()
    for path in Path(transformers.__file__).parent.glob("models/*/tokenization_*.py"):
        for table in re.findall(r"VOCAB_FILES_NAMES = \{(.*?)\}", path.read_text("utf-8"), re.S):
            names |= set(re.findall(r': "([^"]+)"', table))
    return names


def test_no_file_that_a_tokenizer_reads_is_left_out(tmp_path):
    names = known_vocabularies() | {"chat_template.jinja", "special_tokens_map.json"}
    assert {"source.spm", "sentencepiece.bpe.model", "merges.txt"} < names
    folder, copy = tmp_path / "model", tmp_path / "copy"
    folder.mkdir()
    copy.mkdir()
    hashes = {cache.folder_sha256(folder)}
    for name in names:
        (folder / name).write_text("a")
        hashes.add(cache.folder_sha256(folder))
    assert len(hashes) == len(names) + 1
    copy_other_files(folder, copy)
    assert {path.name for path in copy.iterdir()} == names
    assert [name for name in names if not any(fnmatch(name, one) for one in sources._OUTLINE)] == []


def test_a_folder_with_sentencepieces_alone_has_a_tokenizer(tmp_path):
    (tmp_path / "sentencepiece.bpe.model").write_bytes(b"")
    assert has_tokenizer(tmp_path)


def test_a_template_that_takes_the_place_of_the_default_is_in_the_hash(tmp_path):
    folder = tiny_folder(tmp_path, "llama")
    before = model_facts(load_model(folder)).source_hash
    (folder / "additional_chat_templates").mkdir()
    (folder / "additional_chat_templates" / "default.jinja").write_text("other")
    model = load_model(folder)
    assert original_tokenizer(model).chat_template == "other"
    assert model_facts(model).source_hash != before
