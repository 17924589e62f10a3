"""The benchmarks: where the items of each stand, how a row becomes one, and how it is asked.

Each has a reader of the fields that its authors publish. How files are found is in ``source``.
"""

from __future__ import annotations

import ast
import json
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import numpy as np

from layerwise.tasks.items import Capability, Corruption, Item
from layerwise.tasks.task import GenerateSpec, Template

Row = dict[str, Any]
Items = Callable[[Sequence[Row], np.random.Generator], Iterator[Item]]
N_OPTIONS = 4
# Of more facts than this, so many are looked at for the options and the twin of each.
_MOST_TRIED = 100
_OPTION = re.compile(r"(?i)\b[a-e] ?\) ?(.*?) ?(?=, ?[a-e] ?\)|$)")


def gsm8k(row: Row) -> Item:
    """A word problem with its worked answer."""
    worked, mark, answer = row["answer"].rpartition("####")
    if not mark:
        raise ValueError("an answer without ####")
    return _item(row["question"], answer, worked=f"{worked.strip()}\n#### {answer.strip()}")


def svamp(row: Row) -> Item:
    """A one-step word problem."""
    story = row["Body"].strip().rstrip(".")
    return _item(f"{story}. {row['Question']}", f"{float(row['Answer']):g}")


def mmlu(row: Row) -> Item:
    """A question with four options; the answer is a place from 0, or a letter."""
    options = [row[f"choice{place}"] for place in range(N_OPTIONS)]
    return _choice(row["question"], options, "0123ABCD".index(row["answer"].strip()) % N_OPTIONS)


def hellaswag(row: Row) -> Item:
    """The beginning of a text with four endings."""
    begun = row["ctx"]
    if "activity_label" in row:
        begun = f"{row['activity_label']}: {row['ctx_a']} {row['ctx_b'].capitalize()}"
    return _choice(_plain(begun), list(map(_plain, row["endings"])), int(row["label"]))


def _plain(text: str) -> str:
    """A text of WikiHow without its marks, as lm-evaluation-harness has it."""
    text = re.sub(r"\[.*?\]", "", text.strip().replace(" [title]", ". "))
    return text.replace("  ", " ")


def openbookqa(row: Row) -> Item:
    """A science question, as published or rendered as an instruction."""
    if "instruction" not in row:
        question, choices = row["question"], row["question"]["choices"]
        right = [choice["label"] for choice in choices].index(row["answerKey"])
        return _choice(question["stem"], [choice["text"] for choice in choices], right)
    question, _, options = row["instruction"].partition("\n\nAnswer1: ")
    texts = re.split(r" Answer\d: ", options.partition("\n\n")[0])
    return _choice(question.partition(": ")[2], texts, int(row["answer"][-1]) - 1)


def openbookqa_facts(rows: Sequence[Row], _: np.random.Generator) -> Iterator[Item]:
    """The same questions behind the fact that each is about, paired with those without."""
    for number, row in enumerate(rows):
        fact = row["fact1"].strip()
        yield replace(openbookqa(row), context=fact, pair=f"openbookqa/{number:04d}")


def mathqa(row: Row) -> Item:
    """A problem with five options, as published or rendered as an instruction."""
    if "instruction" in row:
        question, _, options = row["instruction"].partition(" The options: ")
        answer = row["answer"]
    else:
        question, options, answer = row["Problem"], row["options"], row["correct"]
    if options.startswith("["):
        options = ", ".join(ast.literal_eval(options))
    return _choice(question, _OPTION.findall(options), "abcde".index(answer.lower()))


def truthfulqa(row: Row) -> Item:
    """A question with one true answer among false ones, which the file puts first (mc1)."""
    targets = {text: right for text, right in row["mc1_targets"].items() if text.strip()}
    return _choice(row["question"], list(targets), list(targets.values()).index(1))


def key_values(rows: Sequence[Row], rng: np.random.Generator) -> Iterator[Item]:
    """Look-ups among pairs of identifiers; the twin asks for another key of them."""
    for row in rows:
        pairs, value = dict(row["ordered_kv_records"]), row["value"]
        others = [key for key in pairs if pairs[key][0] != value[0]]
        drawn = [others[place] for place in rng.permutation(len(others))[: N_OPTIONS - 1].tolist()]
        context = "JSON data:\n" + json.dumps(pairs, indent=0)
        yield replace(
            _item(f'Key: "{row["key"]}"', value),
            choices=mixed([value, *(pairs[key] for key in drawn)], rng),
            context=context,
            corruption=Corruption(f'Key: "{drawn[0]}"', pairs[drawn[0]], context),
        )


