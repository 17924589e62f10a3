"""Agreement with lm-evaluation-harness: the same items and weights, each side's own code."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from layerwise.models import load_model, original_tokenizer
from layerwise.models.names.sources import find_source
from layerwise.sweep import Generate, Generated, LogLikelihood, Scored, intact, sweep
from layerwise.sweep.requests import Outcome
from layerwise.tasks import Item, Task, TaskRequest, build_requests, load_task, score
from tests.cases import LONG
from tests.harness import Sample, ask_harness, document, harness_model, harness_task, saying
from tests.models.real import smollm2
from tests.models.tiny import tiny_folder
from tests.tasks.small import BEN, FRANCE, small_task
from tests.tasks.tokenizers import byte_level

# Fifty items, by day a third of them: with a context and without, with a delimiter and without, of
# one token and more.
FIFTY = {"facts": 15, "arithmetic": 12, "brackets": 12, "kv-words": 11}
SUITES = FIFTY if LONG else {name: -(-limit // 3) for name, limit in FIFTY.items()}
# A real model takes its time: enough items that some are answered rightly and some are not.
SHORT = {"facts": 1, "arithmetic": 5, "brackets": 1}
MODELS = [
    pytest.param(("llama", False), id="llama"),
    pytest.param(("llama", True), id="llama, BOS"),
    pytest.param(("gpt2", False), id="gpt2"),
    pytest.param(("gpt2", True), id="gpt2, BOS"),
    pytest.param("smollm2-135m", id="smollm2", marks=[pytest.mark.smollm2, pytest.mark.long]),
]


@dataclass(frozen=True)
class Both:
    """One model here and in the harness, what both are asked, and whether it can answer."""

    model: Any
    lm: Any
    tasks: tuple[Task, ...]
    able: bool

    @property
    def n_items(self) -> int:
        return sum(len(task.items) for task in self.tasks)


@dataclass(frozen=True)
class Answer:
    """What both sides say about one item."""

    task: Task
    item: Item
    requests: tuple[TaskRequest, ...]
    outcomes: Sequence[Outcome]
    sample: Sample


@pytest.fixture(scope="module", autouse=True)
def offline() -> Iterator[None]:
    """The variables of these names are read when the libraries are imported, which they are."""
    import datasets.config
    import huggingface_hub.constants

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
        patch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
        yield


@pytest.fixture(scope="module", params=MODELS)
def both(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Both:
    if isinstance(request.param, str):
        tasks = [load_task(name, limit=limit, fewshot=1) for name, limit in SHORT.items()]
        folder = find_source(request.param).folder
        return Both(smollm2(), harness_model(folder), tuple(tasks), able=True)
    family, bos = request.param
    room = {"n_positions" if family == "gpt2" else "max_position_embeddings": 1024}
    folder = tiny_folder(tmp_path_factory.mktemp("models"), family, bos=bos, **room)
    tasks = [load_task(name, limit=limit, fewshot=1) for name, limit in SUITES.items()]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LAYERWISE_CACHE", str(tmp_path_factory.mktemp("cache")))
        model = load_model(folder)
    return Both(model, harness_model(folder), tuple(map(often_stopped, tasks)), able=False)


def often_stopped(task: Task) -> Task:
    """Random weights hardly ever write a task's own stop strings."""
    spec = task.generate
    return replace(task, generate=replace(spec, stop=(*spec.stop, "e", " is"), max_tokens=12))


def answers(both: Both, protocol: str) -> Iterator[Answer]:
    tokenizer = original_tokenizer(both.model)
    for task in both.tasks:
        asked = [build_requests(task, item, protocol, tokenizer) for item in task.items]
        requests = [one.request for each in asked for one in each]
        outcomes = iter(sweep(both.model, [intact()], requests).outcomes[0])
        samples = ask_harness(both.lm, task, protocol, asked)
        for item, each, sample in zip(task.items, asked, samples, strict=True):
            yield Answer(task, item, each, [next(outcomes) for _ in each], sample)


