"""Facts: from memory, with the book open, and false or made-up ones that only the context tells."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from layerwise.tasks.items import Corruption, Item, commonest_answer
from layerwise.tasks.task import GenerateSpec, Task, Template

from ._building import (
    N_ITEMS,
    data,
    distinct,
    draw,
    generator,
    halves,
    require,
    require_range,
    spread,
    suite,
)

_BY_RARITY = ("facts", "facts_rarer")
_TEMPLATE = Template(answer_end=".", separator="\n", context_end=" ")
_GENERATE = GenerateSpec((".", ",", "\n"), 8, "first_line")
_MOST_SENTENCES = 8
_MOST_STATEMENTS = 6
_MADE_UP = (
    ("The mayor of {place} is", "names"),
    ("The symbol of {place} is the", "nouns"),
    ("The password of {place} is", "nouns"),
)
_ONSETS = ("Bal", "Dro", "Fen", "Gor", "Kel", "Lum", "Mor", "Nav", "Pel", "Quor", "Tav", "Zor")
_ENDINGS = ("adia", "bury", "don", "ester", "folk", "gard", "holm", "ia", "mar", "vania")


@dataclass(frozen=True)
class Fact:
    """One fact."""

    relation: str  # e.g. ``"capital"``
    question: str  # the sentence up to where the answer stands
    subject: str  # what it is about
    answer: str
    aliases: tuple[str, ...] = ()  # other right answers

    @property
    def name(self) -> str:
        """Cluster of items that ask for the fact."""
        return f"{self.relation}: {self.subject}"


def all_facts(rarity: int = 1) -> tuple[Fact, ...]:
    """Every fact, in the order of the data."""
    return tuple(
        Fact(
            relation["name"],
            relation["cloze"].format(subject=fact["subject"]),
            fact["subject"],
            fact["answer"],
            tuple(fact.get("aliases", ())),
        )
        for relation in data(_BY_RARITY[rarity - 1])["relations"]
        for fact in relation["facts"]
    )


def fewshot_pool(
    rng: np.random.Generator, facts: Sequence[Fact], relations: Sequence[str], each: int
) -> list[list[Fact]]:
    """For each relation, some facts of which neither subject nor answer comes up elsewhere."""
    # They are left to the few-shot examples, which then give away no item.
    texts = Counter(text.casefold() for fact in facts for text in {fact.subject, fact.answer})
    lonely = [
        fact
        for fact in facts
        if texts[fact.subject.casefold()] == texts[fact.answer.casefold()] == 1
    ]
    return [draw(rng, [f for f in lonely if f.relation == name], each) for name in relations]


def option_groups(rng: np.random.Generator, facts: Sequence[Fact], size: int) -> list[list[Fact]]:
    """Facts of one relation in groups of different answers, in random order."""
    # Asked with the group's answers as options, each of them is right once. Answers that many facts
    # share come first, so that few facts are left over; then facts whose subjects have as many
    # words. Facts for which no group is left are not asked.
    left: dict[str, list[Fact]] = {}
    for fact in draw(rng, facts, len(facts)):
        left.setdefault(fact.answer, []).append(fact)
    groups = []
    while len(left) >= size:
        first = max(left.values(), key=len)[-1]
        group = [first]
        ranked = sorted(left, key=lambda answer: _rank(left[answer], first))
        for answer in ranked:
            if len(group) < size and not any(_clash(left[answer][-1], fact) for fact in group):
                group.append(left[answer][-1])
        if len(group) < size:
            del left[first.answer]
            continue
        groups.append(group)
        for fact in group:
            left[fact.answer].pop()
            if not left[fact.answer]:
                del left[fact.answer]
    return draw(rng, groups, len(groups))


def different(rng: np.random.Generator, facts: Sequence[Fact], count: int) -> list[Fact]:
    """Random facts with different answers, in random order."""
    chosen: list[Fact] = []
    for fact in draw(rng, facts, len(facts)):
        if len(chosen) < count and not any(_clash(fact, other) for other in chosen):
            chosen.append(fact)
    # Common answers are drawn early; the order must not tell them.
    return draw(rng, chosen, len(chosen))


def _rank(facts: Sequence[Fact], first: Fact) -> tuple[int, bool]:
    return -len(facts), _words(facts[-1]) != _words(first)


def _words(fact: Fact) -> int:
    return len(fact.subject.split())


def _clash(fact: Fact, other: Fact) -> bool:
    """True if an answer to one fact is an answer to the other, too."""
    own, others = {fact.answer, *fact.aliases}, {other.answer, *other.aliases}
    return bool(own & others)


def facts(seed: int = 0, *, n_options: int = 4, rarity: int = 1) -> Task:
    """Facts from memory: capitals, languages, opposites, colors and others."""
    return _fact_task(seed, n_options, rarity, 0)


def facts_open_book(
    seed: int = 0, *, n_options: int = 4, n_sentences: int = 4, rarity: int = 1
) -> Task:
    """The same facts, each stated in the context among others of its kind."""
    # Item by item the pair of ``facts`` with the same choices: their difference under one change is
    # what the passage protects (Song et al. 2025, arXiv:2510.02091, on retrieval augmentation).
    require_range(n_options, n_sentences, _MOST_SENTENCES, "facts", "The context holds")
    return _fact_task(seed, n_options, rarity, n_sentences)


def _fact_task(seed: int, n_options: int, rarity: int, n_sentences: int) -> Task:
    """Facts with so many sentences in the context; items are alike whether there are any or not."""
    require_range(2, n_options, 6, "options")
    require(rarity in (1, 2), f"Rarity is 1 or 2, not {rarity}")
    rng, order = generator(seed, "facts"), generator(seed, "facts-open-book")
    known = all_facts(rarity)
    # Answers of items are not among those of rare facts' examples, which are common ones.
    relations = ("capital", "opposite", "past", "symbol", "young")
    pool = fewshot_pool(rng, all_facts(), relations, max(4, n_options))
    shown = [fact for group in pool for fact in group]
    kinds = {
        name: [fact for fact in known if fact.relation == name and fact not in shown]
        for name in dict.fromkeys(fact.relation for fact in known)
    }
    groups = spread(rng, [option_groups(rng, kind, n_options) for kind in kinds.values()])
    drafts = [
        _fact_item(order, fact, group, kinds[fact.relation], n_sentences)
        for group in groups
        for fact in draw(rng, group, n_options)
    ]

    def make_examples(groups: Sequence[Sequence[Fact]]) -> list[Item]:
        return [
            _fact_item(order, group[0], group[:n_options], group, n_sentences) for group in groups
        ]

    examples = make_examples(pool)
    name, twin = ("facts-open-book", "facts")[:: 1 if n_sentences else -1]
    items = [replace(draft, pair=f"{twin}/{index:04d}") for index, draft in enumerate(drafts)]
    # A guesser may take an answer from the context or the relation's commonest one.
    stated = [1 / f"{item.context} ".count(". ") for item in items] if n_sentences else [0.0]
    return suite(
        rng,
        name,
        "retrieval" if n_sentences else "knowledge",
        "the same facts as in 'facts', each stated in the context among others"
        if n_sentences
        else "facts from memory: capitals, languages, opposites, colors and others",
        items,
        examples,
        lambda: make_examples([draw(rng, group, len(group)) for group in pool]),
        generate=_GENERATE,
        guess=max(float(np.mean(stated)), commonest_answer(items)),
        template=_TEMPLATE,
    )


def _fact_item(
    order: np.random.Generator,
    fact: Fact,
    group: Sequence[Fact],
    kind: Sequence[Fact],
    n_sentences: int,
) -> Item:
    # The twin asks for the fact whose subject is most like this one's in words and length.
    other = min(
        (other for other in group if other != fact),
        key=lambda other: (
            _words(other) != _words(fact),
            abs(len(other.subject) - len(fact.subject)),
        ),
    )
    context = None
    if n_sentences:
        taken = {option.answer for option in group}
        more = [option for option in draw(order, kind, len(kind)) if option.answer not in taken]
        stated = [*group, *more][:n_sentences]
        context = " ".join(
            f"{option.question} {option.answer}." for option in draw(order, stated, len(stated))
        )
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


def open_book(seed: int = 0, *, n_statements: int = 4, n_items: int = N_ITEMS) -> Task:
    """Facts in the context that contradict the world, or that the world does not have."""
    # Half of the items state false facts, with the true answer among the choices (``contradicts``);
    # half are about made-up places (``absent``). The context states every option.
    require_range(4, n_statements, _MOST_STATEMENTS, "statements")
    rng = generator(seed, "open-book")
    known, relations = all_facts(), ("capital", "opposite", "past", "color", "currency")
    pool = fewshot_pool(rng, known, relations[:2], n_statements)
    kept = [fact for group in pool for fact in group]
    free = [[f for f in known if f.relation == name and f not in kept] for name in relations]
    shown, used = _made_up_words(rng)

    def make_examples() -> list[Item]:
        false = [_contradicting_item(rng, group, n_statements) for group in pool]
        return [*false, _invented_item(rng, shown, n_statements)]

    examples = make_examples()

    def make(index: int) -> Item:
        if index % 2:
            return _invented_item(rng, used, n_statements)
        return _contradicting_item(rng, draw(rng, free, 1)[0], n_statements)

    return suite(
        rng,
        "open-book",
        "retrieval",
        "facts in the context that are false or made up, one looked up",
        distinct(make, n_items, key=lambda item: item.question),
        examples,
        make_examples,
        generate=_GENERATE,
        # Without the look-up, one of the answers in the context is the best guess.
        guess=1 / n_statements,
        template=_TEMPLATE,
    )


def _contradicting_item(rng: np.random.Generator, facts: Sequence[Fact], count: int) -> Item:
    """False facts, each with the next one's answer; the first is asked."""
    chosen = different(rng, facts, count)
    answers = [fact.answer for fact in chosen]
    item = _stated_item(
        rng, [fact.question for fact in chosen], [*answers[1:], answers[0]], "contradicts"
    )
    return replace(item, cluster=chosen[0].name)


