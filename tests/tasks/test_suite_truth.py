"""Each suite's gold answers, found again by other means."""

from __future__ import annotations

import json
import re
from collections import Counter
from importlib.resources import files

import pytest

from layerwise.errors import UserError
from layerwise.tasks import Item, load_task, suites
from layerwise.tasks.suites.facts import all_facts


def all_items(name: str) -> tuple[Item, ...]:
    task = load_task(name)
    return (*task.items, *task.fewshot)


def calculate(question: str) -> int:
    total, sign = 0, 1
    for part in question.replace("$", "").split():
        if part in "+-":
            sign = 1 if part == "+" else -1
        else:
            total += sign * int(part)
    return total


@pytest.mark.parametrize("name", ["arithmetic", "sum-chain"])
def test_sums_are_right(name: str) -> None:
    for item in all_items(name):
        assert item.answer == str(calculate(item.question))
        assert item.corruption is not None
        assert item.corruption.answer == str(calculate(item.corruption.question))
        assert all(choice.isdigit() for choice in item.choices)


def test_word_problems_are_worked_out_right() -> None:
    for item in all_items("word-problems"):
        first, second = sorted(map(int, re.findall(r"\d+", item.question)), reverse=True)
        sign = "+" if item.group == "sum" else "-"
        answer = first + second if sign == "+" else first - second
        assert item.answer == str(answer)
        assert item.worked == f"{first} {sign} {second} = {answer}. The answer is {answer}."


def test_brackets_close_what_is_open() -> None:
    closing = {"(": ")", "[": "]", "{": "}", "<": ">"}

    def balanced(text: str) -> bool:
        stack: list[str] = []
        for symbol in text.split():
            if symbol in closing:
                stack.append(closing[symbol])
            elif not stack or stack.pop() != symbol:
                return False
        return not stack

    for item in all_items("brackets"):
        right = [choice for choice in item.choices if balanced(f"{item.question} {choice}")]
        assert right == [item.answer]
        assert len({choice[0] for choice in item.choices}) == 4


def test_repetition_continues_the_list() -> None:
    for item in all_items("repetition"):
        assert f"{item.question} {item.answer}" == item.context
        assert len({tuple(sorted(choice.split())) for choice in item.choices}) == 1


def pattern_pairs(context: str, pattern: str) -> dict[str, str]:
    return dict(re.findall(pattern, context))


@pytest.mark.parametrize(
    ("name", "pattern"), [("kv-words", r"(\w+) is (\w+)"), ("kv-ids", r'"(\w+)": "(\w+)"')]
)
def test_key_value_answers_are_the_keys_values(name: str, pattern: str) -> None:
    for item in all_items(name):
        known = pattern_pairs(item.context or "", pattern)
        assert item.corruption is not None
        for question, answer in (
            (item.question, item.answer),
            (item.corruption.question, item.corruption.answer),
        ):
            assert known[re.findall(r"[a-z0-9]+", question)[0]] == answer
        assert set(item.choices) <= set(known.values())


def test_kv_ids_has_all_sizes_and_positions_and_no_id_twice() -> None:
    task = load_task("kv-ids")
    assert len({item.group for item in task.items}) == 9
    places: Counter[tuple[str, int]] = Counter()
    for item in task.items:
        size, _, third, _ = (item.group or "").replace(",", "").split()
        keys = list(pattern_pairs(item.context or "", r'"(\w+)": "(\w+)"'))
        place = keys.index(item.question.split('"')[1])
        places[size, place] += 1
        assert len(keys) == int(size)
        assert ("first", "middle", "last").index(third) == int(3 * place / int(size))
    for size in ("4", "8", "12"):
        counts = [places[size, place] for place in range(int(size))]
        assert max(counts) - min(counts) <= 1
    shown = " ".join(item.context or "" for item in all_items("kv-ids"))
    assert max(Counter(re.findall(r"\w{4}", shown)).values()) == 1


@pytest.mark.parametrize("name", ["open-book", "facts-open-book"])
def test_open_books_state_the_answer_to_the_question(name: str) -> None:
    for item in all_items(name):
        assert f"{item.question} {item.answer}." in (item.context or "")
        change = item.corruption
        assert change is not None
        assert f"{change.question} {change.answer}." in (change.context or "")