@pytest.mark.parametrize("protocol", ["letter", "continuation"])
def test_likelihoods_and_choices_are_the_harness_own(both: Both, protocol: str) -> None:
    found = list(answers(both, protocol))
    for one in found:
        for asked, ours, strings, theirs in zip(
            one.requests, one.outcomes, one.sample.arguments, one.sample.responses, strict=True
        ):
            assert (asked.context, asked.continuation) == strings
            assert_same_tokens(both.lm, asked)
            assert isinstance(asked.request, LogLikelihood)
            assert_same_likelihood(both.lm, asked.request, ours, theirs)
        assert_same_choice(one.task, one.item, protocol, one.outcomes, one.sample.metrics)
    assert len(found) == both.n_items
    assert {one.sample.metrics["acc"] for one in found} == {0.0, 1.0}


def test_texts_and_matches_are_the_harness_own(both: Both) -> None:
    found = list(answers(both, "generate"))
    at_length, right = set(), set()
    for one in found:
        (asked,), (ours,) = one.requests, one.outcomes
        assert isinstance(asked.request, Generate)
        assert one.sample.arguments[0][0] == asked.context
        assert_same_tokens(both.lm, asked)
        assert_same_text(both.lm, asked.request, ours, one.sample.responses[0])
        correct = score(one.task, one.item, "generate", one.requests, one.outcomes).correct
        assert correct == (one.sample.metrics["exact_match"] == 1)
        assert isinstance(ours, Generated)
        at_length.add(len(ours.tokens) == one.task.generate.max_tokens)
        right.add(correct)
    assert len(found) == both.n_items
    # Both ways to end a text were compared, and with real weights both ways to be scored.
    assert (right if both.able else at_length) == {False, True}
    assert False in at_length


def test_another_text_is_not_excused(both: Both) -> None:
    task = both.tasks[0]
    (asked,) = build_requests(task, task.items[0], "generate", original_tokenizer(both.model))
    assert isinstance(asked.request, Generate)
    (ours,) = sweep(both.model, [intact()], [asked.request]).outcomes[0]
    assert isinstance(ours, Generated)
    with pytest.raises(AssertionError, match="nats apart"):
        assert_same_text(both.lm, asked.request, ours, "~" + ours.text)


def assert_same_choice(
    task: Task, item: Item, protocol: str, outcomes: Sequence[Outcome], metrics: dict[str, float]
) -> None:
    asked = build_requests(task, item, protocol, byte_level())
    ours = score(task, item, protocol, asked, outcomes)
    assert (ours.correct, ours.correct_norm) == (metrics["acc"] == 1, metrics["acc_norm"] == 1)


@functools.cache
def multiple_choice() -> Any:
    asked = [build_requests(TASK, item, "continuation", byte_level()) for item in TASK.items]
    return harness_task(TASK, "continuation", asked)


TASK = small_task(fewshot=())
options = st.lists(st.text("aé東", min_size=1, max_size=6), min_size=2, max_size=5, unique=True)


@pytest.mark.parametrize("protocol", ["letter", "continuation"])
@given(choices=options, data=st.data())
def test_any_likelihoods_are_scored_as_by_the_harness(protocol, choices, data):
    """Ties too; and lengths in characters, of which some are several bytes."""
    item = replace(FRANCE, choices=tuple(choices), answer=data.draw(st.sampled_from(choices)))
    logprobs = [data.draw(st.integers(-12, 0).map(float)) for _ in choices]
    asked = build_requests(TASK, item, protocol, byte_level())
    metrics = multiple_choice().process_results(
        document(item, protocol, asked), [(value, False) for value in logprobs]
    )
    outcomes = [Scored((value,), (False,)) for value in logprobs]
    assert_same_choice(TASK, item, protocol, outcomes, metrics)


