"""Token ids against those of lm-evaluation-harness, over tokenizers and strings."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from layerwise.tasks import PROTOCOLS, build_requests, load_task, task_names
from layerwise.tasks._encoding import _tokens, encode, encode_pair
from tests.cases import few_by_day

from .smollm2 import smollm2_tokenizer
from .tokenizers import LINES, byte_level, with_chat, word_level

PAIRS = [
    ("The capital of France is", " Paris"),
    ("The capital of France is ", "Paris"),
    ("Two spaces  ", " and more"),
    ("A line\n", "B"),
    ("A line\n\n ", "\nB"),
    ("$3 + $4 = $", "7"),
    ("3 + 4 =", " 7"),
    ("( [ {", " } ] )"),
    ("Ünïcödé 東京 🙂", " naïve 🙂🙂"),
    ('"a3f1": "', "9c0e"),
    ("inter", "national"),
    ("Answer:", " A"),
    ("\ttab", "\tstop"),
    ("x", " "),
]
TOKENIZERS = {
    "byte level": byte_level(),
    "byte level, BOS": byte_level(start=True),
    "byte level, chat": with_chat(),
    "word level": word_level(),
    "word level, BOS": word_level(start=True),
}


class Harness:
    """Parts of its Hugging Face model that ``_encode_pair`` of the harness needs."""

    backend = "causal"
    add_bos_token = None
    custom_prefix_token_id = None

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer

    @property
    def eot_token_id(self) -> int:
        return self.tokenizer.eos_token_id

    @property
    def prefix_token_id(self) -> int:
        from lm_eval.models.huggingface import HFLM

        get = HFLM.prefix_token_id.fget
        assert get is not None
        return get(self)

    def tok_encode(self, *args: Any, **kwargs: Any) -> list[int]:
        from lm_eval.models.huggingface import HFLM

        return HFLM.tok_encode(self, *args, **kwargs)  # pyright: ignore[reportArgumentType]

    def encode_pair(self, context: str, continuation: str) -> tuple[tuple[int, ...], ...]:
        from lm_eval.api.model import TemplateLM

        both = TemplateLM._encode_pair(self, context, continuation)  # pyright: ignore
        return tuple(tuple(one) for one in both)


# Any text, and text of the alphabet that the tokenizers have merges for.
text = st.one_of(st.text(min_size=1, max_size=30), st.sampled_from(" ".join(LINES).split(" ")))


def assert_encoded_alike(tokenizer: Any, context: str, continuation: str) -> None:
    theirs = Harness(tokenizer).encode_pair(context, continuation)
    assert encode_pair(tokenizer, context, continuation) == theirs


def test_pairs_are_encoded_as_by_the_harness() -> None:
    for tokenizer in TOKENIZERS.values():
        for pair in PAIRS:
            assert_encoded_alike(tokenizer, *pair)


@given(context=text, space=st.sampled_from(["", " ", "\n", "  "]), continuation=text)
def test_any_pair_is_encoded_as_by_the_harness(context: str, space: str, continuation: str) -> None:
    for tokenizer in TOKENIZERS.values():
        assert_encoded_alike(tokenizer, context + space, continuation)


@given(text)
def test_a_text_that_starts_with_bos_gets_no_second_one(rest: str) -> None:
    tokenizer = byte_level(start=True)
    once = encode(tokenizer, "<s>" + rest)
    assert once[0] == tokenizer.bos_token_id
    assert once == tuple(tokenizer("<s>" + rest, add_special_tokens=False)["input_ids"])


def test_special_tokens_are_those_of_the_tokenizer_at_the_start_only() -> None:
    plain, start, end = byte_level(), byte_level(start=True), byte_level(end=True)
    bare = tuple(plain("What is $3 + $4?")["input_ids"])
    assert encode(plain, "What is $3 + $4?") == bare
    assert encode(start, "What is $3 + $4?") == (start.bos_token_id, *bare)
    assert end("What is $3 + $4?")["input_ids"][-1] == end.eos_token_id
    assert encode(end, "What is $3 + $4?") == bare
    assert encode_pair(end, "What is", " $3") == encode_pair(plain, "What is", " $3")


@pytest.mark.smollm2
@pytest.mark.parametrize(
    "name", few_by_day(task_names(), "kv-ids", "facts-open-book", "sum-chain", "brackets")
)
def test_suites_are_encoded_as_by_the_harness_for_smollm2(name: str) -> None:
    tokenizer = smollm2_tokenizer()
    for pair in PAIRS:
        assert_encoded_alike(tokenizer, *pair)
    task = load_task(name, limit=10)
    harness = Harness(tokenizer)
    for protocol in PROTOCOLS:
        for item in task.items:
            for one in build_requests(task, item, protocol, tokenizer):
                context, *rest = harness.encode_pair(one.context, one.continuation or " x")
                assert one.request.context == context
                if one.continuation is not None:
                    assert [getattr(one.request, "continuation")] == rest  # noqa: B009
                assert context[0] != tokenizer.bos_token_id


def test_equal_tokens_are_one_object():
    """So that thousands of prompts fit in memory."""
    one, other = (_tokens([1000 + number for number in range(3)]) for _ in range(2))
    assert one == (1000, 1001, 1002)
    assert all(a is b for a, b in zip(one, other, strict=True))
