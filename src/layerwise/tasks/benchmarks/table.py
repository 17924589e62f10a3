"""The table of benchmarks: where the items of each stand, and how they are put to a model.

How a row becomes an item is in ``rows``, how files are found and read in ``source``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from layerwise.tasks.items import Capability, Item
from layerwise.tasks.task import GenerateSpec, Template

from . import rows as rows_of
from .rows import Row

_QUESTION = Template(question_prefix="Question: ", answer_cue="\nAnswer:")
_FACT = Template(separator="\n")
# Examples of Hendrycks et al. 2021 and Cobbe et al. 2021; lm-evaluation-harness has as many.
_FIVE = 5

Items = Callable[[Sequence[Row], np.random.Generator], Iterator[Item]]


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
        ("test.jsonl",), _each(rows_of.gsm8k), dev=("train.jsonl",), fewshot=_FIVE,
        generate=GenerateSpec(("Question:",), 256, "final_number"),
    ),
    "svamp": Benchmark(
        "reasoning", "one-step word problems (Patel et al. 2021)",
        ("SVAMP.json",), _each(rows_of.svamp), fewshot=_FIVE,
        generate=GenerateSpec(("\n",), 16, "final_number"),
    ),
    "mathqa": Benchmark(
        "reasoning", "maths problems with five options (Amini et al. 2019)",
        ("test.json",), _each(rows_of.mathqa),
    ),
    "mmlu": Benchmark(
        "knowledge", "exam questions of many subjects (Hendrycks et al. 2021)",
        ("test/{part}_test.csv", "test/{part}.csv"), _each(rows_of.mmlu), part="subject",
        dev=("dev/{part}_dev.csv", "dev/{part}.csv"), fewshot=_FIVE,
    ),
    "openbookqa": Benchmark(
        "knowledge", "elementary science questions (Mihaylov et al. 2018)",
        ("test.jsonl", "Main/test.jsonl", "test.json"), _each(rows_of.openbookqa),
        template=Template(),
    ),
    "openbookqa_facts": Benchmark(
        "retrieval", "the questions of openbookqa, each behind the fact that it is about",
        tuple(f"{folder}test_complete.jsonl"
              for folder in ("", "Additional/", "openbookqa/", "openbookqa/Additional/")),
        rows_of.openbookqa_facts, template=Template(),
    ),
    "truthfulqa": Benchmark(
        "knowledge", "one true answer among common errors, mc1 (Lin et al. 2022)",
        ("mc_task.json",), _each(rows_of.truthfulqa), mix=True,
        template=Template(question_prefix="Q: ", answer_cue="\nA:"),
    ),
    "hellaswag": Benchmark(
        "coherence", "which ending continues a text (Zellers et al. 2019)",
        ("hellaswag_val.jsonl", "validation*.jsonl"), _each(rows_of.hellaswag),
        template=Template(),
    ),
    "kv_retrieval": Benchmark(
        "retrieval", "pairs of identifiers, one looked up (Liu et al. 2023)",
        ("kv-retrieval-*.jsonl",), rows_of.key_values,
        # Behind a quotation mark, so that answers do not all begin with the same token.
        template=Template(
            answer_cue='\nCorresponding value: "', delimiter="", answer_end='"', context_end="\n\n"
        ),
    ),
    "known_1000": Benchmark(
        "knowledge", "facts that GPT-2 XL knows (Meng et al. 2022)",
        ("known_1000.json",), rows_of.known_facts, fewshot=_FIVE, template=_FACT,
    ),
    "relations": Benchmark(
        "knowledge", "subjects and objects of relations (Hernandez et al. 2024)",
        ("*/{part}.json", "{part}.json", "{part}/*.json"), rows_of.relation, part="relation",
        fewshot=_FIVE, template=_FACT,
    ),
}  # fmt: skip