def _invented_item(
    rng: np.random.Generator, vocabulary: Mapping[str, Sequence[str]], count: int
) -> Item:
    """An item that no model can know, about places that do not exist."""
    cloze, kind = draw(rng, _MADE_UP, 1)[0]
    places = draw(rng, vocabulary["places"], count)
    answers = draw(rng, vocabulary[kind], count)
    return _stated_item(rng, [cloze.format(place=place) for place in places], answers, "absent")


def _stated_item(
    rng: np.random.Generator, questions: Sequence[str], answers: Sequence[str], group: str
) -> Item:
    """Ask the first question; the last answer, which is true of it or as false, is an option."""
    # The corruption swaps the answers to the first question and to the third one, both of which
    # stay as false as they were.
    n = len(questions)
    order = draw(rng, range(n), n)
    stated = [f"{question} {answer}." for question, answer in zip(questions, answers, strict=True)]
    swapped = [f"{questions[0]} {answers[2]}.", stated[1], f"{questions[2]} {answers[0]}."]
    changed = [*swapped, *stated[3:]]
    wrong = [answers[-1], *draw(rng, answers[1:-1], n - 2)][:3]
    return Item(
        id="",
        question=questions[0],
        answer=answers[0],
        choices=(answers[0], *wrong),
        context=" ".join(stated[index] for index in order),
        corruption=Corruption(
            questions[0], answers[2], " ".join(changed[index] for index in order)
        ),
        group=group,
    )


def _made_up_words(
    rng: np.random.Generator,
) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    """Places, names and nouns of the few-shot example, and those of the items."""
    places = [onset + ending for onset in _ONSETS for ending in _ENDINGS]
    # Fruit is both: an orange may be a password, and orange a color.
    answers = {fact.answer for fact in all_facts()}
    nouns = [noun for noun in data("words")["nouns"] if noun not in answers]
    known = {"places": places, "names": data("words")["names"], "nouns": nouns}
    split = {kind: halves(rng, values, _MOST_STATEMENTS) for kind, values in known.items()}
    shown, used = ({kind: parts[half] for kind, parts in split.items()} for half in (0, 1))
    return shown, used
