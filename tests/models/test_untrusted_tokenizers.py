"""Tokenizers and templates of folders that hang or eat memory: a sentence, within limits.

What would hang is done in a fork, so that a test without the limits fails and ends.
"""

from __future__ import annotations

import ast
import json
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import layerwise
from layerwise.ground import limited
from layerwise.models.huggingface.originals import read_tokenizer
from layerwise.models.libraries import untrusted_tokenizer
from layerwise.models.libraries.untrusted_tokenizer import is_untrusted
from layerwise.tasks._encoding import as_chat, encode, encode_pair
from tests.forking import exit_code, fork_work
from tests.models.refusal import expect_refusal
from tests.models.tiny import TEXT, tiny_folder

# Each place takes two million steps, which the library allows, and a text has many places.
SLOW = "(x|xx){21}y"
RUN = "x" * 3000
FILE, CONFIG = "tokenizer.json", "tokenizer_config.json"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(limited, "SECONDS", 0.5)
    monkeypatch.setattr(limited, "MEMORY", 2**28)
    return tiny_folder(tmp_path, "llama")


def edit(path: Path, **fields: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_bytes()) | fields))


def refused_in_time(work: Callable[[], Any], *parts: str) -> None:
    """Expect a refusal in some seconds, by a process that has little memory."""

    def limited_work() -> int:
        resource.setrlimit(resource.RLIMIT_DATA, (2**31, resource.RLIM_INFINITY))
        with expect_refusal(*parts):
            work()
        return 0

    assert exit_code(fork_work(limited_work), 30) == 0


def replace_step(pattern: dict[str, str], content: str) -> dict[str, Any]:
    return {"type": "Replace", "pattern": pattern, "content": content}


def sequence_step(kind: str, parts: list[dict[str, Any]]) -> dict[str, Any]:
    return {"type": "Sequence", kind: parts}


def split_step(pattern: str) -> dict[str, Any]:
    split = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated"}
    return split | {"invert": False}


DOUBLING = replace_step({"String": "a"}, "aa")
AGAIN = [{"Sequence": {"id": "A", "type_id": 0}}]
BOTH = [*AGAIN, {"Sequence": {"id": "B", "type_id": 0}}]
OFTEN = {"type": "TemplateProcessing", "single": AGAIN * 99, "pair": BOTH, "special_tokens": {}}