def test_open_book_contradicts_the_world_or_goes_beyond_it() -> None:
    world = {fact.question: (fact.answer, *fact.aliases) for fact in all_facts()}
    groups = Counter()
    for item in all_items("open-book"):
        groups[item.group] += 1
        if item.group == "absent":
            assert item.question not in world
        else:
            assert item.answer not in world[item.question]
            assert world[item.question][0] in item.choices
    assert set(groups) == {"contradicts", "absent"}


def test_facts_are_true_to_the_data_and_distractors_are_false() -> None:
    world = {fact.question: fact for fact in all_facts()}
    for item in all_items("facts"):
        fact = world[item.question]
        assert (item.answer, item.aliases, item.group) == (
            fact.answer,
            fact.aliases,
            fact.relation,
        )
        assert item.corruption is not None
        assert item.corruption.answer == world[item.corruption.question].answer


def test_fact_data_is_well_formed() -> None:
    text = files("layerwise.tasks").joinpath("data", "facts.json").read_text(encoding="utf-8")
    relations = json.loads(text)["relations"]
    assert len({relation["name"] for relation in relations}) == len(relations)
    for relation in relations:
        assert set(relation) == {"name", "cloze", "facts"}
        assert relation["cloze"].count("{subject}") == 1
        assert relation["cloze"] == relation["cloze"].strip()
        subjects = [fact["subject"].casefold() for fact in relation["facts"]]
        assert len(set(subjects)) == len(subjects)
        assert len({fact["answer"] for fact in relation["facts"]}) >= 4
        for fact in relation["facts"]:
            assert set(fact) <= {"subject", "answer", "aliases"}
            texts = [fact["subject"], fact["answer"], *fact.get("aliases", ())]
            assert all(one and one == one.strip() for one in texts)
            assert len({one.casefold() for one in texts}) == len(texts)
    assert sum(len(relation["facts"]) for relation in relations) >= 300


def test_order_follows_from_the_comparisons() -> None:
    for item in all_items("order"):
        assert item.corruption is not None
        for context, answer in (
            (item.context, item.answer),
            (item.corruption.context, item.corruption.answer),
        ):
            above = dict(re.findall(r"(\w+) is \w+ than (\w+)", context or ""))
            (top,) = set(above) - set(above.values())
            (bottom,) = set(above.values()) - set(above)
            assert answer == top
            assert set(item.choices) == {top, bottom}
            assert all(name in item.question for name in item.choices)


def test_order_cannot_be_told_from_where_names_stand() -> None:
    items = load_task("order").items
    first = sum(
        (item.context or "").index(item.answer)
        < min((item.context or "").index(name) for name in item.choices if name != item.answer)
        for item in items
    )
    named_first = sum(item.question.index(item.answer) == 3 for item in items)
    assert 0.4 < first / len(items) < 0.6
    assert 0.4 < named_first / len(items) < 0.6


def test_two_hop_takes_two_steps() -> None:
    for item in all_items("two-hop"):
        has = dict(re.findall(r"(\w+) has the (\w+)", item.context or ""))
        place = dict(re.findall(r"The (\w+) is in the (\w+)", item.context or ""))
        assert item.corruption is not None
        for question, answer in (
            (item.question, item.answer),
            (item.corruption.question, item.corruption.answer),
        ):
            who = re.findall(r"animal of (\w+)", question)[0]
            assert place[has[who]] == answer


def follow(context: str, start: str, hops: int) -> str:
    """The holder of the ball after so many throws."""
    throws = dict(re.findall(r"(\w+) throws to (\w+)", context))
    assert len(throws) == len(set(throws.values())) == context.count(".") == 9
    for _ in range(hops):
        start = throws[start]
    return start


@pytest.mark.parametrize("hops", [1, 2, 3, 4])
def test_hops_are_as_many_as_asked(hops: int) -> None:
    for item in all_items(f"hops:hops={hops}"):
        assert item.corruption is not None
        assert item.corruption.context == item.context
        for question, answer in (
            (item.question, item.answer),
            (item.corruption.question, item.corruption.answer),
        ):
            who, number = re.findall(r"(\w+) has the ball. Throw (\d) goes to", question)[0]
            assert int(number) == hops
            assert follow(item.context or "", who, hops) == answer
        assert set(item.choices) <= set(re.findall(r"[A-Z]\w+", item.context or ""))