def test_acc_norm_of_the_harness_is_per_character_not_per_byte() -> None:
    item = replace(FRANCE, choices=("ééé", "Paris"))
    asked = build_requests(TASK, item, "continuation", byte_level())
    metrics = multiple_choice().process_results(
        document(item, "continuation", asked), [(-3.3, False), (-5.2, False)]
    )
    assert (metrics["acc_norm"], metrics["acc_bytes"]) == (1.0, 0.0)


@pytest.mark.parametrize(
    ("extractor", "answer", "texts"),
    [
        (
            "first_line",
            "Anna",
            [" Anna", " Anna A.", "  ANNA!\nBen", " Ben", "", "An na"],
        ),
        ("integer", "14", ["14", " $14.", "14 + 1", "is -14", "fourteen", "", "1 4", "15, 14"]),
        ("symbols", ") ] )", [" ) ] )", ")])", ") ] ) ]", ") ]", "", ") ] )\n)"]),
    ],
)
def test_texts_by_hand_match_as_in_the_harness(extractor, answer, texts):
    ben = replace(BEN, answer=answer, choices=(answer, "Ben"))
    items = tuple(replace(ben, id=f"small/{number}") for number in range(len(texts)))
    spec = replace(TASK.generate, extractor=extractor)
    task = replace(TASK, items=items, generate=spec)
    asked = [build_requests(task, item, "generate", byte_level()) for item in items]
    samples = ask_harness(saying(texts), task, "generate", asked)
    for item, each, text, sample in zip(items, asked, texts, samples, strict=True):
        correct = score(task, item, "generate", each, [Generated((1,), text)]).correct
        assert correct == (sample.metrics["exact_match"] == 1), text
    assert {sample.metrics["exact_match"] for sample in samples} == {0.0, 1.0}


NATS = 1e-3
TIE = 1e-4


def assert_same_tokens(lm: Any, asked: TaskRequest) -> None:
    """From the same strings the harness makes the same token ids."""
    request = asked.request
    if isinstance(request, Generate):
        assert lm.tok_batch_encode([asked.context])[0].tolist() == [list(request.context)]
    else:
        pair = lm._encode_pair(asked.context, asked.continuation)
        assert tuple(map(tuple, pair)) == (request.context, request.continuation)


def assert_same_likelihood(
    lm: Any, request: LogLikelihood, ours: Outcome, theirs: tuple[float, bool]
) -> None:
    """The same log-likelihood, and the same verdict whether the continuation is greedy."""
    assert isinstance(ours, Scored)
    assert ours.logprob == pytest.approx(theirs[0], abs=NATS, rel=0)
    if ours.greedy != theirs[1]:
        begun = [request.continuation[:n] for n in range(len(request.continuation))]
        apart = min(gap(lm, request.context + tokens) for tokens in begun)
        assert apart < TIE, f"{request}: the best two are {apart} nats apart"


def assert_same_text(lm: Any, request: Generate, ours: Outcome, theirs: str) -> None:
    """The same text, cut at the same stop string."""
    assert isinstance(ours, Generated)
    if ours.text != theirs:
        same = tokens_in_common(lm.tokenizer, ours.tokens, theirs)
        apart = gap(lm, request.context + ours.tokens[:same])
        assert apart < TIE, f"{ours.text!r}, not {theirs!r}: the best two are {apart} nats apart"


def tokens_in_common(tokenizer: Any, tokens: Sequence[int], text: str) -> int:
    """How many of the tokens ``text`` begins with."""
    for n in range(1, len(tokens) + 1):
        begun = tokenizer.decode(tokens[:n], skip_special_tokens=True)
        # The last character may lack bytes that later tokens bring.
        if not text.startswith(begun.rstrip("\ufffd")):
            return n - 1
    return len(tokens)


def gap(lm: Any, tokens: Sequence[int]) -> float:
    """By how many nats the best next token is ahead of the second in the harness's model."""
    with torch.inference_mode():
        logits = lm.model(torch.tensor([tokens])).logits[0, -1]
    best = logits.float().log_softmax(-1).topk(2).values
    return float(best[0] - best[1])
