"""Users' own files: what is read from them, and every sentence about what is wrong."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from layerwise.errors import UserError
from layerwise.sweep.requests import Generated
from layerwise.tasks import (
    Corruption,
    Item,
    build_requests,
    load_task,
    patching_prompts,
    score,
)
from layerwise.tasks._lines import MOST_BYTES_A_LINE

from .tokenizers import byte_level


def row(number: int, **more: Any) -> dict[str, Any]:
    return {
        "question": f"What is {number} + 1?",
        "answer": str(number + 1),
        "choices": [str(number), str(number + 1)],
        **more,
    }


def write_jsonl_file(folder: Path, *lines: str | dict[str, Any], name: str = "mine.jsonl") -> str:
    texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    path = folder / name
    path.write_text("\n".join(texts) + "\n", encoding="utf-8")
    return str(path)


def test_rows_become_items(tmp_path: Path) -> None:
    path = write_jsonl_file(
        tmp_path,
        {"question": " Who? ", "answer": "Anna", "context": "Anna sings.", "id": "who"},
        "",
        {"question": "Where?", "answer": "Paris", "choices": ["Rome", "Paris"]},
    )
    task = load_task(path)
    assert task.items == (
        Item(id="who", question="Who?", answer="Anna", context="Anna sings."),
        Item(id="mine/0003", question="Where?", answer="Paris", choices=("Rome", "Paris")),
    )
    assert (task.name, task.capability, task.source) == ("mine", "knowledge", path)
    assert task.description == "questions from mine.jsonl"
    assert set(task.chance) == {"generate"}


def test_a_row_may_have_a_corrupted_twin_and_other_accepted_answers(tmp_path: Path) -> None:
    path = write_jsonl_file(
        tmp_path,
        {
            "question": "Who sings?", "answer": "Anna", "aliases": ["Anne"],
            "context": "Anna sings.", "corrupted_context": "Otto sings.",
            "corrupted_answer": "Otto",
        },
        {
            "question": "Is Rome here?", "answer": "yes", "corrupted_question": "Is Bonn here?",
            "corrupted_answer": "no",
        },
    )  # fmt: skip
    task = load_task(path)
    first, second = task.items
    assert first.aliases == ("Anne",)
    assert first.corruption == Corruption("Who sings?", "Otto", "Otto sings.")
    assert second.corruption == Corruption("Is Bonn here?", "no")
    for item in task.items:
        prompts = patching_prompts(task, item, byte_level())
        assert prompts is not None
        assert all(prompts.changed_ranges)


def test_rows_that_ask_for_the_same_thing_can_say_so(tmp_path: Path) -> None:
    rows = [row(number, cluster=f"fact {number // 2}") for number in range(4)]
    task = load_task(write_jsonl_file(tmp_path, *rows, row(4)))
    assert [item.cluster for item in task.items] == ["fact 0"] * 2 + ["fact 1"] * 2 + [None]


def test_rows_that_repeat_a_question_are_one_cluster(tmp_path: Path) -> None:
    rows = [row(1), row(2), row(1), row(3), row(3, cluster="three"), row(1, cluster="mine")]
    differs = [row(1, answer="1"), row(1, context="It is 3.")]
    task = load_task(write_jsonl_file(tmp_path, *rows, *differs), fewshot=0)
    clusters = ["mine", None, "mine", "three", "three", "mine", None, None]
    assert [item.cluster for item in task.items] == clusters
    task = load_task(write_jsonl_file(tmp_path, row(1), row(1)))
    assert [item.cluster for item in task.items] == ["as mine/0001"] * 2


@pytest.mark.parametrize(("rows", "asked"), [(2, 2), (7, 7), (8, 5), (20, 17)])
def test_the_last_rows_are_fewshot_examples_if_there_are_enough(tmp_path, rows, asked):
    task = load_task(write_jsonl_file(tmp_path, *(row(number) for number in range(rows))))
    assert (len(task.items), len(task.fewshot)) == (asked, rows - asked)
    numbers = [item.answer for item in (*task.items, *task.fewshot)]
    assert numbers == [str(number + 1) for number in range(rows)]


def test_number_of_fewshot_examples_can_be_chosen(tmp_path: Path) -> None:
    path = write_jsonl_file(tmp_path, *(row(number) for number in range(10)))
    assert [len(load_task(path, fewshot=count).items) for count in (0, 1, 9)] == [10, 9, 1]
    assert len(load_task(path, fewshot=2, limit=4).items) == 4
    with pytest.raises(UserError) as caught:
        load_task(path, fewshot=10)
    assert str(caught.value) == (
        f"File {path!r} has 10 rows, so 10 of them cannot be few-shot examples; ask for a number "
        "from 0 to 9."
    )


def test_chance_levels(tmp_path: Path) -> None:
    four = {"question": "Which?", "answer": "a", "choices": ["a", "b", "c", "d"]}
    two = {"question": "Which one?", "answer": "A", "choices": ["A", "B"]}
    other = {"question": "Which now?", "answer": "b", "choices": ["A", "b"]}
    task = load_task(write_jsonl_file(tmp_path, four, two, other))
    assert task.chance["letter"] == task.chance["continuation"] == pytest.approx(1.25 / 3)
    # "a" and "A" are the same answer when it is generated.
    assert task.chance["generate"] == pytest.approx(2 / 3)


def test_there_is_room_for_the_longest_answer(tmp_path: Path) -> None:
    long = "a rather long answer about the capital of France and the capital of Spain"
    path = write_jsonl_file(tmp_path, row(1), {"question": "Which?", "answer": long})
    spec = load_task(path).generate
    assert spec.max_tokens >= len(byte_level()(" " + long)["input_ids"])
    assert (spec.stop, spec.extractor) == (("\n",), "first_line")


GOOD = json.dumps(row(1))
HALF = "has a null character or half of one (a lone surrogate); expected a text of whole characters"
ONE = '{"question": "Who?", "answer": "a"'


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ('{"question": "Who?"', "not JSON (Expecting ',' delimiter); expected one object a line"),
        ('["Who?", "Anna"]', "not a JSON object; expected one like"),
        ("[" * 100_000, "not JSON (nested too deeply); expected one object a line"),
        ('{"question": "Who?"}', "field 'answer' is missing; expected a text"),
        ('{"question": "  ", "answer": "a"}', "field 'question' is empty; expected a text"),
        ('{"question": "2?", "answer": 2}', "field 'answer' is not a text; put it in quotes"),
        ('{"question": "Who?", "answer": "a\\nb"}', "field 'answer' has a line break; expected"),
        (ONE + ', "choices": "ab"}', "field 'choices' is not a list; expected texts in square"),
        (ONE + ', "choices": ["a"]}', "field 'choices' has length 1; expected 2 or more"),
        (ONE + ', "choices": ["a", "b", "b "]}', "field 'choices' has the same text twice"),
        (ONE + ', "choices": ["c", "b"]}', "field 'answer' is 'a'; expected one of the choices"),
        (ONE + ', "capability": "memory"}', "is unknown; expected one of retrieval, knowledge, "),
        (ONE + ', "capability": "reasoning"}', "'knowledge' before; make one file for each"),
        (ONE + ', "choice": ["a", "b"]}', "field 'choice' is unknown; expected only question, "),
        (ONE + ', "aliases": ["b"], "choices": ["a", "b"]}', "has the wrong choice 'b'; remove it"),
        (ONE + ', "corrupted_question": "Where?"}', "is not whole; expected 'corrupted_answer'"),
        (ONE + ', "corrupted_context": "b", "corrupted_answer": "b"}', "without a 'context'; add"),
        (ONE + ', "corrupted_question": "b", "corrupted_answer": "a"}', "right for the row itself"),
        (ONE + ', "id": "mine/0001"}', "'mine/0001', which an earlier line has; make it unique"),
        (ONE + ', "question": "What?"}', "field 'question' stands twice; expected each field once"),
        ('{"answer": %s}' % ("9" * 5000), "not JSON (a number is too long); expected one object"),
        ('{"question": "Who?", "answer": "\\ud83d"}', f"field 'answer' {HALF}"),
        ('{"question": "Who\\u0000?", "answer": "a"}', f"field 'question' {HALF}"),
        ('{"question": "Who\0?", "answer": "a"}', "not JSON (Invalid control character at)"),
        (
            '{"question": "Who?", "answer": "%s", "choices": ["a", "b"]}' % ("c" * 9000),
            f"field 'answer' is '{'c' * 116}...; expected one of the choices",
        ),
        ('{"question": "%s"}' % ("q" * MOST_BYTES_A_LINE), "longer than 1,048,576 bytes; expected"),
    ],
    ids=lambda value: value[:40],
)
def test_bad_lines_are_named(tmp_path: Path, line: str, what: str) -> None:
    path = write_jsonl_file(tmp_path, GOOD, line)
    with pytest.raises(UserError) as caught:
        load_task(path)
    assert str(caught.value).startswith(f"File {path!r}, line 2: ")
    assert what in str(caught.value)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", " is empty; expected one JSON object a line."),
        (b"\n \n", " is empty; expected one JSON object a line."),
        (GOOD.encode() + b'\n{"question": "O\xf9?"}',
         ", line 2: not UTF-8; save the file in that encoding."),
        (None, " cannot be read (No such file or directory); give the path of a .jsonl file."),
    ],
)  # fmt: skip
def test_files_without_rows_or_text_are_told(tmp_path, content, sentence):
    path = tmp_path / "mine.jsonl"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError) as caught:
        load_task(str(path))
    assert str(caught.value) == f"File {str(path)!r}{sentence}"


def test_a_long_line_is_refused_before_it_is_read_to_its_end(tmp_path: Path) -> None:
    """A file of one line, 100 GB long but for its holes, takes no more memory than its bound."""
    path = tmp_path / "endless.jsonl"
    with open(path, "wb") as file:
        file.truncate(100 * 2**30)
    tracemalloc.start()
    try:
        with pytest.raises(UserError, match="line 1: longer than 1,048,576 bytes"):
            load_task(str(path))
        assert tracemalloc.get_traced_memory()[1] < 8 * MOST_BYTES_A_LINE
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("answers", "choices"),
    [
        (["yes", "no"], ("yes", "no")),
        (["No", "Yes"], ("Yes", "No")),
        ([True, False], ("true", "false")),
        (["FALSE", "TRUE"], ("TRUE", "FALSE")),
    ],
)
def test_yes_and_no_are_choices_under_every_protocol(tmp_path, answers, choices):
    path = tmp_path / "mine.jsonl"
    rows = [{"question": f"Is it {n}?", "answer": answer} for n, answer in enumerate(answers * 2)]
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    task = load_task(str(path))
    assert {item.choices for item in task.items} == {choices}
    assert task.chance == {"generate": 0.5, "letter": 0.5, "continuation": 0.5}
    for protocol, texts in (
        ("letter", [" A", " B"]),
        ("continuation", [f" {one}" for one in choices]),
        ("generate", [None]),
    ):
        asked = build_requests(task, task.items[0], protocol, byte_level())
        assert [one.continuation for one in asked] == texts
        assert [one.gold for one in asked].count(True) == 1
    (asked,) = build_requests(task, task.items[0], "generate", byte_level())
    text = f" {str(task.items[0].answer).upper()}."
    assert score(task, task.items[0], "generate", [asked], [Generated((), text)]).correct
