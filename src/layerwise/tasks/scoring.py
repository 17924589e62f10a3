"""From outcomes to an item's score, in the terms of lm-evaluation-harness.

``letter`` and ``continuation`` are its ``multiple_choice`` (``acc``, ``acc_norm``),
``generate`` is its ``generate_until`` with exact match; nothing here runs a model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from layerwise.sweep.requests import Generated, Outcome, Scored
from layerwise.tasks._requests import TaskRequest, check_protocol
from layerwise.tasks.extractors import NAMED, extractor, named_answer
from layerwise.tasks.items import Item
from layerwise.tasks.task import Task


@dataclass(frozen=True)
class Score:
    """Scores of one item; columns of the records table (``docs/results.md``).

    Attributes:
        correct: right under the protocol.
        correct_norm: right by log-likelihood over the length of the option's text
            (``acc_norm``); None under ``generate``.
        gold_logprob: log-probability of the gold option, in nats; None under ``generate``.
        margin: ``gold_logprob`` minus that of the best distractor; None under ``generate``.
        early_logprob: mean log-probability per token over the first half of the gold
            option's tokens (a middle token counts as late), in nats; None if there are
            fewer than two, and under ``generate``.
        late_logprob: the same over the second half.
        chosen: place of the option that is taken, from 0; None under ``generate``.
        correct_first: of all tokens, the gold option's first is the most likely one; None under
            ``generate``.
        correct_forced: every token of the gold option is the most likely one after those before
            it (teacher forcing); None under ``generate``.
        generated: the generated text; None under the other protocols.
        extracted: the answer taken from it, normalised; None if there is none.
    """

    correct: bool
    correct_norm: bool | None = None
    gold_logprob: float | None = None
    margin: float | None = None
    early_logprob: float | None = None
    late_logprob: float | None = None
    chosen: int | None = None
    correct_first: bool | None = None
    correct_forced: bool | None = None
    generated: str | None = None
    extracted: str | None = None


def score(
    task: Task,
    item: Item,
    protocol: str,
    requests: Sequence[TaskRequest],
    outcomes: Sequence[Outcome],
) -> Score:
    """Turn the outcomes of an item's requests into its score.

    Args:
        task: where the item is from.
        item: the item.
        protocol: the protocol that the requests were built under.
        requests: what ``build_requests`` made.
        outcomes: one per request, in the same order.

    Raises:
        UserError: an unknown protocol.
        ValueError: outcomes that do not answer these requests.
    """
    check_protocol(protocol)
    kind = Generated if protocol == "generate" else Scored
    if len(requests) != len(outcomes) or not all(isinstance(outcome, kind) for outcome in outcomes):
        raise ValueError(f"Expected {len(requests)} outcomes of type {kind.__name__}.")
    generated = [outcome for outcome in outcomes if isinstance(outcome, Generated)]
    if generated:
        return _exact_match(task, item, generated[0].text)
    scored = [outcome for outcome in outcomes if isinstance(outcome, Scored)]
    return _multiple_choice(item, protocol, [request.gold for request in requests], scored)


def _exact_match(task: Task, item: Item, text: str) -> Score:
    if task.judge is not None:
        correct, extracted = task.judge(item, text)
        return Score(correct=correct, generated=text, extracted=extracted)
    extract = extractor(task.generate.extractor)
    if extract.name == NAMED:
        extracted = named_answer(task.answers.get(item.group, {}), item.question, text)
    else:
        extracted = extract(text)
    right = {extract.normalise(answer) for answer in (item.answer, *item.aliases)}
    return Score(correct=extracted in right, generated=text, extracted=extracted)


def _multiple_choice(
    item: Item, protocol: str, golds: Sequence[bool], outcomes: Sequence[Scored]
) -> Score:
    logprobs = [outcome.logprob for outcome in outcomes]
    gold = golds.index(True)
    right, (early, late) = outcomes[gold], _halves(outcomes[gold].token_logprobs)
    # An answer without distractors is right if it is the greedy text (``loglikelihood``).
    score = Score(
        correct=right.greedy,
        gold_logprob=right.logprob,
        early_logprob=early,
        late_logprob=late,
        correct_first=right.token_greedy[0],
        correct_forced=right.greedy,
    )
    if len(logprobs) == 1:
        return score
    # The text without its delimiter, in characters: what acc_norm of the harness divides by. Where
    # the same text is scored after each option, there is no length to correct for.
    alike = protocol == "letter" or item.ending is not None
    lengths = [1 if alike else len(choice) for choice in item.choices]
    per_length = [value / length for value, length in zip(logprobs, lengths, strict=True)]
    best_distractor = max(value for index, value in enumerate(logprobs) if index != gold)
    chosen = logprobs.index(max(logprobs))
    return replace(
        score,
        correct=chosen == gold,
        correct_norm=per_length.index(max(per_length)) == gold,
        margin=right.logprob - best_distractor,
        chosen=chosen,
    )


def _halves(logprobs: Sequence[float]) -> tuple[float | None, float | None]:
    middle = len(logprobs) // 2
    if middle == 0:
        return None, None
    early, late = logprobs[:middle], logprobs[middle:]
    return sum(early) / len(early), sum(late) / len(late)
