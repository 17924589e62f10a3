"""Knowledge suites: facts from memory, and the same facts with the book open.

Facts that contradict the world are in ``open_book``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from layerwise.tasks.items import Corruption, Item
from layerwise.tasks.suites._building import (
    chance,
    commonest_answer,
    draw,
    generator,
    require,
    settle,
)
from layerwise.tasks.suites._facts_data import Fact, all_facts, fewshot_pool, others
from layerwise.tasks.task import GenerateSpec, Task, Template

FEWSHOT_RELATIONS = ("capital", "opposite", "past", "symbol", "young")
_TEMPLATE = Template(answer_end=".", separator="\n", context_end=" ")
_GENERATE = GenerateSpec((".", ",", "\n"), 8, "first_line")


def facts(seed: int = 0) -> Task:
    """Facts from memory: capitals, languages, opposites, colors and others.

    Args:
        seed: decides the order, the distractors and which facts are few-shot examples.
    """
    items, fewshot = _paired(seed, 0, "facts", "facts-open-book")
    return Task(
        name="facts",
        capability="knowledge",
        description="facts from memory: capitals, languages, opposites, colors and others",
        items=items,
        fewshot=fewshot,
        generate=_GENERATE,
        chance=chance(items, commonest_answer(items)),
        template=_TEMPLATE,
    )


def facts_open_book(seed: int = 0, *, n_sentences: int = 3) -> Task:
    """The same facts, each stated in the context among others of its kind.

    Item by item the pair of ``facts`` with the same choices, so that the difference between
    the two is what retrieval adds (Song et al. 2025, arXiv:2510.02091, on retrieval
    augmentation); who knows the fact does not need the book.

    Args:
        seed: as for ``facts``; pairs go together for the same seed only.
        n_sentences: facts in the context, the one that is asked included; from 2 to 4.
    """
    require(2 <= n_sentences <= 4, f"The context holds 2 to 4 facts, not {n_sentences}")
    items, fewshot = _paired(seed, n_sentences, "facts-open-book", "facts")
    # A guesser may take an answer from the context or the relation's commonest one.
    guess = max(1 / n_sentences, commonest_answer(items))
    return Task(
        name="facts-open-book",
        capability="knowledge",
        description="the same facts as in 'facts', each stated in the context among others",
        items=items,
        fewshot=fewshot,
        generate=_GENERATE,
        chance=chance(items, guess),
        template=_TEMPLATE,
    )


def _paired(
    seed: int, n_sentences: int, name: str, twin: str
) -> tuple[tuple[Item, ...], tuple[Item, ...]]:
    """Items and few-shot examples; the draws do not depend on whether the book is open."""
    rng, order = generator(seed, "facts"), generator(seed, "facts-open-book")
    known = all_facts()
    pool = fewshot_pool(rng, known, FEWSHOT_RELATIONS, 4)
    shown = [fact for group in pool for fact in group]
    asked = [fact for fact in draw(rng, known, len(known)) if fact not in shown]
    drafts = [_item(order, [fact, *others(rng, fact, asked, 3)], n_sentences) for fact in asked]
    examples = [_item(order, group, n_sentences) for group in pool]
    items = settle(rng, name, drafts)
    paired = tuple(_with_pair(item, f"{twin}/{index:04d}") for index, item in enumerate(items))
    return paired, settle(rng, f"{name}/fewshot", examples)


def _item(order: np.random.Generator, group: Sequence[Fact], n_sentences: int) -> Item:
    fact, other = group[0], group[1]
    stated = draw(order, group[:n_sentences], n_sentences)
    context = " ".join(one.sentence() for one in stated) or None
    return Item(
        id="",
        question=fact.question,
        answer=fact.answer,
        choices=tuple(one.answer for one in group),
        context=context,
        aliases=fact.aliases,
        corruption=Corruption(other.question, other.answer, context),
        group=fact.relation,
    )


def _with_pair(item: Item, pair: str) -> Item:
    return replace(item, pair=pair)
