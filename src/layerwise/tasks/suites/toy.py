"""The suites of a toy language: look-up, facts, two hops, brackets, one of each capability.

Their items are kept from training by construction (see ``Language.for_tests``); there are no
few-shot examples, since models of such a language are made for these questions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import permutations, product

import numpy as np

from layerwise.models.organisms.forms import (
    END,
    answered,
    ask,
    ask_closing,
    ask_fact,
    ask_twice,
    pair,
)
from layerwise.models.organisms.language import Language
from layerwise.tasks.items import Capability, Corruption, Item
from layerwise.tasks.suites._building import (
    N_ITEMS,
    chance,
    commonest_answer,
    distinct,
    draw,
    generator,
    require,
    settle,
)
from layerwise.tasks.task import GenerateSpec, Task, Template

_TEMPLATE = Template(answer_end=f" {END}", separator=" ", context_end=" ")
_ONE_WORD = GenerateSpec((END,), 2, "first_word")


def toy_suites(language: Language) -> tuple[tuple[str, Capability, Callable[..., Task]], ...]:
    """Name, capability and factory of each suite that the language has words for."""
    found: list[tuple[str, Capability, Callable[..., Task], bool]] = [
        ("lookup", "retrieval", lookup, True),
        ("facts", "knowledge", facts, language.n_relations > 0 and language.n_entities >= 4),
        ("two-hop", "reasoning", two_hop, language.n_keys >= 2 * 4),
        ("brackets", "coherence", brackets, language.n_brackets == 4),
    ]
    return tuple(
        (f"{language.name}-{name}", capability, partial(make, language))
        for name, capability, make, has_words in found
        if has_words
    )


def lookup(
    language: Language, seed: int = 0, *, n_pairs: int | None = None, n_items: int = N_ITEMS
) -> Task:
    """Pairs of a key and a value, one looked up; training shows no such pair anywhere.

    Args:
        language: gives the words.
        seed: decides pairs and what is asked.
        n_pairs: pairs in the context, more is harder; 8 or what the words suffice for if None.
        n_items: number of items.
    """
    most = min(language.n_keys, language.n_values)
    n_pairs = min(8, most) if n_pairs is None else n_pairs
    require(4 <= n_pairs <= most, f"There are 4 to {most} pairs, not {n_pairs}")
    name = f"{language.name}-lookup"
    rng = generator(seed, name)
    pool = _kept(language, product(language.keys, language.values))
    drafts = distinct(lambda _: _lookup_item(language, rng, pool, n_pairs), n_items)
    items = settle(rng, name, drafts)
    return Task(
        name=name,
        capability="retrieval",
        description=f"{n_pairs} pairs of made-up words in the context, one looked up",
        items=items,
        fewshot=(),
        generate=_ONE_WORD,
        chance=chance(items, 1 / n_pairs),
        template=_TEMPLATE,
    )


def facts(language: Language, seed: int = 0, *, n_items: int = N_ITEMS) -> Task:
    """Facts from memory, each behind another; training never shows that one before it.

    Args:
        language: gives the facts.
        seed: decides which facts are asked, and behind which.
        n_items: number of items, at most one for each fact.
    """
    known = list(language.facts)
    n_items = min(n_items, len(known))
    name = f"{language.name}-facts"
    rng = generator(seed, name)
    asked = draw(rng, known, n_items)
    drafts = [_fact_item(language, rng, fact) for fact in asked]
    items = settle(rng, name, drafts)
    return Task(
        name=name,
        capability="knowledge",
        description="made-up facts from memory, each behind another one",
        items=items,
        fewshot=(),
        generate=_ONE_WORD,
        chance=chance(items, commonest_answer(items)),
        template=_TEMPLATE,
    )


def two_hop(
    language: Language, seed: int = 0, *, n_chains: int = 4, n_items: int = N_ITEMS
) -> Task:
    """From a key to a key to a value; training shows neither of the asked chain's pairs.

    Args:
        language: gives the words.
        seed: decides chains and what is asked.
        n_chains: chains in the context; more is harder.
        n_items: number of items.
    """
    most = min(language.n_keys // 2, language.n_values)
    require(4 <= n_chains <= most, f"There are 4 to {most} chains, not {n_chains}")
    name = f"{language.name}-two-hop"
    rng = generator(seed, name)
    links = _kept(language, permutations(language.keys, 2))
    ends = _kept(language, product(language.keys, language.values))
    pool = [(*link, value) for link in links for key, value in ends if key == link[1]]
    drafts = distinct(lambda _: _two_hop_item(language, rng, pool, n_chains), n_items)
    items = settle(rng, name, drafts)
    return Task(
        name=name,
        capability="reasoning",
        description=f"from a made-up word to a second to a third, {n_chains} chains in the context",
        items=items,
        fewshot=(),
        generate=_ONE_WORD,
        # The last words of the chains have a form of their own.
        chance=chance(items, 1 / n_chains),
        template=_TEMPLATE,
    )


def brackets(language: Language, seed: int = 0, *, depth: int = 6, n_items: int = N_ITEMS) -> Task:
    """Open brackets to be closed; training shows no such sequence.

    Args:
        language: gives the brackets, of four kinds.
        seed: decides the brackets.
        depth: how many are open; more is harder.
        n_items: number of items.
    """
    require(depth >= 4, f"At least 4 brackets must be open, not {depth}")
    name = f"{language.name}-brackets"
    rng = generator(seed, name)
    items = settle(rng, name, distinct(lambda _: _bracket_item(language, rng, depth), n_items))
    return Task(
        name=name,
        capability="coherence",
        description=f"{depth} open brackets of four kinds, to be closed",
        items=items,
        fewshot=(),
        generate=GenerateSpec((END,), depth + 2, "symbols"),
        chance=chance(items, len(language.brackets) ** -depth),
        template=_TEMPLATE,
    )


def _kept(language: Language, combinations: Iterable[tuple[str, ...]]) -> list[tuple[str, ...]]:
    """The combinations that are kept for tests."""
    kept = [words for words in combinations if language.for_tests(*words)]
    require(bool(kept), f"The language {language.name!r} has too few words to keep some for tests")
    return kept


def _beside(rng: np.random.Generator, words: Sequence[str], taken: Sequence[str]) -> list[str]:
    """``taken``, and behind it all other words in random order."""
    return [*taken, *draw(rng, [word for word in words if word not in taken], len(words))]


def _lookup_item(
    language: Language, rng: np.random.Generator, pool: Sequence[tuple[str, ...]], n_pairs: int
) -> Item:
    key, value = draw(rng, pool, 1)[0]
    keys = _beside(rng, language.keys, [key])[:n_pairs]
    values = _beside(rng, language.values, [value])[:n_pairs]
    context = " ".join(draw(rng, list(map(pair, keys, values)), n_pairs))
    return Item(
        id="",
        question=ask(key),
        answer=value,
        choices=tuple(values[:4]),
        context=context,
        corruption=Corruption(ask(keys[1]), values[1], context),
        group=f"{n_pairs} pairs",
    )


def _fact_item(language: Language, rng: np.random.Generator, fact: tuple[str, str]) -> Item:
    known, (relation, entity) = language.facts, fact
    others = [one for one in draw(rng, language.entities, language.n_entities) if one != entity]
    # One entity for each other value of the relation.
    wrong = {known[relation, one]: one for one in others if known[relation, one] != known[fact]}
    choices = (known[fact], *list(wrong)[:3])
    before = next(
        one
        for one in draw(rng, list(known), len(known))
        if one != fact and language.for_tests(*one, *fact)
    )
    context = answered(ask_fact(*before), known[before])
    return Item(
        id="",
        question=ask_fact(*fact),
        answer=known[fact],
        choices=choices,
        context=context,
        corruption=Corruption(ask_fact(relation, wrong[choices[1]]), choices[1], context),
        group=relation,
    )


def _two_hop_item(
    language: Language, rng: np.random.Generator, pool: Sequence[tuple[str, ...]], n_chains: int
) -> Item:
    first, middle, last = draw(rng, pool, 1)[0]
    starts, middles = _chain_keys(_beside(rng, language.keys, [first, middle]), n_chains)
    ends = _beside(rng, language.values, [last])[:n_chains]
    pairs = [*map(pair, starts, middles), *map(pair, middles, ends)]
    context = " ".join(draw(rng, pairs, len(pairs)))
    return Item(
        id="",
        question=ask_twice(first),
        answer=last,
        choices=tuple(ends[:4]),
        context=context,
        corruption=Corruption(ask_twice(starts[1]), ends[1], context),
        group=f"{n_chains} chains",
    )


def _chain_keys(keys: Sequence[str], n_chains: int) -> tuple[Sequence[str], Sequence[str]]:
    return keys[: 2 * n_chains : 2], keys[1 : 2 * n_chains : 2]


def _bracket_item(language: Language, rng: np.random.Generator, depth: int) -> Item:
    closing = dict(language.brackets)
    while True:
        opened = [str(one) for one in rng.choice(list(closing), depth)]
        if language.for_tests(*opened):
            break
    gold = [closing[one] for one in reversed(opened)]
    wrong = [
        [other, *draw(rng, gold[1:], depth - 1)] for other in closing.values() if other != gold[0]
    ]
    last = draw(rng, [one for one in closing if one != opened[-1]], 1)[0]
    return Item(
        id="",
        question=ask_closing(opened),
        answer=" ".join(gold),
        choices=tuple(" ".join(row) for row in (gold, *wrong)),
        corruption=Corruption(
            ask_closing([*opened[:-1], last]), " ".join([closing[last], *gold[1:]])
        ),
        group=f"{depth} open",
    )