@pytest.mark.parametrize(
    ("fields", "part"),
    [
        ({"pre_tokenizer": split_step(SLOW.replace("x", "a"))}, "0.514 seconds of the processor"),
        ({"normalizer": replace_step({"Regex": SLOW.replace("x", "1")}, "c")}, "0.514 seconds"),
        (
            {"normalizer": sequence_step("normalizers", [DOUBLING] * 7)},
            "256,001 tokens of a text of 2,001",
        ),
        ({"post_processor": OFTEN}, "tokens of a text"),
        ({"decoder": sequence_step("decoders", [DOUBLING] * 8)}, "more than 64 times"),
        ({"decoder": replace_step({"Regex": "a*"}, "b")}, "replaces a pattern"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_tokenizer_that_hangs_or_grows_is_refused_at_load(folder, fields, part):
    edit(folder / FILE, **fields)
    refused_in_time(lambda: read_tokenizer(folder), str(folder), part, "use the tokenizer")


def test_growth_that_ends_as_one_token_is_bounded_by_memory(folder, monkeypatch):
    monkeypatch.setattr(limited, "SECONDS", 20.0)
    grown = replace_step({"String": "a"}, "b" * 2**18)
    words = {"type": "WordLevel", "vocab": {"<s>": 0, "</s>": 1}, "unk_token": "<s>"}
    edit(folder / FILE, normalizer=grown, model=words, pre_tokenizer=None)
    refused_in_time(lambda: read_tokenizer(folder), "needs more than 0.25 GiB of memory")


def test_words_that_are_added_are_tried_before_they_are_normalized(folder):
    """The library normalizes them when they are added."""
    edit(folder / FILE, normalizer=replace_step({"Regex": SLOW}, "c"))
    word = {"content": RUN, "normalized": True, "special": False, "lstrip": False,
            "rstrip": False, "single_word": False}  # fmt: skip
    edit(folder / CONFIG, added_tokens_decoder={"300": word})
    refused_in_time(lambda: read_tokenizer(folder), "seconds of the processor")


def test_a_text_that_hangs_is_refused_where_it_is_encoded(folder):
    edit(folder / FILE, pre_tokenizer=sequence_step("pretokenizers", [
        split_step(SLOW), {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True,
                          "use_regex": True}]))  # fmt: skip
    tokenizer = read_tokenizer(folder)
    assert encode(tokenizer, TEXT) == tuple(tokenizer(TEXT).input_ids)
    refused_in_time(lambda: encode(tokenizer, RUN), "for texts of up to 3,000 characters")
    refused_in_time(lambda: encode_pair(tokenizer, RUN, "", apart=True), "3,000 characters")


def with_id(folder: Path, token_id: int) -> None:
    """Give a token of a folder's vocabulary another id."""
    content = json.loads((folder / FILE).read_bytes())
    token = next(iter(content["model"]["vocab"]))
    content["model"]["vocab"][token] = token_id
    (folder / FILE).write_text(json.dumps(content))


def test_an_id_far_above_all_others_is_refused(folder):
    """The library lists the ids that are missing, and aborts the process for want of memory."""
    with_id(folder, 2**32 - 2)
    refused_in_time(
        lambda: read_tokenizer(folder), "has token id 4,294,967,294: expected ids below 16,777,216"
    )


def test_an_id_far_above_all_others_is_refused_before_transformers_reads_the_file(
    folder, monkeypatch
):
    def fails(*_, **__):
        raise AssertionError("read")

    monkeypatch.setattr("transformers.AutoTokenizer.from_pretrained", fails)
    with_id(folder, 2**24)
    with expect_refusal("has token id 16,777,216"):
        read_tokenizer(folder)


def test_a_process_that_aborts_is_a_refusal(folder, monkeypatch):
    """So it ends where memory is short, in whatever release of the library."""
    edit(folder / CONFIG, own="file")  # as that of no other test, which may have passed
    script = folder / "python"
    script.write_text("#!/bin/sh\nread line\nkill -ABRT $$\n")
    script.chmod(0o755)
    monkeypatch.setattr(limited.sys, "executable", str(script))
    with expect_refusal(str(folder), "needs more than 0.25 GiB of memory", "use the tokenizer"):
        read_tokenizer(folder)


def test_a_text_that_fails_is_refused(folder):
    edit(folder / FILE, pre_tokenizer=split_step("(x+)+y"))
    tokenizer = read_tokenizer(folder)
    with expect_refusal("fails", "retry-limit", "expected tokens of any text"):
        encode(tokenizer, RUN)


def test_files_that_passed_are_remembered(folder, monkeypatch):
    def fails(*_):
        raise AssertionError("tried again")

    read_tokenizer(folder)
    monkeypatch.setattr(untrusted_tokenizer, "_count_tokens", fails)
    monkeypatch.setattr("layerwise.models.huggingface.originals.try_texts", lambda *_: None)
    read_tokenizer(folder)
    edit(folder / FILE, normalizer={"type": "NFC"})
    with pytest.raises(AssertionError, match="tried again"):
        read_tokenizer(folder)


def test_bundled_models_start_no_process(monkeypatch):
    monkeypatch.setattr(limited.sys, "executable", "/nowhere/python")
    model = layerwise.load_model("organism-decoder")
    tokenizer = layerwise.models.original_tokenizer(model)
    assert not is_untrusted(tokenizer)
    assert encode(tokenizer, "a")


ROLE = "{{ messages[0].role }}: {{ messages[0]['content'] | trim }}"
TEMPLATE = "".join([
    "{% for m in messages %}<|{{ m.role }}|>{{ m['content'] }}{{ eos_token }}\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}",
    "{{ bos_token }}{{ messages | tojson }}{% if tools %}tools{% endif %}",
    "{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{% endfor %}"
    "{{ ns.n }}{% generation %}" + ROLE + "{% endgeneration %}",
    "{%- for m in messages -%}\n  {%- if loop.first %}{% continue %}{% endif %}\n{% endfor %}"
    + ROLE + "{{ strftime_now('%Y') }}",
])  # fmt: skip


@pytest.fixture
def roomy(monkeypatch):
    """Time and memory in which a process can import what renders templates, on a busy machine."""
    monkeypatch.setattr(limited, "SECONDS", 20.0)
    monkeypatch.setattr(limited, "MEMORY", 2**30)


def test_a_template_is_rendered_as_transformers_does(folder, roomy):
    tokenizer = read_tokenizer(folder)
    tokenizer.chat_template = TEMPLATE
    turns = [{"role": "user", "content": " Where is 'it' <b>é\n?"}]
    expected = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    assert as_chat(tokenizer, turns[0]["content"]) == expected


@pytest.mark.long
def test_an_answer_that_is_begun_is_gone_on_with_in_a_limited_process_too(folder, roomy):
    tokenizer = read_tokenizer(folder)
    tokenizer.chat_template = (
        "{% for one in messages %}[{{ one.role }}] {{ one.content }}\n{% endfor %}"
        "{% if add_generation_prompt %}[assistant] {% endif %}"
    )
    begun = [{"role": "user", "content": "Who?"}, {"role": "assistant", "content": "It is"}]
    assert is_untrusted(tokenizer)
    expected = tokenizer.apply_chat_template(begun, tokenize=False, continue_final_message=True)
    assert as_chat(tokenizer, begun) == expected == "[user] Who?\n[assistant] It is"


LOOP = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"


@pytest.mark.parametrize(
    ("template", "part"),
    [
        (LOOP, "needs more than 0.5 seconds of the processor"),
        ("{{ 'a' * 10**10 }}", "needs more than 0.25 GiB of memory"),
        ("{{ messages[0].content * 10**6 }}", "makes 3,000,000 characters of a prompt of 3"),
        ("{{ raise_exception('not so') }}", "fails (TemplateError: not so)"),
    ],
)
def test_a_template_that_hangs_grows_or_fails_is_refused(folder, monkeypatch, template, part):
    monkeypatch.setattr(limited, "SECONDS", 0.5 if template == LOOP else 20.0)
    tokenizer = read_tokenizer(folder)
    tokenizer.chat_template = template
    refused_in_time(lambda: as_chat(tokenizer, "hey"), part, "turn the chat option off")


# What encodes only what a load has tried, or what comes with this package.
FIXED = {
    "models/conversion/convert.py": {"_prepends_bos"},
    "models/conversion/parity.py": {"refuse_other_tokens"},
    "models/huggingface/parity_text.py": {"token_ids"},
    "models/seq2seq/load.py": {"_target_prefix"},
    "analyses/heads/scoring.py": {"for_model"},
    "analyses/shared/texts.py": {"_pieces", "start_tokens"},
    "tasks/_encoding.py": {"_begins_anew_at_spaces"},
}


def test_every_text_is_tried_before_it_is_encoded():
    root = Path(layerwise.__file__).parent
    untried: dict[str, set[str]] = {}
    for path in root.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if not isinstance(node, ast.FunctionDef):
                continue
            called = {ast.unparse(one.func) for one in ast.walk(node) if isinstance(one, ast.Call)}
            encodes = {name for name in called if name.split(".")[-1] in ("tokenizer", "target")}
            if encodes and "try_texts" not in called:
                untried.setdefault(str(path.relative_to(root)), set()).add(node.name)
    assert untried == FIXED
