"""Facts from memory, which are knowledge, and the same facts with the book open: retrieval."""

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
    other_draws,
    require,
    settle,
    spread,
)
from layerwise.tasks.suites._facts_data import (
    MOST_RARITY,
    Fact,
    all_facts,
    closest,
    fewshot_pool,
    option_groups,
)
from layerwise.tasks.task import GenerateSpec, Task, Template

FEWSHOT_RELATIONS = ("capital", "opposite", "past", "symbol", "young")
_TEMPLATE = Template(answer_end=".", separator="\n", context_end=" ")
_GENERATE = GenerateSpec((".", ",", "\n"), 8, "first_line")
_MOST_SENTENCES = 8


def facts(seed: int = 0, *, n_options: int = 4, rarity: int = 1) -> Task:
    """Facts from memory: capitals, languages, opposites, colors and others.

    The items come in blocks of one relation with the same options, each of them right once.

    Args:
        seed: decides the order, the options and which facts are few-shot examples.
        n_options: options of an item, from 2 to 6; more is harder.
        rarity: 1, or 2 for facts that are told more rarely: capitals of smaller countries and of
            states, symbols of more elements, more currencies. The examples stay common ones.
    """
    items, fewshot, others = _paired(seed, n_options, rarity, 0, "facts", "facts-open-book")
    return Task(
        name="facts",
        capability="knowledge",
        description="facts from memory: capitals, languages, opposites, colors and others",
        items=items,
        fewshot=fewshot,
        other_fewshot=others,
        generate=_GENERATE,
        chance=chance(items, commonest_answer(items)),
        template=_TEMPLATE,
    )


def facts_open_book(
    seed: int = 0, *, n_options: int = 4, n_sentences: int = 4, rarity: int = 1
) -> Task:
    """The same facts, each stated in the context among others of its kind.

    Item by item the pair of ``facts`` with the same choices, so that the difference between
    the two under one intervention is what the passage protects (Song et al. 2025,
    arXiv:2510.02091, on retrieval augmentation); who knows the fact does not need the book.
    """
    require(
        n_options <= n_sentences <= _MOST_SENTENCES,
        f"The context holds {n_options} to {_MOST_SENTENCES} facts, not {n_sentences}",
    )
    items, fewshot, others = _paired(
        seed, n_options, rarity, n_sentences, "facts-open-book", "facts"
    )
    # A guesser may take an answer from the context or the relation's commonest one.
    stated = float(np.mean([1 / f"{item.context} ".count(". ") for item in items]))
    return Task(
        name="facts-open-book",
        capability="retrieval",
        description="the same facts as in 'facts', each stated in the context among others",
        items=items,
        fewshot=fewshot,
        other_fewshot=others,
        generate=_GENERATE,
        chance=chance(items, max(stated, commonest_answer(items))),
        template=_TEMPLATE,
    )


def _paired(
    seed: int, n_options: int, rarity: int, n_sentences: int, name: str, twin: str
) -> tuple[tuple[Item, ...], tuple[Item, ...], tuple[tuple[Item, ...], ...]]:
    """Items, few-shot examples and other draws of these; alike whether the book is open or not."""
    require(2 <= n_options <= 6, f"There are 2 to 6 options, not {n_options}")
    require(1 <= rarity <= MOST_RARITY, f"Rarity is 1 to {MOST_RARITY}, not {rarity}")
    rng, order = generator(seed, "facts"), generator(seed, "facts-open-book")
    known = all_facts(rarity)
    # Answers of items are not among those of rare facts' examples, which are common ones.
    pool = fewshot_pool(rng, all_facts(), FEWSHOT_RELATIONS, max(4, n_options))
    shown = [fact for group in pool for fact in group]
    relations = dict.fromkeys(fact.relation for fact in known)
    kinds = {
        name: [fact for fact in known if fact.relation == name and fact not in shown]
        for name in relations
    }
    groups = spread(rng, [option_groups(rng, kind, n_options) for kind in kinds.values()])
    drafts = [
        _item(order, fact, group, kinds[fact.relation], n_sentences)
        for group in groups
        for fact in draw(rng, group, n_options)
    ]

    def make_examples(groups: Sequence[Sequence[Fact]]) -> list[Item]:
        return [_item(order, group[0], group[:n_options], group, n_sentences) for group in groups]

    examples = make_examples(pool)
    items = settle(rng, name, drafts)
    paired = tuple(replace(item, pair=f"{twin}/{index:04d}") for index, item in enumerate(items))
    fewshot = settle(rng, f"{name}/fewshot", examples)
    others = other_draws(
        rng, name, lambda: make_examples([draw(rng, group, len(group)) for group in pool])
    )
    return paired, fewshot, others


def _item(
    order: np.random.Generator,
    fact: Fact,
    group: Sequence[Fact],
    kind: Sequence[Fact],
    n_sentences: int,
) -> Item:
    other = closest(fact, group)
    context = None
    if n_sentences:
        taken = {option.answer for option in group}
        more = [option for option in draw(order, kind, len(kind)) if option.answer not in taken]
        stated = [*group, *more][:n_sentences]
        context = " ".join(option.sentence() for option in draw(order, stated, len(stated)))
    return Item(
        id="",
        question=fact.question,
        answer=fact.answer,
        choices=(fact.answer, *(option.answer for option in group if option != fact)),
        context=context,
        aliases=fact.aliases,
        corruption=Corruption(other.question, other.answer, context),
        group=fact.relation,
        cluster=fact.name,
    )
