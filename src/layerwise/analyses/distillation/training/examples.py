"""Training examples: prompts of unmeasured items with answers, or a file's texts.

A model is run only where the teacher answers.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from layerwise import stats
from layerwise.analyses.shared.texts import MOST_SEEDS, Texts, pieces_of_file, split_texts
from layerwise.errors import UserError
from layerwise.models.instance.kinds import is_seq2seq
from layerwise.runs.setup import Setup
from layerwise.sweep import Generate, Generated, Scored, intact
from layerwise.sweep.requests import Outcome, Tokens
from layerwise.tasks import Task, TaskRequest, load_task
from layerwise.tasks._encoding import encode_pair
from layerwise.tasks.items import Item
from layerwise.tasks.registry import is_from_suite

# Items that share their few-shot examples.
TOGETHER = 12


class Example(NamedTuple):
    """A tokenised training text with its targets."""

    tokens: Tokens  # token ids
    n_prompt: int  # how many stand before the targets; an encoder reads these
    n_given: int  # how many are given when the student writes the rest itself
    most: int  # at most so many tokens are written then
    stop: tuple[str, ...] = ()  # strings that end what is written

    @property
    def prompt(self) -> Tokens:
        """Tokens before the targets."""
        return self.tokens[: self.n_prompt]

    @property
    def given_tokens(self) -> Tokens:
        """Tokens that are given when the student writes the rest itself."""
        return self.tokens[: self.n_given]

    @property
    def targets(self) -> Tokens:
        """Tokens whose prediction is trained."""
        return self.tokens[self.n_prompt :]


class TrainingQuestion(NamedTuple):
    """An item that is not measured, under one protocol."""

    task: Task  # the task
    item: Item  # the item
    protocol: str  # the protocol
    requests: tuple[TaskRequest, ...]  # its requests to a model


def training_examples(
    setup: Setup, teacher: Setup, text: str | Path | None, n_texts: int, *, by_teacher: bool = False
) -> Texts:
    """Pieces of a file's texts, or prompts of the tasks with their own answers or the teacher's."""
    rng = stats.generator(setup.seed, "texts of the distillation")
    if text is not None:
        groups = [[_piece(*piece) for piece in of] for of in pieces_of_file(Path(text), setup)]
        return split_texts(groups, n_texts, rng, str(Path(text)), "a student")
    n_ctx = min(one.model.cfg.n_ctx for one in (setup, teacher))
    groups = questions_of_tasks(setup, n_texts)
    questions = [question for group in groups for question in group]
    answers = (
        teacher_answers(teacher, setup, questions)
        if by_teacher
        else [task_answer(setup, question) for question in questions]
    )
    has_encoder, left = is_seq2seq(setup.model), iter(answers)
    examples = [
        [one for one in islice(left, len(group)) if one and _length(one, has_encoder) <= n_ctx]
        for group in groups
    ]
    names = ", ".join(dict.fromkeys(question.task.name for question in questions))
    return split_texts(examples, n_texts, rng, f"prompts of {names or 'the tasks'}", "a student")


def _piece(tokens: Tokens, n_prompt: int) -> Example:
    n_given = n_prompt or (len(tokens) + 1) // 2
    return Example(tokens, n_prompt or 1, n_given, len(tokens) - n_given)


def _length(example: Example, has_encoder: bool) -> int:
    """Longest input of an example, also if the student writes the targets itself."""
    n_answer = max(len(example.targets), example.most) + 1
    return (
        max(example.n_prompt, n_answer)
        if has_encoder
        else max(example.n_prompt, example.n_given) + n_answer
    )


def questions_of_tasks(setup: Setup, n_texts: int) -> list[list[TrainingQuestion]]:
    """Questions of other seeds, or left over by a limit, on no fact of a measured item."""
    measured = [item for task in setup.tasks for item in task.items]
    questions = {(item.context, item.question) for item in measured}
    facts = {item.cluster for item in measured if item.cluster is not None}

    def is_fresh(item: Item) -> bool:
        return (item.context, item.question) not in questions and item.cluster not in facts

    suites = [task for task in setup.tasks if is_from_suite(task)]
    groups: list[list[TrainingQuestion]] = []
    for task in setup.tasks:
        if not is_from_suite(task):
            fresh = [item for item in task.unasked if is_fresh(item)]
            cut = [fresh[i : i + TOGETHER] for i in range(0, len(fresh), TOGETHER)]
            groups += [_questions(setup, task, items) for items in cut]
    for seed in range(setup.seed + 1, setup.seed + 1 + MOST_SEEDS):
        if not suites or sum(map(len, groups)) >= n_texts:
            break
        group: list[TrainingQuestion] = []
        for task in suites:
            other = load_task(task.name, seed=seed, fewshot=len(task.fewshot))
            fresh = [item for item in other.items if is_fresh(item)]
            group += _questions(setup, other, fresh[:TOGETHER])
        groups.append(group)
    if not any(groups):
        raise UserError(
            "There are no questions to train a student on: none of the tasks has items beside "
            "those that are measured; give a limit that leaves some over, a built-in task, or a "
            ".txt or .jsonl file with text."
        )
    return groups


def _questions(setup: Setup, task: Task, items: Sequence[Item]) -> list[TrainingQuestion]:
    return [
        TrainingQuestion(task, item, protocol, setup.requests(task, item, protocol))
        for item in items
        for protocol in setup.protocols
    ]


def task_answer(setup: Setup, question: TrainingQuestion) -> Example | None:
    """A question with the task's own answer, ended as few-shot examples are; None if empty."""
    task, protocol = question.task, question.protocol
    gold = next(request for request in question.requests if request.gold)
    answer, ends = gold.continuation or "", False
    if protocol == "generate":
        answer = question.item.worked or question.item.answer
        closing = task.template.answer_end + task.template.separator
        ends = not any(stop in closing for stop in task.generate.stop)
        start = "" if setup.chat else task.template.delimiter
        answer = start + answer + ("" if ends else closing)
    apart = is_seq2seq(setup.model)
    prompt, targets = encode_pair(setup.tokenizer, gold.context, answer, apart=apart)
    return make_example(setup, question, prompt, targets, end=ends) if targets else None