def test_hops_differ_in_nothing_but_their_number() -> None:
    shapes = {
        re.sub(r"[A-Z]\w+ (has|throws)|to [A-Z]\w+|\d", "", f"{item.context} {item.question}")
        for hops in (1, 2, 3, 4)
        for item in all_items(f"hops:hops={hops}")
    }
    assert len(shapes) == 1
    contexts = [{item.context for item in all_items(f"hops:hops={hops}")} for hops in (1, 2, 3, 4)]
    assert len(set.union(*contexts)) == sum(map(len, contexts))


def test_passage_rest_goes_on_with_what_the_start_determines() -> None:
    for item in all_items("passage"):
        (first_word,) = item.aliases
        assert item.answer.split()[0].strip(".") == first_word
        assert item.question.count(first_word) == 1
        assert len(item.answer.split()) >= 12
        assert len({choice.split()[0] for choice in item.choices}) == 4


def test_difficulty_is_a_parameter() -> None:
    assert (
        len(pattern_pairs(suites.kv_words(n_pairs=8).items[0].context or "", r"(\w+) is (\w+)"))
        == 8
    )
    assert {item.group for item in suites.kv_ids(sizes=(5,)).items} == {
        f"5 pairs, {third} third" for third in ("first", "middle", "last")
    }
    assert all(
        (item.context or "").count(". ") == 5 for item in suites.open_book(n_statements=6).items
    )
    assert {len(item.choices) for item in suites.facts(n_options=6).items} == {6}
    wide = suites.facts_open_book(n_sentences=8).items
    # Two relations have too few facts with other answers.
    stated = {item.group: (item.context or "").count(".") for item in wide}
    assert {group for group, count in stated.items() if count < 8} == {"continent", "weekday"}
    assert set(stated.values()) <= {6, 7, 8}
    assert {item.group for item in suites.arithmetic(digits=(3,)).items} == {
        "3-digit sum",
        "3-digit difference",
    }
    assert max(int(item.answer) for item in suites.word_problems(largest=60).items) > 60
    assert len((suites.order(n_people=5).items[0].context or "").split(".")) == 5
    assert (suites.two_hop(n_chains=6).items[0].context or "").count(" has the ") == 6
    assert {item.group for item in suites.hops(hops=3).items} == {"3 hops"}
    assert len(suites.sum_chain(terms=(6,)).items[0].question.split()) == 11
    assert len(suites.brackets(depth=6).items[0].answer.split()) == 6
    assert len(suites.repetition(length=20, shown=5).items[0].answer.split()) == 15
    far = suites.passage(n_items=8, n_between=3).items
    near = suites.passage(n_items=8).items
    assert all(
        a.question.count(".") == b.question.count(".") + 3 for a, b in zip(far, near, strict=True)
    )


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: suites.kv_words(n_pairs=3), "There are 4 to 26 pairs, not 3"),
        (lambda: suites.kv_ids(sizes=(4, 40)), "There are 4 to 16 pairs, not 40"),
        (lambda: suites.facts_open_book(n_sentences=3), "The context holds 4 to 8 facts, not 3"),
        (
            lambda: suites.facts(n_options=9),
            "There are 2 to 6 options, not 9; choose another value.",
        ),
        (lambda: suites.open_book(n_statements=3), "There are 4 to 6 statements, not 3"),
        (lambda: suites.arithmetic(digits=(0,)), "Digits are 1 to 4, not (0,)"),
        (lambda: suites.word_problems(largest=4), "The largest number is 5 or more, not 4"),
        (lambda: suites.hops(hops=5), "There are 1 to 4 hops, not 5; choose another value."),
        (lambda: suites.passage(n_between=7), "There are 0 to 6 sentences between, not 7"),
        (lambda: suites.sum_chain(terms=(2, 3)), "A chain has 3 to 12 terms, not (2, 3)"),
        (
            lambda: suites.brackets(depth=1, n_closed=0),
            "Only 0 different questions were found, not 200",
        ),
        (lambda: suites.repetition(length=6, shown=4), "At least 4 of 6 words must be left, not 2"),
    ],
)
def test_impossible_difficulty_is_refused(make, sentence: str) -> None:
    with pytest.raises(UserError) as caught:
        make()
    assert sentence in str(caught.value)
