"""Items that surely fit without being encoded: whatever they are, encoding refuses none of them."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Regex, Tokenizer
from tokenizers.normalizers import NFKC
from tokenizers.pre_tokenizers import ByteLevel as ByteLevelSplit
from tokenizers.pre_tokenizers import Sequence, Split
from transformers import PreTrainedTokenizerFast

from layerwise.errors import UserError
from layerwise.runs import setup as set_up
from layerwise.runs.setup import Setup, prepare
from layerwise.tasks import Item, build_requests
from layerwise.tasks._encoding import PATTERNS, ByteLevel, encode, encode_pair
from tests.analysis import word_task
from tests.models.tiny import tiny_model

from .smollm2 import smollm2_tokenizer
from .tokenizers import byte_level, word_level

TASK = word_task(4)
KNOWN = 1000


def changed_tokenizer(more_added: tuple[Any, ...] = (), **parts: Any) -> PreTrainedTokenizerFast:
    """The byte-level tokenizer with other parts."""
    backend = Tokenizer.from_str(byte_level().backend_tokenizer.to_str())
    for name, part in parts.items():
        setattr(backend, name, part)
    backend.add_tokens(list(more_added))
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>")


def with_unknown(token: str) -> PreTrainedTokenizerFast:
    state = json.loads(byte_level().backend_tokenizer.to_str())
    state["model"]["unk_token"] = token
    backend = Tokenizer.from_str(json.dumps(state))
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>")


def pattern_split(pattern: str) -> Sequence:
    bytes_alone = ByteLevelSplit(add_prefix_space=False, use_regex=False)
    return Sequence([Split(Regex(pattern), "isolated"), bytes_alone])


COUNTED = {
    "GPT-2": byte_level(),
    "with BOS": byte_level(start=True),
    "with an end token": byte_level(end=True),
    **{
        f"pattern {i}": changed_tokenizer(pre_tokenizer=pattern_split(one))
        for i, one in enumerate(PATTERNS)
    },
    "spaces as tokens": changed_tokenizer(more_added=("  ", "    ")),
}
# Text with what patterns, merges and special tokens take for a part of a word.
TEXT = st.lists(
    st.sampled_from([*"aAé1.'’ \n\t\x1c\u00a0\x00東", "  ", " the", "n't", "</s>", "<s>", "\r\n"]),
    min_size=1, max_size=12,
).map("".join)  # fmt: skip


@given(TEXT, TEXT, TEXT, st.sampled_from([" ", "", "\n"]), st.integers(1, 60))
def test_what_surely_fits_is_not_refused_when_it_is_encoded(
    question: str, answer: str, other: str, delimiter: str, room: int
) -> None:
    template = replace(TASK.template, answer_cue="", delimiter=delimiter)
    task = replace(TASK, template=template, fewshot=())
    item = Item("one", question, answer, tuple(dict.fromkeys((answer, other))))
    for tokenizer in COUNTED.values():
        counted = ByteLevel.from_tokenizer(tokenizer, KNOWN)
        assert counted is not None
        for protocol in ("letter", "continuation", "generate"):
            if counted.surely_fits(task, item, protocol, room):
                assert build_requests(task, item, protocol, tokenizer, max_length=room)


@given(TEXT, TEXT, st.sampled_from(["", " ", " \n"]))
def test_options_behind_a_space_are_encoded_without_the_context(before, behind, between):
    context = f"a{before}{between}"
    for name, tokenizer in COUNTED.items():
        start = encode(tokenizer, context.rstrip())
        whole = encode(tokenizer, f"{context} {behind}")
        assert encode_pair(tokenizer, context, f" {behind}") == (start, whole[len(start) :]), name


@pytest.mark.parametrize(
    "tokenizer",
    [
        word_level(),
        changed_tokenizer(normalizer=NFKC()),
        changed_tokenizer(pre_tokenizer=ByteLevelSplit(add_prefix_space=True)),
        changed_tokenizer(pre_tokenizer=ByteLevelSplit(add_prefix_space=False, use_regex=False)),
        changed_tokenizer(pre_tokenizer=pattern_split(r"\p{L}+ ?")),
        changed_tokenizer(more_added=("a b",)),
        with_unknown("<none>"),
        object(),
    ],
    ids=[
        "words",
        "normalizer",
        "space before",
        "no pattern",
        "pattern",
        "a token of words",
        "no token for unknown bytes",
        "own",
    ],
)
def test_nothing_is_known_of_other_tokenizers(tokenizer: Any) -> None:
    assert ByteLevel.from_tokenizer(tokenizer, KNOWN) is None


def test_nothing_is_known_if_the_model_lacks_tokens() -> None:
    largest = max(byte_level().get_vocab().values())
    assert ByteLevel.from_tokenizer(byte_level(), largest) is None
    assert ByteLevel.from_tokenizer(byte_level(), largest + 1) is not None


@pytest.mark.long
@pytest.mark.smollm2
def test_smollm2_is_known_though_it_lacks_some_bytes() -> None:
    assert ByteLevel.from_tokenizer(smollm2_tokenizer(), 49152) is not None


@pytest.fixture
def encoded_items(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The items that are encoded from now on."""
    items, build = list[str](), set_up.build_requests

    def noted(task: Any, item: Item, *args: Any, **more: Any) -> Any:
        items.append(item.id)
        return build(task, item, *args, **more)

    monkeypatch.setattr(set_up, "build_requests", noted)
    return items


def setup_with_items(*more: Item) -> Setup:
    task = replace(TASK, items=(*TASK.items, *more))
    return prepare(tiny_model("llama"), [task], "continuation")


def test_only_items_in_doubt_are_encoded_to_refuse_them(encoded_items: list[str]) -> None:
    setup = setup_with_items()
    setup.refuse_items(setup.tasks[0])
    assert encoded_items == []
    long = Item("long", "one " * 500, "key", ("key", "open"))
    setup = setup_with_items(long)
    with pytest.raises(UserError, match="'long' of task 'words' needs"):
        setup.refuse_items(setup.tasks[0])
    assert encoded_items == ["long"]


def test_items_that_a_protocol_cannot_ask_are_refused_without_encoding(
    encoded_items: list[str],
) -> None:
    setup = setup_with_items(Item("bare", "which", "a"))
    with pytest.raises(UserError, match="'bare' of task 'words' has no choices"):
        setup.refuse_items(setup.tasks[0])
    assert encoded_items == []
