"""The benchmarks: where the items of each stand, how a row becomes one, and how it is asked.

Each has a reader of the fields that its authors publish. How files are found is in ``source``.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np

from layerwise.errors import count_noun, short_repr
from layerwise.tasks.items import Capability, Corruption, Item
from layerwise.tasks.right_option import LETTERS, Reading, right_option
from layerwise.tasks.task import GenerateSpec, Template

from .rows import (
    Row,
    field,
    lettered_options,
    number,
    object_list,
    scalar_text,
    subject_template,
    texts,
    without_marks,
    worked_answer,
)

Items = Callable[[Iterable[Row], np.random.Generator], Iterator[Item]]
N_OPTIONS = 4
# Of more facts than this, so many are looked at for the options and the twin of each.
_MOST_TRIED = 100
# Each fact draws among all of its relation.
_MOST_FACTS = 10_000
LETTERED = tuple("abcde")


def gsm8k(row: Row) -> Item:
    """A word problem with its worked answer."""
    worked, answer = worked_answer(row, "answer")
    return _item(field(row, "question"), answer, worked=f"{worked}\n#### {answer}")


def svamp(row: Row) -> Item:
    """A one-step word problem."""
    story = field(row, "Body").strip().rstrip(".")
    return _item(f"{story}. {field(row, 'Question')}", number(row, "Answer"))


def mmlu(row: Row) -> Item:
    """A question with four options; the answer is a place from 0, or a letter."""
    options = [field(row, f"choice{place}") for place in range(N_OPTIONS)]
    return _choice(field(row, "question"), options, row.get("answer"), by=("label", "place"))


def hellaswag(row: Row) -> Item:
    """The beginning of a text with four endings."""
    begun = field(row, "ctx")
    if "activity_label" in row:
        activity, first, second = (
            field(row, name) for name in ("activity_label", "ctx_a", "ctx_b")
        )
        begun = f"{activity}: {first} {second.capitalize()}"
    endings = list(map(without_marks, texts(row, "endings")))
    return _choice(without_marks(begun), endings, row.get("label"), by=("place",))


def openbookqa(row: Row) -> Item:
    """A science question, as published or rendered as an instruction."""
    if "instruction" not in row:
        question = field(row, "question", dict)
        choices = object_list(question, "choices")
        listed = [field(choice, "text") for choice in choices]
        labels = [field(choice, "label") for choice in choices]
        return _choice(field(question, "stem"), listed, row.get("answerKey"), labels)
    question, _, options = field(row, "instruction").partition("\n\nAnswer1: ")
    first, *rest = re.split(r" Answer(\d): ", options.partition("\n\n")[0])
    labels = [f"answer{n}" for n in ("1", *rest[::2])]
    listed = [first, *rest[1::2]]
    return _choice(question.partition(": ")[2], listed, row.get("answer"), labels)


def openbookqa_facts(rows: Iterable[Row], _: np.random.Generator) -> Iterator[Item]:
    """The same questions behind the fact that each is about, paired with those without."""
    for place, row in enumerate(rows):
        fact = field(row, "fact1").strip()
        if not fact:
            raise ValueError("field 'fact1' is empty; expected a text")
        yield replace(openbookqa(row), context=fact, pair=f"openbookqa/{place:04d}")


def mathqa(row: Row) -> Item:
    """A problem with five options, as published or rendered as an instruction."""
    if "instruction" in row:
        question, _, options = field(row, "instruction").partition(" The options: ")
        answer = field(row, "answer")
    else:
        question, options, answer = (field(row, name) for name in ("Problem", "options", "correct"))
    labels, listed = lettered_options(options)
    letter = answer.strip().lower()
    if letter not in LETTERED:
        raise ValueError(
            f"the answer is {short_repr(answer)}; expected one of {', '.join(LETTERED)}"
        )
    # Some rows have an option's letter within another option, or not at all.
    return _choice(question, listed, letter, labels) if labels.count(letter) == 1 else _NOTHING


def truthfulqa(row: Row) -> Item:
    """A question with one true answer among false ones, which the file puts first (mc1)."""
    targets = field(row, "mc1_targets", dict)
    if any(value not in (0, 1) or isinstance(value, bool) for value in targets.values()):
        raise ValueError(
            f"field 'mc1_targets' is {short_repr(targets)}; expected 0 or 1 for each text"
        )
    right = [text for text, value in targets.items() if value]
    if len(right) != 1:
        raise ValueError(
            f"field 'mc1_targets' has {count_noun(len(right), 'true answer')}, not one"
        )
    listed = [text for text in targets if text.strip()]
    if not right[0].strip():
        return _NOTHING
    return _choice(field(row, "question"), listed, listed.index(right[0]), by=("place",))


def key_values(rows: Iterable[Row], rng: np.random.Generator) -> Iterator[Item]:
    """Look-ups among pairs of identifiers; the twin asks for another key of them."""
    for row in rows:
        records, key, value = _pairs(row), field(row, "key"), field(row, "value")
        if records.get(key) != value or not value:
            raise ValueError(
                f"the value {short_repr(value)} is not that of the key {short_repr(key)}"
            )
        others = [other for other in records if records[other][:1] != value[0]]
        if not others:
            raise ValueError("field 'ordered_kv_records' has no value that begins otherwise")
        drawn = [others[place] for place in rng.permutation(len(others))[: N_OPTIONS - 1].tolist()]
        context = "JSON data:\n" + json.dumps(records, indent=0)
        yield replace(
            _item(f'Key: "{key}"', value),
            choices=shuffle_options([value, *(records[other] for other in drawn)], rng),
            context=context,
            corruption=Corruption(f'Key: "{drawn[0]}"', records[drawn[0]], context),
        )


def _pairs(row: Row) -> dict[str, str]:
    """The keys of a row with their values, each key once."""
    listed = field(row, "ordered_kv_records", list)
    for pair in listed:
        if not (
            isinstance(pair, list) and len(pair) == 2 and all(isinstance(t, str) for t in pair)
        ):
            raise ValueError(
                f"field 'ordered_kv_records' has {short_repr(pair)}; expected two texts"
            )
    pairs = dict(listed)
    if len(pairs) < len(listed):
        raise ValueError("field 'ordered_kv_records' has a key twice")
    return pairs


def known_facts(rows: Iterable[Row], rng: np.random.Generator) -> Iterator[Item]:
    """Facts of several relations; the twin is the same sentence about another subject."""
    by_relation: dict[str, list[Item]] = defaultdict(list)
    subjects: dict[str, str] = {}
    for row in rows:
        prompt, answer, name = (field(row, one) for one in ("prompt", "attribute", "relation_id"))
        subject = field(row, "subject")
        if not (subject.strip() and answer.strip() and prompt.strip()):
            yield _NOTHING
            continue
        item = replace(_item(prompt, answer), group=name)
        by_relation[name].append(item)
        subjects.setdefault(item.question, subject)
    for items in by_relation.values():
        yield from _with_other_answers(items, lambda item: subjects[item.question], rng)


def relation(rows: Iterable[Row], rng: np.random.Generator) -> Iterator[Item]:
    """Facts of one relation; a subject's further objects are other spellings of its answer."""
    (row,) = rows
    pattern = subject_template(row, "prompt_templates")
    objects: dict[str, list[str]] = defaultdict(list)
    for sample in object_list(row, "samples"):
        subject, answer = field(sample, "subject"), scalar_text(sample, "object")
        if subject.strip() and answer.strip():
            objects[subject].append(answer)
        else:
            yield _NOTHING
    subjects = {pattern.replace("{}", subject): subject for subject in objects}
    items = [
        replace(_item(pattern.replace("{}", subject), first), aliases=tuple(more))
        for subject, (first, *more) in objects.items()
    ]
    yield from _with_other_answers(items, lambda item: subjects[item.question], rng)


