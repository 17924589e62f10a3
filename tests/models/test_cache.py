"""The cache folder: hashes that notice a change, records that survive damage."""

from __future__ import annotations

import hashlib
import os
import time

import platformdirs
import torch
from safetensors.torch import save_file

from layerwise.models.files import cache as cache_module
from layerwise.models.files.cache import (
    cache_dir,
    complete_or_nothing,
    contents_sha256,
    file_sha256,
    folder_sha256,
    read_record,
    write_record,
)


def test_the_variable_goes_before_the_users_folder(cache, monkeypatch):
    assert cache_dir() == cache
    monkeypatch.delenv("LAYERWISE_CACHE")
    assert str(cache_dir()) == platformdirs.user_cache_dir("layerwise")


def test_what_is_kept_has_the_permissions_of_any_new_file(cache):
    before = os.umask(0o027)
    try:
        write_record("checks", "a", {})
        with complete_or_nothing(cache / "gguf" / "b") as partial:
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


def test_a_record_with_another_value_counts_as_none(cache):
    write_record("kind", "key", {"parity": 0.25})
    path = cache / "kind" / "key.json"
    path.write_text(path.read_text().replace("0.25", "0.75"))
    assert read_record("kind", "key") is None


def test_records_survive_damage(cache):
    write_record("kind", "key", {"a": 1})
    assert read_record("kind", "key") == {"a": 1}
    assert [path.name for path in (cache / "kind").iterdir()] == ["key.json"]
    for damage in ("{", "[]", ""):
        (cache / "kind" / "key.json").write_text(damage)
        assert read_record("kind", "key") is None
    assert read_record("kind", "other") is None


def test_nothing_is_kept_where_nothing_can_be_written(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("LAYERWISE_CACHE", str(tmp_path / "file"))
    write_record("kind", "key", {})
    assert read_record("kind", "key") is None


def test_a_folder_is_its_names_and_contents_that_matter(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    before = folder_sha256(tmp_path)
    (tmp_path / "README.md").write_text("hello")
    assert folder_sha256(tmp_path) == before
    (tmp_path / "config.json").write_text("{ }")
    changed = folder_sha256(tmp_path)
    (tmp_path / "config.json").rename(tmp_path / "other.json")
    assert len({before, changed, folder_sha256(tmp_path)}) == 3