def known_facts(rows: Sequence[Row], rng: np.random.Generator) -> Iterator[Item]:
    """Facts of several relations; the twin is the same sentence about another subject."""
    by_relation: dict[str, list[Item]] = defaultdict(list)
    subjects: dict[str, str] = {}
    for row in rows:
        item = replace(_item(row["prompt"], row["attribute"]), group=row["relation_id"])
        by_relation[row["relation_id"]].append(item)
        subjects.setdefault(item.question, row["subject"])
    for items in by_relation.values():
        yield from _with_others(items, lambda item: subjects[item.question], rng)


def relation(rows: Sequence[Row], rng: np.random.Generator) -> Iterator[Item]:
    """Facts of one relation; a subject's further objects are other spellings of its answer."""
    (row,) = rows
    pattern = row["prompt_templates"][0]
    objects: dict[str, list[str]] = defaultdict(list)
    for sample in row["samples"]:
        objects[sample["subject"]].append(str(sample["object"]))
    subjects = {pattern.format(subject): subject for subject in objects}
    items = [
        replace(_item(pattern.format(subject), first), aliases=tuple(more))
        for subject, (first, *more) in objects.items()
    ]
    yield from _with_others(items, lambda item: subjects[item.question], rng)


def _with_others(
    items: Sequence[Item], subject: Callable[[Item], str], rng: np.random.Generator
) -> Iterator[Item]:
    """Facts of one relation with other facts' answers as options, and one of them as the twin."""
    for item in items:
        right = {item.answer, *item.aliases}
        # In proportion to how often each is an answer, so that no option is a rarer one.
        drawn = (items[place] for place in rng.permutation(len(items)).tolist())
        others = (item for item in drawn if right.isdisjoint((item.answer, *item.aliases)))
        tried = list(islice(others, _MOST_TRIED))
        wrong = list(dict.fromkeys(item.answer for item in tried))[: N_OPTIONS - 1]
        if wrong:
            twin = _twin(item, subject(item), tried, subject)
            yield replace(item, choices=mixed([item.answer, *wrong], rng), corruption=twin)


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


def mixed(options: list[str] | tuple[str, ...], rng: np.random.Generator) -> tuple[str, ...]:
    """Options in a random order."""
    return tuple(options[place] for place in rng.permutation(len(options)).tolist())


def _choice(question: str, options: Sequence[str], right: int) -> Item:
    texts = tuple(text.strip() for text in options)
    return replace(_item(question, texts[right]), choices=texts)


def _item(question: str, answer: str, worked: str | None = None) -> Item:
    """An item whose id its file gives it."""
    return Item("", question.strip(), answer.strip(), worked=worked)


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


def _each(item: Callable[[Row], Item]) -> Items:
    """A reader of rows that knows one row at a time."""
    return lambda rows, _: map(item, rows)


BENCHMARKS: dict[str, Benchmark] = {
    "gsm8k": Benchmark(
        "reasoning", "grade-school word problems, worked out (Cobbe et al. 2021)",
        ("test.jsonl",), _each(gsm8k), dev=("train.jsonl",), fewshot=_FIVE,
        generate=GenerateSpec(("Question:",), 256, "final_number"),
    ),
    "svamp": Benchmark(
        "reasoning", "one-step word problems (Patel et al. 2021)",
        ("SVAMP.json",), _each(svamp), fewshot=_FIVE,
        generate=GenerateSpec(("\n",), 16, "final_number"),
    ),
    "mathqa": Benchmark(
        "reasoning", "maths problems with five options (Amini et al. 2019)",
        ("test.json",), _each(mathqa),
    ),
    "mmlu": Benchmark(
        "knowledge", "exam questions of many subjects (Hendrycks et al. 2021)",
        ("test/{part}_test.csv", "test/{part}.csv"), _each(mmlu), part="subject",
        dev=("dev/{part}_dev.csv", "dev/{part}.csv"), fewshot=_FIVE,
    ),
    "openbookqa": Benchmark(
        "knowledge", "elementary science questions (Mihaylov et al. 2018)",
        ("test.jsonl", "Main/test.jsonl", "test.json"), _each(openbookqa),
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
        ("mc_task.json",), _each(truthfulqa), mix=True,
        template=Template(question_prefix="Q: ", answer_cue="\nA:"),
    ),
    "hellaswag": Benchmark(
        "coherence", "which ending continues a text (Zellers et al. 2019)",
        ("hellaswag_val.jsonl", "validation*.jsonl"), _each(hellaswag),
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
