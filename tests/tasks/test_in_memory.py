"""Tasks of data in memory: the same as from a file, whatever holds the rows, and hostile rows."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest

import layerwise as lw
from layerwise.tasks.items import Item
from tests.models.tiny import tiny_model

ROWS: list[dict[str, Any]] = [
    {"q": f"What is {n} and {n + 1}?", "options": [str(2 * n + 1), str(3 * n + 40)], "right": n % 2,
     "passage": f"Note {n}."}
    for n in range(9)
]  # fmt: skip
for row in ROWS:  # the right option is the one at the place that the row names
    row["options"] = row["options"][:: 1 if row["right"] == 0 else -1]
FIELDS: dict[str, Any] = {
    "question": "q", "choices": "options", "answer": "right", "context": "passage",
}  # fmt: skip


def without_ids(items: tuple[Item, ...]) -> list[Item]:
    return [replace(item, id="") for item in items]


def test_rows_make_the_task_that_a_file_of_them_makes(tmp_path):
    lines = [
        {"question": row["q"], "answer": row["options"][row["right"]], "choices": row["options"],
         "context": row["passage"]}
        for row in ROWS
    ]  # fmt: skip
    path = tmp_path / "mine.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)))
    of_file, task = lw.load_task(str(path)), lw.task_from(ROWS, name="mine", **FIELDS)
    assert without_ids(task.items) == without_ids(of_file.items)
    assert without_ids(task.fewshot) == without_ids(of_file.fewshot)
    assert (len(task.items), len(task.fewshot)) == (6, 3)
    assert (task.generate, task.template) == (of_file.generate, of_file.template)
    assert dict(task.chance) == dict(of_file.chance)
    assert task.items[0].id == "mine/0000"
    assert task.items[1].answer == "3"


def data_set(rows):
    datasets = pytest.importorskip("datasets")
    return datasets.Dataset.from_list(rows)


@pytest.mark.parametrize(
    "held", [pd.DataFrame, data_set, tuple, iter, lambda rows: (dict(row) for row in rows)]
)
def test_whatever_holds_the_rows_gives_the_same_task(held):
    assert lw.task_from(held(ROWS), **FIELDS).hash == lw.task_from(ROWS, **FIELDS).hash


@pytest.mark.parametrize(
    "choices", [["one", "two"], lambda row: [row["one"], row["two"]],
                lambda row: np.array([row["one"], row["two"]]),
                lambda row: {"text": (row["one"], row["two"]), "label": ("A", "B")}],
)  # fmt: skip
def test_choices_are_columns_or_a_function(choices):
    rows = [
        {"q": row["q"], "one": row["options"][0], "two": row["options"][1],
         "key": "AB"[row["right"]]}
        for row in ROWS
    ]  # fmt: skip
    task = lw.task_from(rows, question="q", choices=choices, answer="key")
    usual = lw.task_from(ROWS, **FIELDS | {"context": None})
    assert task.hash == usual.hash
    own = lw.task_from(
        pd.DataFrame(rows), choices=choices, question=lambda row: row["q"],
        answer=lambda row: row["key"], fewshot=2,
    )  # fmt: skip
    assert own.items[:6] == usual.items
    assert len(own.fewshot) == 2


def test_numbers_and_empty_passages_are_read_as_people_write_them():
    rows = [
        {"question": 12, "answer": 2.5, "context": np.nan},
        {"question": np.int64(3), "answer": np.float64(0.5), "context": None},
        {"question": "x", "answer": True, "context": pd.NA},
        {"question": "y", "answer": "No", "context": "A passage."},
    ]
    task = lw.task_from(rows, context="context")
    assert [item.question for item in task.items] == ["12", "3", "x", "y"]
    assert [item.answer for item in task.items] == ["2.5", "0.5", "True", "No"]
    assert [item.context for item in task.items] == [None, None, None, "A passage."]
    assert [item.choices for item in task.items][2:] == [("True", "False"), ("Yes", "No")]


def test_repeated_questions_are_one_cluster():
    rows = [{"question": "a?", "answer": "b"}, {"question": "a?", "answer": "b"}]
    first, second = lw.task_from([*rows, {"question": "d?", "answer": "b"}]).items[:2]
    assert first.cluster == second.cluster is not None


def changed(number: int, **cells: Any) -> list[dict[str, Any]]:
    """The rows with other cells in one."""
    return [row | cells if n == number else row for n, row in enumerate(ROWS)]


@pytest.mark.parametrize(
    ("rows", "fields", "says"),
    [
        (changed(4, q=None), {}, r"Row 4 of the data \(from 0\): column 'q' \(question\) is empty"),
        (changed(4, q=float("nan")), {}, r"Row 4 .*'q' \(question\) is empty"),
        (changed(4, q=pd.NaT), {}, r"Row 4 .*'q' \(question\) is empty"),
        (changed(4, q="  "), {}, r"Row 4 .*'q' \(question\) is empty"),
        (changed(4, q=float("inf")), {}, r"Row 4 .*is inf, too large"),
        (changed(4, q="a\ud800"), {}, r"Row 4 .*half of one \(a lone surrogate\)"),
        (changed(4, q="a\0"), {}, r"Row 4 .*has a null character"),
        (changed(4, q=b"a"), {}, r"Row 4 .*expected a text or a number"),
        (changed(4, q=["a"]), {}, r"Row 4 .*expected a text or a number"),
        (changed(4, right=2), {}, r"Row 4 .*field 'answer' is '2'; expected the text, label or"),
        (changed(4, right=None), {}, r"Row 4 .*'right' \(answer\) is empty"),
        (changed(4, options=["9"]), {}, r"Row 4 .*'choices' has length 1; expected 2 or more"),
        (changed(4, options=["9", "9"]), {}, r"Row 4 .*'choices' has the same text twice"),
        (changed(4, options=["9", None]), {}, r"Row 4 .*'options' \(choices\) is None; expected"),
        (changed(4, options=["9", ""]), {}, r"Row 4 .*'options' \(choices\) is empty"),
        (changed(4, options=["9", "\udfff"]), {}, r"Row 4 .*lone surrogate"),
        (changed(4, options="9, 52"), {}, r"Row 4 .*'9, 52', not a list; expected a list"),
        (changed(4, options=None), {}, r"Row 4 .*None, not a list"),
        (changed(4, options={"text": ["9", "52"], "label": ["A"]}), {}, r"2 texts and 1 label"),
        ([*ROWS, {"q": "z"}], {}, r"Row 9 .*no column 'right' \(answer\); its columns are 'q'"),
        (ROWS, {"question": "p"}, r"Row 0 .*no column 'p' \(question\); its columns are 'q', "),
        (ROWS, {"question": lambda row: row["p"]},
         r"Row 0 .*the function of 'question' raised KeyError: 'p'; expected it to give"),
        (ROWS, {"choices": lambda row: 1 / 0}, r"Row 0 .*'choices' raised ZeroDivisionError"),
        (ROWS, {"answer": lambda row: object()}, r"Row 0 .*field 'answer' is <object"),
        ([*ROWS, 3], {}, r"Row 9 of the data \(from 0\) is 3, in argument 'dataset'"),
        ({"q": ["a"], "right": [0]}, {}, "is a dict of 'q', 'right': expected rows"),
        (ROWS, {"fewshot": 9}, "The data has 9 rows, so 9 of them cannot be few-shot examples"),
        (ROWS, {"name": "a/b"}, "Argument 'name' is 'a/b'; expected a text without a slash"),
        (ROWS, {"answer_is": "place from 0"}, "Unknown way to read answers 'place from 0'"),
        (ROWS[:6] + changed(7, q=ROWS[0]["q"], passage=ROWS[0]["passage"])[6:], {},
         "shows the answer to its item 'data/0000' as few-shot example 'data/0007'"),
    ],
)  # fmt: skip
def test_rows_that_cannot_be_read_are_refused_by_their_number(rows, fields, says):
    with pytest.raises(lw.UserError, match=says) as caught:
        lw.task_from(rows, **FIELDS | fields)
    assert len(str(caught.value)) < 500
    str(caught.value).encode()


def test_an_answer_that_could_name_two_choices_is_refused_until_it_is_said_which():
    rows = [{"question": f"q{n}", "choices": ["1", "0"], "answer": n % 2} for n in range(4)]
    with pytest.raises(lw.UserError, match=r"Row 0 .*add answer_is='text' or answer_is='place'"):
        lw.task_from(rows, choices="choices")
    by_text = lw.task_from(rows, choices="choices", answer_is="text")
    by_place = lw.task_from(rows, choices="choices", answer_is="place")
    assert [item.answer for item in by_text.items] == ["0", "1", "0", "1"]
    assert [item.answer for item in by_place.items] == ["1", "0", "1", "0"]


def test_a_table_with_a_column_twice_is_refused():
    table = pd.DataFrame([["a", "b", "c"]], columns=["question", "answer", "answer"])
    with pytest.raises(lw.UserError, match="has the column 'answer' twice"):
        lw.task_from(table)


def test_a_run_of_data_in_memory_goes_on_with_the_same_content_only(tmp_path):
    model = tiny_model("llama")
    asked: dict[str, Any] = {"protocols": "continuation", "layers": [0], "progress": False}
    asked |= {"out": tmp_path / "run"}
    first = lw.ablate(model, lw.task_from(ROWS, **FIELDS), **asked)
    again = lw.ablate(model, lw.task_from(pd.DataFrame(ROWS), **FIELDS), **asked)
    pd.testing.assert_frame_equal(again.records, first.records)
    assert first.facts.tasks[0].source == "data in memory"
    page = lw.report(first).text
    assert "--task" not in page
    with pytest.raises(lw.UserError, match="other settings") as caught:
        lw.ablate(model, lw.task_from(changed(0, q="What is 1?"), **FIELDS), **asked)
    assert "task" in str(caught.value)


def test_items_that_are_too_long_are_refused_as_those_of_files_are():
    rows = changed(1, passage="a door " * 400)
    with pytest.raises(lw.UserError, match="data/0001"):
        lw.ablate(tiny_model("llama"), lw.task_from(rows, **FIELDS), "continuation", progress=False)
