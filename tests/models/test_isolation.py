"""Files beside a model, or named by its files: neither read nor fetched nor run."""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import transformers.modeling_utils as modeling

import layerwise
from layerwise.models import load_model, model_facts
from layerwise.models.names import gguf_files
from tests.models.test_gguf import write_gguf
from tests.models.tiny import tiny_folder

SOURCES = Path(layerwise.__file__).parent
NO_FILES = ("nn.Embedding",)  # which takes a tensor
NO_CODE = ("GenerationConfig", "peft.PeftModel")  # which know no trust_remote_code


def reading_calls() -> Iterator[tuple[str, str, ast.Call]]:
    """Every call of ``from_pretrained`` or ``from_config``: place, receiver and the call."""
    for path in SOURCES.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            called = node.func if isinstance(node, ast.Call) else None
            if isinstance(called, ast.Attribute) and isinstance(node, ast.Call):
                receiver = ast.unparse(called.value)
                known = called.attr in ("from_pretrained", "from_config")
                if known and receiver not in NO_FILES:
                    yield f"{path.relative_to(SOURCES)}:{node.lineno}", receiver, node


def test_every_call_that_reads_a_model_forbids_code_and_network():
    calls = list(reading_calls())
    assert len(calls) > 9
    for place, receiver, call in calls:
        given = {f"{one.arg}={ast.unparse(one.value)}" for one in call.keywords}
        assert receiver in NO_CODE or "trust_remote_code=False" in given, place
        from_files = ast.unparse(call.func).endswith("from_pretrained")
        assert not from_files or "local_files_only=True" in given, place


def test_a_gguf_file_that_is_a_link_is_read(tmp_path):
    write_gguf(tmp_path / "tiny.gguf")
    (tmp_path / "link").symlink_to("tiny.gguf")
    assert (gguf_files.folder_of_gguf(tmp_path / "link") / "config.json").is_file()


@pytest.mark.parametrize(
    ("kind", "value"), [("attn", "owner/name"), ("experts", {"": "owner/name"})]
)
def test_kernels_that_a_configuration_names_are_not_used(tmp_path, monkeypatch, kind, value):
    folder = tiny_folder(tmp_path, "mixtral")
    expected = model_facts(load_model(folder))
    fields = json.loads((folder / "config.json").read_text())
    both = {f"{kind}_implementation": value, f"_{kind}_implementation": value}

    def fetch(*_, **__):
        raise AssertionError("a kernel was looked for")

    monkeypatch.setattr(modeling, "lazy_import_flash_attention", fetch)
    (folder / "config.json").write_text(json.dumps(fields | both))
    facts = model_facts(load_model(folder))
    assert (facts.hash, facts.parity) == (expected.hash, expected.parity)