def make_example(
    setup: Setup, question: TrainingQuestion, prompt: Tokens, answer: Tokens, *, end: bool
) -> Example:
    """An example of a prompt and an answer, both as tokens."""
    last = setup.tokenizer.eos_token_id
    targets = (*answer, last) if end and last is not None else answer
    is_free_text = question.protocol == "generate"
    task = question.task
    most, stop = (task.max_tokens, task.generate.stop) if is_free_text else (len(targets), ())
    return Example((*prompt, *targets), len(prompt), len(prompt), most, stop)


def teacher_answers(
    teacher: Setup, student: Setup, questions: Sequence[TrainingQuestion]
) -> list[Example | None]:
    """The teacher's answers: the option that it finds most likely, or what it writes, greedily."""
    requests = [request.request for question in questions for request in question.requests]
    (outcomes,) = teacher.sweep([intact()], requests).outcomes
    answers = iter(outcomes)
    return [
        _answer(student, question, list(islice(answers, len(question.requests))))
        for question in questions
    ]


def _answer(
    setup: Setup, question: TrainingQuestion, outcomes: Sequence[Outcome]
) -> Example | None:
    if question.protocol == "generate":
        (outcome,), (request,) = outcomes, question.requests
        assert isinstance(outcome, Generated)
        assert isinstance(request.request, Generate)
        ended = len(outcome.tokens) < request.request.max_tokens and not any(
            stop in setup.tokenizer.decode(outcome.tokens) for stop in request.request.stop
        )
        prompt, answer = request.request.context, outcome.tokens
        return make_example(setup, question, prompt, answer, end=ended) if answer or ended else None
    options = [
        (outcome.logprob, request.request)
        for outcome, request in zip(outcomes, question.requests, strict=True)
        if isinstance(outcome, Scored) and not isinstance(request.request, Generate)
    ]
    _, best = max(options, key=lambda option: option[0])
    return make_example(setup, question, best.context, best.continuation, end=False)
