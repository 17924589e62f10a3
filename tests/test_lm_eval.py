"""Agreement with lm-evaluation-harness: the same items and weights, each side's own code."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from layerwise.models import load_model, original_tokenizer
from layerwise.sweep import Generated, LogLikelihood, Scored, intact, sweep
from layerwise.sweep.requests import Outcome
from layerwise.tasks import Item, Score, Task, TaskRequest, build_requests, load_task, score
from tests.cases import LONG
from tests.harness import (
    Sample,
    ask_harness,
    document,
    harness_model,
    harness_task,
    model_that_says,
)
from tests.models.tiny import tiny_folder
from tests.tasks.small import BEN, FRANCE, small_task
from tests.tasks.tokenizers import byte_level

# With a context and without, with a delimiter and without, of one token and more.
FIFTY = {"facts": 15, "arithmetic": 12, "brackets": 12, "kv-words": 11}
SUITES = FIFTY if LONG else {name: -(-limit // 3) for name, limit in FIFTY.items()}
NATS = 1e-3


@dataclass(frozen=True)
class Answer:
    """Answers of both sides to one item."""

    item: Item
    requests: tuple[TaskRequest, ...]
    outcomes: Sequence[Outcome]
    score: Score
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


@pytest.fixture(scope="module", params=["llama", "gpt2"])
def model_here_and_harness(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Any:
    """One model here and in the harness; one of them puts BOS first."""
    family, bos = request.param, request.param == "llama"
    room = {"n_positions" if family == "gpt2" else "max_position_embeddings": 1024}
    folder = tiny_folder(tmp_path_factory.mktemp("models"), family, bos=bos, **room)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LAYERWISE_CACHE", str(tmp_path_factory.mktemp("cache")))
        return load_model(folder), harness_model(folder)


def with_common_stops(task: Task) -> Task:
    """Random weights hardly ever write a task's own stop strings."""
    spec = task.generate
    return replace(task, generate=replace(spec, stop=(*spec.stop, "e", " is"), max_tokens=12))


def answers(both: tuple[Any, Any], protocol: str) -> Iterator[Answer]:
    model, lm = both
    for name, limit in SUITES.items():
        task = with_common_stops(load_task(name, limit=limit, fewshot=1))
        tokenizer = original_tokenizer(model)
        asked = [build_requests(task, item, protocol, tokenizer) for item in task.items]
        requests = [one.request for each in asked for one in each]
        outcomes = iter(sweep(model, [intact()], requests).outcomes[0])
        samples = ask_harness(lm, task, protocol, asked)
        for item, each, sample in zip(task.items, asked, samples, strict=True):
            own = [next(outcomes) for _ in each]
            yield Answer(item, each, own, score(task, item, protocol, each, own), sample)


@pytest.mark.long(but=["llama-letter", "gpt2-continuation"])
@pytest.mark.parametrize("protocol", ["letter", "continuation"])
def test_likelihoods_and_choices_are_the_harness_own(
    model_here_and_harness: Any, protocol: str
) -> None:
    found = list(answers(model_here_and_harness, protocol))
    for one in found:
        for asked, ours, strings, theirs in zip(
            one.requests, one.outcomes, one.sample.arguments, one.sample.responses, strict=True
        ):
            assert (asked.context, asked.continuation) == strings
            assert isinstance(asked.request, LogLikelihood)
            assert isinstance(ours, Scored)
            pair = model_here_and_harness[1]._encode_pair(asked.context, asked.continuation)
            assert tuple(map(tuple, pair)) == (asked.request.context, asked.request.continuation)
            assert (ours.logprob, ours.greedy) == (pytest.approx(theirs[0], abs=NATS), theirs[1])
        metrics = one.sample.metrics
        assert one.score.correct == (metrics["acc"] == 1)
        assert one.score.correct_norm == (metrics["acc_norm"] == 1)
    assert len(found) == sum(SUITES.values())
    assert {one.score.correct for one in found} == {False, True}


def test_texts_and_matches_are_the_harness_own(model_here_and_harness: Any) -> None:
    at_length = set()
    for one in answers(model_here_and_harness, "generate"):
        (asked,), (ours,) = one.requests, one.outcomes
        assert isinstance(ours, Generated)
        assert one.sample.arguments[0][0] == asked.context
        encoded = model_here_and_harness[1].tok_batch_encode([asked.context])[0].tolist()
        assert encoded == [list(asked.request.context)]
        assert ours.text == one.sample.responses[0]
        assert one.score.correct == (one.sample.metrics["exact_match"] == 1)
        at_length.add(len(ours.tokens) == 12)
    assert at_length == {False, True}  # both ways to end a text


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
    ours = score(TASK, item, protocol, asked, outcomes)
    assert (ours.correct, ours.correct_norm) == (metrics["acc"] == 1, metrics["acc_norm"] == 1)


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
    samples = ask_harness(model_that_says(texts), task, "generate", asked)
    for item, each, text, sample in zip(items, asked, texts, samples, strict=True):
        correct = score(task, item, "generate", each, [Generated((1,), text)]).correct
        assert correct == (sample.metrics["exact_match"] == 1), text
    assert {sample.metrics["exact_match"] for sample in samples} == {0.0, 1.0}