def _with_other_answers(
    items: Sequence[Item], subject: Callable[[Item], str], rng: np.random.Generator
) -> Iterator[Item]:
    """Facts of one relation with other facts' answers as options, and one of them as the twin."""
    if len(items) > _MOST_FACTS:
        raise ValueError(f"{len(items):,} facts of one relation; expected at most {_MOST_FACTS:,}")
    for item in items:
        right = {item.answer, *item.aliases}
        # In proportion to how often each is an answer, so that no option is a rarer one.
        drawn = (items[place] for place in rng.permutation(len(items)).tolist())
        others = (item for item in drawn if right.isdisjoint((item.answer, *item.aliases)))
        tried = list(islice(others, _MOST_TRIED))
        wrong = list(dict.fromkeys(item.answer for item in tried))[: N_OPTIONS - 1]
        if wrong:
            twin = _twin(item, subject(item), tried, subject)
            yield replace(
                item, choices=shuffle_options([item.answer, *wrong], rng), corruption=twin
            )


def _twin(
    item: Item, own: str, others: Sequence[Item], subject: Callable[[Item], str]
) -> Corruption | None:
    """The question about the subject that is most like the item's own in length."""
    apart = [other for other in others if other.answer[0].casefold() != item.answer[0].casefold()]
    if own not in item.question or not apart:
        return None

    def unlike(other: Item) -> tuple[int, int]:
        name = subject(other)
        return abs(len(name.split()) - len(own.split())), abs(len(name) - len(own))

    best = min(apart, key=unlike)
    return Corruption(item.question.replace(own, subject(best)), best.answer)


def shuffle_options(
    options: list[str] | tuple[str, ...], rng: np.random.Generator
) -> tuple[str, ...]:
    """Options in a random order."""
    return tuple(options[place] for place in rng.permutation(len(options)).tolist())


