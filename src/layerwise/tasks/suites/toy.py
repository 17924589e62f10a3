"""The suites of a toy language: look-up, facts, two hops, brackets, one of each capability.

Their items are kept from training by construction (see ``Language.for_tests``); there are no
few-shot examples, since models of such a language are made for these questions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import pairwise, permutations, product

import numpy as np

from layerwise.models.organisms.language import (
    END,
    Language,
    answered_question,
    ask,
    ask_closing_brackets,
    ask_fact,
    ask_twice,
    pair,
)
from layerwise.tasks.items import Capability, Corruption, Item, commonest_answer, guessing_chance
from layerwise.tasks.task import GenerateSpec, Task, Template

from ._building import (
    N_ITEMS,
    balanced_drafts,
    distinct,
    draw,
    generator,
    require,
    spread,
    suite,
)
from .facts import Fact, option_groups

_TEMPLATE = Template(answer_end=f" {END}", separator=" ", context_end=" ")
_N_OPTIONS = 4
_suite = partial(suite, generate=GenerateSpec((END,), 2, "first_word"), template=_TEMPLATE)


def toy_suites(language: Language) -> tuple[tuple[str, Capability, Callable[..., Task]], ...]:
    """Name, capability and factory of each suite that the language has words for."""
    suites: list[tuple[str, Capability, Callable[..., Task], bool]] = [
        ("lookup", "retrieval", lookup, True),
        ("facts", "knowledge", facts, language.n_relations > 0 and language.n_entities >= 4),
        ("two-hop", "reasoning", two_hop, language.n_hops > 1 and language.n_keys >= 2 * 4),
        ("brackets", "coherence", brackets, language.n_brackets == 4),
    ]
    return tuple(
        (f"{language.name}-{name}", capability, partial(make, language))
        for name, capability, make, has_words in suites
        if has_words
    )


def lookup(
    language: Language,
    seed: int = 0,
    *,
    n_pairs: int | None = None,
    n_before: int = 0,
    n_items: int = N_ITEMS,
) -> Task:
    """Pairs of a key and a value, one looked up; training shows no such pair anywhere."""
    most = min(language.n_keys, language.n_values)
    n_pairs = min(8, most) if n_pairs is None else n_pairs
    require(4 <= n_pairs <= most, f"There are 4 to {most} pairs, not {n_pairs}")
    _require_room_before(n_pairs, n_before, "pairs")
    name = f"{language.name}-lookup"
    rng = generator(seed, name)
    pool = _by_last(_test_combinations(language, product(language.keys, language.values)))
    drafts = distinct(
        lambda _: _chain_item(language, rng, pool, n_pairs, n_before, "pairs"), n_items
    )
    what = f"{n_pairs} pairs of made-up words in the context, one looked up"
    return _suite(rng, name, "retrieval", what, drafts, guess=1 / (n_pairs - n_before))


def facts(language: Language, seed: int = 0, *, n_before: int = 1, n_items: int = N_ITEMS) -> Task:
    """Facts from memory behind ``n_before`` others; training never shows the last before it."""
    most = len(language.facts) // 2
    require(1 <= n_before <= most, f"1 to {most} facts stand before, not {n_before}")
    name = f"{language.name}-facts"
    rng = generator(seed, name)
    chosen = _asked_facts(language, rng)[:n_items]
    drafts = [_fact_item(language, rng, *combination, n_before) for combination in chosen]
    what = "made-up facts from memory, each behind another one"
    return _suite(rng, name, "knowledge", what, drafts)


def facts_open_book(language: Language, seed: int = 0, *, n_items: int = N_ITEMS) -> Task:
    """The items of ``facts``, each fact stated in the context among those of the other options."""
    # No trained model was shown such statements; the wired model reads them if its layout says so.
    closed = facts(language, seed, n_items=n_items)
    chosen = _asked_facts(language, generator(seed, closed.name))
    name = f"{language.name}-facts-open-book"
    rng = generator(seed, name)
    items = []
    for index, (item, (_, group)) in enumerate(zip(closed.items, chosen, strict=False)):
        stated = [pair(fact.subject, fact.answer) for fact in draw(rng, group, len(group))]
        context, change = " ".join(stated), item.corruption
        assert change is not None
        items.append(
            replace(
                item, id=f"{name}/{index:04d}", pair=item.id, context=context,
                corruption=replace(change, context=context),
            )
        )  # fmt: skip
    return replace(
        closed,
        name=name,
        capability="retrieval",
        description="the same made-up facts, each stated in the context among others",
        items=tuple(items),
        # One of the answers that the context states, or the commonest one.
        chance=guessing_chance(items, max(1 / _N_OPTIONS, commonest_answer(items))),
    )


def two_hop(
    language: Language,
    seed: int = 0,
    *,
    n_chains: int = 4,
    n_before: int = 0,
    n_items: int = N_ITEMS,
) -> Task:
    """From a key to a key to a value; training shows neither of the asked chain's pairs."""
    most = min(language.n_keys // 2, language.n_values)
    require(4 <= n_chains <= most, f"There are 4 to {most} chains, not {n_chains}")
    _require_room_before(n_chains, n_before, "chains")
    name = f"{language.name}-two-hop"
    rng = generator(seed, name)
    links = _test_combinations(language, permutations(language.keys, 2))
    ends = _test_combinations(language, product(language.keys, language.values))
    pool = _by_last([(*link, value) for link in links for key, value in ends if key == link[1]])
    drafts = distinct(
        lambda _: _chain_item(language, rng, pool, n_chains, n_before, "chains"), n_items
    )
    what = f"from a made-up word to a second to a third, {n_chains} chains in the context"
    return _suite(rng, name, "reasoning", what, drafts, guess=1 / (n_chains - n_before))


def brackets(
    language: Language,
    seed: int = 0,
    *,
    depth: int = 6,
    n_closed: int = 0,
    n_items: int = N_ITEMS,
) -> Task:
    """Open brackets to be closed; training shows no such sequence, and no closed pairs in it."""
    require(depth >= 4, f"At least 4 brackets must be open, not {depth}")
    name = f"{language.name}-brackets"
    rng = generator(seed, name)
    drafts = balanced_drafts(lambda _: _bracket_block(language, rng, depth, n_closed), n_items)
    what = f"{depth} open brackets of four kinds, to be closed"
    guess, generate = len(language.brackets) ** -depth, GenerateSpec((END,), depth + 2, "symbols")
    return _suite(rng, name, "coherence", what, drafts, guess=guess, generate=generate)


def _asked_facts(language: Language, rng: np.random.Generator) -> list[tuple[Fact, Sequence[Fact]]]:
    """All facts in the order in which they are asked, each with those that give its options."""
    known = [
        Fact(relation, "", entity, value) for (relation, entity), value in language.facts.items()
    ]
    kinds = [
        [fact for fact in known if fact.relation == relation] for relation in language.relations
    ]
    groups = spread(rng, [option_groups(rng, kind, _N_OPTIONS) for kind in kinds])
    return [(fact, group) for group in groups for fact in draw(rng, group, _N_OPTIONS)]


def _test_combinations(
    language: Language, combinations: Iterable[tuple[str, ...]]
) -> list[tuple[str, ...]]:
    """The combinations that are kept for tests."""
    kept = [words for words in combinations if language.for_tests(*words)]
    require(bool(kept), f"The language {language.name!r} has too few words to keep some for tests")
    return kept


def _by_last(combinations: Iterable[tuple[str, ...]]) -> dict[str, list[tuple[str, ...]]]:
    """Combinations by their last word, which is what is asked for."""
    grouped: dict[str, list[tuple[str, ...]]] = {}
    for words in combinations:
        grouped.setdefault(words[-1], []).append(words)
    require(len(grouped) >= _N_OPTIONS, "Too few words can be asked for in this language")
    return grouped


def _append_others(
    rng: np.random.Generator, words: Sequence[str], taken: Sequence[str]
) -> list[str]:
    """``taken``, and behind it all other words in random order."""
    return [*taken, *draw(rng, [word for word in words if word not in taken], len(words))]


def _chain_item(
    language: Language,
    rng: np.random.Generator,
    pool: Mapping[str, Sequence[tuple[str, ...]]],
    count: int,
    n_before: int,
    of: str,
) -> Item:
    """Chains of one or two keys and a value, in pairs, of which one is followed to its end."""
    options = draw(rng, list(pool), _N_OPTIONS)  # the first one is asked
    *links, last = draw(rng, pool[options[0]], 1)[0]
    hops, keys = len(links), _append_others(rng, language.keys, links)
    ends = _append_others(rng, language.values, options)[:count]
    steps = [*(keys[hop : hops * count : hops] for hop in range(hops)), ends]
    pairs = [stated for both in pairwise(steps) for stated in map(pair, *both)]
    ask_for = ask if hops == 1 else ask_twice
    # Behind the pairs, questions about the first things in them that are no options.
    before = list(map(answered_question, map(ask_for, steps[0]), ends))[_N_OPTIONS:][:n_before]
    context = " ".join([*draw(rng, pairs, len(pairs)), *before])
    return Item(
        id="",
        question=ask_for(links[0]),
        answer=last,
        choices=tuple(options),
        context=context,
        corruption=Corruption(ask_for(steps[0][1]), ends[1], context),
        group=f"{count} {of}",
    )


def _fact_item(
    language: Language,
    rng: np.random.Generator,
    fact: Fact,
    group: Sequence[Fact],
    n_before: int,
) -> Item:
    known, wanted = language.facts, (fact.relation, fact.subject)
    other = draw(rng, [other for other in group if other != fact], 1)[0]
    mixed = [
        combination for combination in draw(rng, list(known), len(known)) if combination != wanted
    ]
    last = next(combination for combination in mixed if language.for_tests(*combination, *wanted))
    before = [*[combination for combination in mixed if combination != last][: n_before - 1], last]
    context = " ".join(
        answered_question(ask_fact(*combination), known[combination]) for combination in before
    )
    return Item(
        id="",
        question=ask_fact(*wanted),
        answer=fact.answer,
        choices=(fact.answer, *(other.answer for other in group if other != fact)),
        context=context,
        corruption=Corruption(ask_fact(other.relation, other.subject), other.answer, context),
        group=fact.relation,
        cluster=fact.name,
    )


def _require_room_before(count: int, n_before: int, of: str) -> None:
    """Refuse to ask about the four options, or to leave nothing else in the context."""
    most = count - _N_OPTIONS
    require(0 <= n_before <= most, f"Of {count} {of} 0 to {most} are asked before, not {n_before}")


def _bracket_block(
    language: Language, rng: np.random.Generator, depth: int, n_closed: int
) -> list[Item]:
    """Four sequences that are kept for tests, closed by different brackets first."""
    kinds = [kind for kind, _ in language.brackets]
    closing = dict(language.brackets)

    def draw_opening(last: str) -> list[str]:
        return [*(str(kind) for kind in rng.choice(kinds, depth - 1)), last]

    rows = []
    for last in draw(rng, kinds, len(kinds)):
        opened = draw_opening(last)
        while not language.for_tests(*opened):
            opened = draw_opening(last)
        rows.append(opened)
    answers = [" ".join(closing[bracket] for bracket in reversed(row)) for row in rows]
    items = []
    for index, (opened, answer) in enumerate(zip(rows, answers, strict=True)):
        other = draw(rng, [kind for kind in kinds if kind != opened[-1]], 1)[0]
        closed = [(int(rng.integers(depth + 1)), str(rng.choice(kinds))) for _ in range(n_closed)]
        items.append(
            Item(
                id="",
                question=ask_closing_brackets(_interleave_brackets(opened, closed, closing)),
                answer=answer,
                choices=(answer, *answers[:index], *answers[index + 1 :]),
                corruption=Corruption(
                    ask_closing_brackets(
                        _interleave_brackets([*opened[:-1], other], closed, closing)
                    ),
                    " ".join([closing[other], *answer.split()[1:]]),
                ),
                group=f"{depth} open",
            )
        )
    return items


def _interleave_brackets(
    opened: Sequence[str], closed: Iterable[tuple[int, str]], closing: Mapping[str, str]
) -> list[str]:
    """Open brackets, and closed pairs of a kind behind so many of them."""
    row = [[bracket] for bracket in ("", *opened)]
    for place, kind in closed:
        row[place] += [kind, closing[kind]]
    return [bracket for part in row for bracket in part if bracket]