def _choice(
    question: str,
    options: Sequence[str],
    answer: object,
    labels: Sequence[str] = LETTERS,
    by: Sequence[Reading] = ("label",),
) -> Item:
    """A question whose answer names one of its options, in the ways that its file has."""
    if len(options) < 2:
        return _NOTHING
    try:
        right = right_option(answer, options, labels, by)
    except ValueError as error:
        raise ValueError(f"the answer is {error}") from error
    listed = tuple(text.strip() for text in options)
    return replace(_item(question, listed[right]), choices=listed)


def _item(question: str, answer: str, worked: str | None = None) -> Item:
    """An item whose id its file gives it."""
    return Item("", question.strip(), answer.strip(), worked=worked)


_NOTHING = Item("", "", "")
"""The item of a row that cannot be asked."""

_QUESTION = Template(question_prefix="Question: ", answer_cue="\nAnswer:")
_FACT = Template(separator="\n")
# Examples of Hendrycks et al. 2021 and Cobbe et al. 2021; lm-evaluation-harness has as many.
_FIVE = 5


@dataclass(frozen=True)
class Benchmark:
    """A benchmark: where its items stand in a folder, and how they are put to a model."""

    capability: Capability
    description: str  # one line
    # Patterns of its file, of which the first that matches is read; ``{part}`` stands for a part.
    files: tuple[str, ...]
    items: Items  # makes items of a file's rows
    part: str | None = None  # the argument that names one of its parts, such as ``subject``
    dev: tuple[str, ...] = ()  # as ``files``, of its examples; without, they are its last rows
    fewshot: int = 0  # how many examples it has if nobody says
    template: Template = _QUESTION
    generate: GenerateSpec | None = None  # how it is written; None for one line
    mix: bool = False  # whether its file has the right option at a fixed place


def _by_row(item: Callable[[Row], Item]) -> Items:
    """A reader of rows that knows one row at a time."""
    return lambda rows, _: map(item, rows)


BENCHMARKS: dict[str, Benchmark] = {
    "gsm8k": Benchmark(
        "reasoning", "grade-school word problems, worked out (Cobbe et al. 2021)",
        ("test.jsonl",), _by_row(gsm8k), dev=("train.jsonl",), fewshot=_FIVE,
        generate=GenerateSpec(("Question:",), 256, "final_number"),
    ),
    "svamp": Benchmark(
        "reasoning", "one-step word problems (Patel et al. 2021)",
        ("SVAMP.json",), _by_row(svamp), fewshot=_FIVE,
        generate=GenerateSpec(("\n",), 16, "final_number"),
    ),
    "mathqa": Benchmark(
        "reasoning", "maths problems with five options (Amini et al. 2019)",
        ("test.json",), _by_row(mathqa),
    ),
    "mmlu": Benchmark(
        "knowledge", "exam questions of many subjects (Hendrycks et al. 2021)",
        ("test/{part}_test.csv", "test/{part}.csv"), _by_row(mmlu), part="subject",
        dev=("dev/{part}_dev.csv", "dev/{part}.csv"), fewshot=_FIVE,
    ),
    "openbookqa": Benchmark(
        "knowledge", "elementary science questions (Mihaylov et al. 2018)",
        ("test.jsonl", "Main/test.jsonl", "test.json"), _by_row(openbookqa),
        template=Template(),
    ),
    "openbookqa_facts": Benchmark(
        "retrieval", "the questions of openbookqa, each behind the fact that it is about",
        tuple(f"{folder}test_complete.jsonl"
              for folder in ("", "Additional/", "openbookqa/", "openbookqa/Additional/")),
        openbookqa_facts, template=Template(),
    ),
    "truthfulqa": Benchmark(
        "knowledge", "one true answer among common errors, mc1 (Lin et al. 2022)",
        ("mc_task.json",), _by_row(truthfulqa), mix=True,
        template=Template(question_prefix="Q: ", answer_cue="\nA:"),
    ),
    "hellaswag": Benchmark(
        "coherence", "which ending continues a text (Zellers et al. 2019)",
        ("hellaswag_val.jsonl", "validation*.jsonl"), _by_row(hellaswag),
        template=Template(),
    ),
    "kv_retrieval": Benchmark(
        "retrieval", "pairs of identifiers, one looked up (Liu et al. 2023)",
        ("kv-retrieval-*.jsonl",), key_values,
        # Behind a quotation mark, so that answers do not all begin with the same token.
        template=Template(
            answer_cue='\nCorresponding value: "', delimiter="", answer_end='"', context_end="\n\n"
        ),
    ),
    "known_1000": Benchmark(
        "knowledge", "facts that GPT-2 XL knows (Meng et al. 2022)",
        ("known_1000.json",), known_facts, fewshot=_FIVE, template=_FACT,
    ),
    "relations": Benchmark(
        "knowledge", "subjects and objects of relations (Hernandez et al. 2024)",
        ("*/{part}.json", "{part}.json", "{part}/*.json"), relation, part="relation",
        fewshot=_FIVE, template=_FACT,
    ),
}  # fmt: skip
