"""Users' own files beside lines of JSON: tables, task files, and data sets with other columns."""

from __future__ import annotations

import json
import sys
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from layerwise.errors import UserError
from layerwise.ground import limited
from layerwise.sweep.requests import Generated
from layerwise.tasks import build_requests, expand_task_names, load_task, score

from .tokenizers import byte_level, with_chat

ROWS: list[dict[str, Any]] = [
    {"question": "Who sings, and when?", "answer": "Anna", "aliases": ["Anne", "Ann"],
     "choices": ["Ben", "Anna"], "context": "Anna sings.\nOtto does not."},
    {"question": "Is Rome here?", "answer": "yes", "choices": ["yes", "no"], "id": "rome",
     "corrupted_question": "Is Bonn here?", "corrupted_answer": "no"},
]  # fmt: skip
CSV = """\ufeffquestion,answer,aliases,choices,context,id,corrupted_question,corrupted_answer
"Who sings, and when?",Anna,Anne|Ann,Ben|Anna,"Anna sings.
Otto does not.",mine/0001,,

Is Rome here?,yes,,yes | no,,rome,Is Bonn here?,no
"""


def as_lines(folder: Path) -> str:
    path = folder / "mine.jsonl"
    path.write_text("\n".join(map(json.dumps, ROWS)), encoding="utf-8")
    return str(path)


def as_csv(folder: Path, text: str = CSV, end: str = "\n") -> str:
    path = folder / "mine.csv"
    path.write_bytes(text.replace("\n", end).encode())
    return str(path)


def as_parquet(folder: Path, rows: list[dict[str, Any]] = ROWS) -> str:
    path = folder / "mine.parquet"
    fields = list(dict.fromkeys(field for row in rows for field in row))
    columns = {field: [row.get(field) for row in rows] for field in fields}
    pq.write_table(pa.table(columns), path)
    return str(path)


@pytest.mark.parametrize("write", [as_csv, partial(as_csv, end="\r\n"), as_parquet])
def test_a_table_is_the_same_task_as_lines(tmp_path: Path, write: Any) -> None:
    path = write(tmp_path)
    task = load_task(path)
    assert (task.name, task.source) == ("mine", path)
    assert task.items == load_task(as_lines(tmp_path)).items
    assert expand_task_names([path]) == [path]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("question,answer\n", "is empty; expected one question a row."),
        ("question,question\na,b\n", ", line 1: column 'question' stands twice; expected each "
         "once."),
        ("question,answer\na,b,c\n", ", line 2: 3 cells, but 2 columns; expected one for each "
         "column, with quotes around commas."),
        ("question,answer\na,\n", ", line 2: field 'answer' is missing; expected a text."),
        ("question,reply\na,b\n", ", line 2: field 'answer' is missing (there are 'question', "
         "'reply'); expected a text."),
        ('question,answer\n"a"b,c\n', ", line 2: not CSV (',' expected after '\"')."),
        ("question,answer\na\0,c\n", ", line 2: field 'a cell' has a null character or half of "
         "one (a lone surrogate); expected a text of whole characters."),
    ],
)  # fmt: skip
def test_tables_that_are_not_tasks(tmp_path: Path, text: str, sentence: str) -> None:
    path = as_csv(tmp_path, text)
    with pytest.raises(UserError) as caught:
        load_task(path)
    assert str(caught.value) == f"File {path!r}" + (
        sentence if sentence.startswith(",") else f" {sentence}"
    )


def test_cells_and_headers_that_are_too_long_are_refused_at_once(tmp_path: Path) -> None:
    path = as_csv(tmp_path, f"question,answer\na,{'b' * 131_073}\n")
    with pytest.raises(UserError, match="line 2: a cell has more than 131,072 characters; expecte"):
        load_task(path)
    path = as_csv(tmp_path, ",".join(map(str, range(150_000))) + ",1\n")
    with pytest.raises(UserError, match="line 1: column '1' stands twice"):
        load_task(path)
    path = as_csv(
        tmp_path, "question," + ",".join(f"c{n}" for n in range(99)) + f"\na{',b' * 99}\n"
    )
    with pytest.raises(
        UserError, match=r"'answer' is missing \(there are 'question', .*, \.\.\.\)"
    ):
        load_task(path)


def test_parquet_files_that_are_not_tasks(tmp_path: Path) -> None:
    path = as_parquet(tmp_path, [{"question": "Who?", "answer": 3}])
    with pytest.raises(UserError, match="line 1: field 'answer' is not a text"):
        load_task(path)
    Path(path).write_bytes(b"PAR1")
    with pytest.raises(UserError, match=r"cannot be read .*; expected a Parquet file"):
        load_task(path)
    with pytest.raises(UserError, match=r"cannot be read \("):
        load_task(str(tmp_path / "nowhere.parquet"))


LINES = [
    {"question": "Which river flows through Vienna?", "answer": "Danube"},
    {"question": "How many are there?", "answer": "12"},
]
EXAMPLES = [{"question": f"Example {n}?", "answer": f"answer {n}"} for n in range(4)]


def task_file(folder: Path, text: str) -> str:
    for name, rows in (("mine", LINES), ("examples", EXAMPLES)):
        lines = "\n".join(map(json.dumps, rows))
        (folder / f"{name}.jsonl").write_text(lines, encoding="utf-8")
    (folder / "asked.toml").write_text(text, encoding="utf-8")
    return str(folder / "asked.toml")


WHOLE = """
task = "mine.jsonl"
fewshot = "examples.jsonl"
system = "Be brief."
question_prefix = "Q: "
answer_cue = "\\nA:"
answer_end = "."
separator = "\\n---\\n"
stop = ["\\n---"]
max_tokens = 40
extractor = "regex:is (\\\\w+)"
"""


def test_a_task_file_gives_words_examples_and_extractor(tmp_path: Path) -> None:
    task = load_task(task_file(tmp_path, WHOLE), fewshot=2)
    assert (task.name, task.source) == ("asked", str(tmp_path / "asked.toml"))
    item = task.items[0]
    (asked,) = build_requests(task, item, "generate", byte_level())
    assert asked.context == (
        "Q: Example 0?\nA: answer 0.\n---\nQ: Example 1?\nA: answer 1.\n---\n"
        "Q: Which river flows through Vienna?\nA:"
    )
    assert (asked.request.stop, asked.request.max_tokens) == (("\n---",), 40)
    scored = score(task, item, "generate", [asked], [Generated((), "It is Danube, I think")])
    assert (scored.correct, scored.extracted) == (True, "danube")
    (turns,) = build_requests(task, item, "generate", with_chat(), chat=True)
    assert turns.context.startswith("<s>[system] Be brief.\n[user] Q: Example 0?\nA:\n[assistant]")


def test_all_examples_of_the_file_are_shown_unless_fewer_are_wanted(tmp_path: Path) -> None:
    path = task_file(tmp_path, WHOLE)
    assert len(load_task(path).fewshot) == 4
    assert len(load_task(path, fewshot=0).fewshot) == 0
    with pytest.raises(UserError, match="has 4 few-shot examples, so 5 cannot be taken"):
        load_task(path, fewshot=5)


def test_items_may_be_those_of_any_task(tmp_path: Path) -> None:
    path = task_file(tmp_path, 'task = "facts"\nsystem = "Complete the sentence."')
    task, facts = load_task(path, fewshot=1, limit=8), load_task("facts", fewshot=1, limit=8)
    assert (task.items, task.fewshot, task.chance) == (facts.items, facts.fewshot, facts.chance)
    assert task.template == facts.template
    assert task.hash != facts.hash


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("task = ", "cannot be read (Invalid value"),
        ('system = "x"', "field 'task': field required; expected only task, fewshot, system,"),
        (
            'task = "facts"\ncolour = "x"',
            "field 'colour': extra inputs are not permitted; expected",
        ),
        ('task = "facts"\nmax_tokens = "x"', "field 'max_tokens': input should be a valid integer"),
        ('task = "facts"\nmax_tokens = 0', "'max_tokens' is 0; expected a whole number, 1 or more"),
        ('task = "facts"\nextractor = "first_lime"', "Did you mean 'first_line'?"),
        ('task = "facts"\nextractor = "regex:("', "regular expression '(' cannot be read"),
        ('task = "facts"\nstop = [""]', "expected a tuple of texts, none of them empty"),
        (
            'task = "facts"\nextractor = "regex:a{99999999999}"',
            "number is too large); expected one",
        ),
        (f'task = "{"x" * 5000}"', "Unknown task 'xxx"),
        ("task = 2020-01-01", "cannot be read (TypeError: Object of type date"),
        ("task = " + "[" * 5000, "cannot be read (RecursionError: maximum recursion depth"),
        ('task = "asked.toml"', "'task' is 'asked.toml', another task file"),
        ('task = "factz"', "Unknown task 'factz'"),
        ('task = "facts"\nfewshot = "none.jsonl"', "none.jsonl' cannot be read"),
        ('task = "facts"\nfewshot = "mine.txt"', "mine.txt' is of no kind that is read; expected"),
        ('task = "mine.jsonl"\nfewshot = "mine.jsonl"', "shows the answer to its item"),
    ],
)
def test_a_bad_task_file_is_refused_in_a_sentence(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(UserError) as caught:
        load_task(task_file(tmp_path, text))
    assert said in str(caught.value)


@pytest.fixture
def short_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let what is tried in a limited process have little time."""
    monkeypatch.setattr(limited, "SECONDS", 0.5)


@pytest.mark.usefixtures("short_limit")
def test_a_pattern_that_backtracks_is_refused_and_others_go_on(tmp_path: Path) -> None:
    path = task_file(tmp_path, 'task = "mine.jsonl"\nextractor = "regex:(a+)+$"')
    task = load_task(path)
    (asked,) = build_requests(task, task.items[0], "generate", byte_level())
    with pytest.raises(UserError, match=r"'\(a\+\)\+\$' needs more than .* for 41 characters; ex"):
        score(task, task.items[0], "generate", [asked], [Generated((), "a" * 40 + "!")])
    scored = score(task, task.items[0], "generate", [asked], [Generated((), "baa")])
    assert scored.extracted == "aa"


@pytest.mark.usefixtures("short_limit")
def test_a_key_of_many_dots_is_refused(tmp_path: Path) -> None:
    path = task_file(tmp_path, "a" + ".a" * 50_000 + " = 1")
    with pytest.raises(
        UserError, match=r"cannot be read \(more than .* expected a task file in TO"
    ):
        load_task(path)


def test_an_answer_of_many_digits_is_compared(tmp_path: Path) -> None:
    path = task_file(tmp_path, 'task = "mine.jsonl"\nextractor = "integer"')
    task = load_task(path)
    (asked,) = build_requests(task, task.items[0], "generate", byte_level())
    scored = score(task, task.items[0], "generate", [asked], [Generated((), "9" * 5000)])
    assert (scored.correct, scored.extracted) == (False, "9" * 5000)


ARC = [
    {"id": 1, "q": "Which, A or B?", "choices": {"text": ["x", "y"], "label": ["A", "B"]},
     "key": "B"},
    {"id": 2, "q": "And 1 or 2?", "choices": {"text": ["u", "v"], "label": ["1", "2"]},
     "key": "1"},
]  # fmt: skip


def write_split(folder: Path, rows: list[dict[str, Any]], split: str = "test") -> Path:
    text = "\n".join(map(json.dumps, rows))
    (folder / f"{split}.jsonl").write_text(text, encoding="utf-8")
    return folder


def test_columns_are_mapped(tmp_path: Path) -> None:
    name = f"hf:arc:question=q:choices=choices:answer=key:data={write_split(tmp_path, ARC)}"
    task = load_task(name)
    assert [(item.question, item.choices, item.answer) for item in task.items] == [
        ("Which, A or B?", ("x", "y"), "y"),
        ("And 1 or 2?", ("u", "v"), "u"),
    ]
    assert (task.name, task.source, task.chance["continuation"]) == ("hf:arc", name, 0.5)
    assert expand_task_names([name]) == [name]


@pytest.mark.parametrize(("answer", "right"), [("v", "v"), (1, "v"), ("0", "u"), ("B", "v")])
def test_the_answer_is_a_text_a_place_or_a_letter(tmp_path: Path, answer: Any, right: str) -> None:
    row = {"question": "Which?", "answer": answer, "one": "u", "two": "v"}
    folder = write_split(tmp_path, [row], "validation")
    name = f"hf:mine:split=validation:choices=one+two:capability=reasoning:data={folder}"
    task = load_task(name)
    assert (task.items[0].answer, task.capability) == (right, "reasoning")


def as_source(folder: Path, kind: str, rows: list[dict[str, Any]]) -> str:
    """Rows of questions with choices as a data set of a kind."""
    path = folder / f"test.{kind}"
    if kind == "jsonl":
        path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    elif kind == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        lines = [f"Q{n}?,{r['answer']},{'|'.join(map(str, r['choices']))}" for n, r in
                 enumerate(rows)]  # fmt: skip
        path.write_text("\n".join(["question,answer,choices", *lines]), encoding="utf-8")
    return f":data={folder}"


def question_row(answer: Any, choices: list[Any]) -> dict[str, Any]:
    return {"question": "Q?", "answer": answer, "choices": choices}


DIGITS = [1, 2, 3, 4]


@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet"])
@pytest.mark.parametrize(
    ("rows", "read_as", "right"),
    [
        ([question_row(2, DIGITS)], "", None),
        ([question_row(2, DIGITS)], "place", ["3"]),
        ([question_row(2, DIGITS)], "text", ["2"]),
        ([question_row(2, DIGITS)], "label", None),
        ([question_row(4, DIGITS)], "", ["4"]),
        ([question_row(2, DIGITS), question_row(0, [7, 8, 9])], "", ["3", "7"]),
        ([question_row(2, DIGITS), question_row(9, [7, 8, 9])], "", ["2", "9"]),
        ([question_row(1, [5, 6, 7]), question_row(3, DIGITS[:3])], "", None),
        ([question_row("A", ["B", "A"])], "", None),
        ([question_row("A", ["B", "A"]), question_row("B", ["x", "y"])], "", ["B", "y"]),
        ([question_row(0.1, [0.1, 2.5])], "", ["0.1"]),
    ],
)
def test_all_kinds_of_files_have_the_same_right_choice(tmp_path, kind, rows, read_as, right):
    arguments = f":answer_is={read_as}" if read_as else ""
    name = f"hf:mine:choices=choices{arguments}{as_source(tmp_path, kind, rows)}"
    if right is None:
        with pytest.raises(UserError, match=rf"test\.{kind}', line \d: .*answer"):
            load_task(name)
    else:
        assert [item.answer for item in load_task(name).items] == right


def test_an_answer_that_may_be_two_choices_is_refused_with_what_to_add(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        load_task(
            "hf:mine:choices=choices" + as_source(tmp_path, "jsonl", [question_row(2, DIGITS)])
        )
    assert str(caught.value).endswith(
        "test.jsonl', line 1: the answer '2' is the text of option 2 and the place of option 3; "
        "add answer_is=text or answer_is=place to the task's name."
    )
    with pytest.raises(UserError, match=r"Unknown way to read answers .* Did you mean 'place'"):
        load_task(f"hf:mine:choices=choices:answer_is=plac:data={tmp_path}")


def test_labels_of_the_data_set_are_named_rather_than_places(tmp_path: Path) -> None:
    rows = [ARC[1] | {"choices": {"text": ["2", "1"], "label": ["1", "2"]}}] * 2
    name = "hf:arc:question=q:choices=choices:answer=key"
    with pytest.raises(UserError, match="the text of option 2 and the label of option 1"):
        load_task(f"{name}:data={write_split(tmp_path, rows)}")
    rows[0] = ARC[1]
    task = load_task(f"{name}:data={write_split(tmp_path, rows)}")
    assert [item.answer for item in task.items] == ["u", "2"]


@pytest.mark.parametrize(
    ("value", "text"), [("2.50", "2.50"), ("1234567", "1234567"), ("0.1", "0.1"), ("1e3", "1000")]
)
def test_numbers_of_a_data_set_keep_their_digits(tmp_path: Path, value: str, text: str) -> None:
    (tmp_path / "test.jsonl").write_text(f'{{"question": {value}, "answer": {value}}}')
    (item,) = load_task(f"hf:x:question=is {{question}}:data={tmp_path}").items
    assert (item.question, item.answer) == (f"is {text}", text)


@pytest.mark.parametrize("value", ["NaN", "-Infinity", "1e999", "null", "[]", "{}", "[1]"])
@pytest.mark.parametrize("column", ["question", "answer", "choices", "context", "label"])
def test_a_column_of_another_type_is_refused(tmp_path: Path, value: str, column: str) -> None:
    choices = {"text": ["a", "b"], "label": ["A", "B"]}
    row: dict[str, Any] = {"question": "?", "answer": "a", "context": "c", "choices": choices}
    holder = choices if column == "label" else row
    holder[column] = json.loads(value)
    (tmp_path / "test.jsonl").write_text(json.dumps(row), encoding="utf-8")
    with pytest.raises(UserError, match=r"test.jsonl', line 1: (column|field) .*; expected"):
        load_task(f"hf:x:choices=choices:context=context:data={tmp_path}")


def test_short_floats_of_parquet_do_not_gain_digits(tmp_path: Path) -> None:
    short = pa.array([0.1, 2.5], pa.float32())
    listed = pa.array([[0.1, 0.7]] * 2, pa.list_(pa.float32()))
    pq.write_table(pa.table({"question": ["a?", "b?"], "answer": short, "many": listed}),
                   tmp_path / "test.parquet")  # fmt: skip
    assert [item.answer for item in load_task(f"hf:x:data={tmp_path}").items] == ["0.1", "2.5"]
    with pytest.raises(UserError, match=r"line 2: field 'answer' is '2\.5'"):
        load_task(f"hf:x:choices=many:data={tmp_path}")


@pytest.mark.parametrize("split", ["**", "te?t", "[", "..", "*"])
def test_a_split_is_a_name_and_no_pattern(tmp_path: Path, split: str) -> None:
    with pytest.raises(UserError, match="has no file of the split"):
        load_task(f"hf:arc:{split}:data={write_split(tmp_path, ARC)}")


def test_an_endless_path_is_not_told_whole() -> None:
    with pytest.raises(UserError, match="has no file of the split") as refused:
        load_task(f"hf:x:data=/tmp/{'x' * 5000}")
    assert len(str(refused.value)) < 500


def test_files_of_a_split_stand_in_folders_below(tmp_path: Path) -> None:
    (tmp_path / "easy" / "data").mkdir(parents=True)
    write_split(tmp_path / "easy", ARC, "test-1")
    write_split(tmp_path / "easy" / "data", ARC[:1], "test")
    mapped = "question=q:choices=choices:answer=key"
    assert len(load_task(f"hf:arc:{mapped}:data={tmp_path}").items) == 3
    assert len(load_task(f"hf:arc:split=data/te:{mapped}:data={tmp_path}").items) == 1


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="needs /proc")
@pytest.mark.parametrize("source", ["hf:x", "benchmark:mmlu", "benchmark:relations"])
def test_a_folder_of_the_system_is_refused(source: str, monkeypatch: Any) -> None:
    monkeypatch.setattr("layerwise.tasks.columns._MOST_FOLDERS", 50)
    with pytest.raises(UserError, match="'/proc' has"):
        load_task(f"{source}:data=/proc")


def test_templates_and_several_files_of_a_split(tmp_path: Path) -> None:
    for shard in range(2):
        table = pa.table({"a": [3, 4], "b": [shard, shard], "sum": [3 + shard, 4 + shard]})
        pq.write_table(table, tmp_path / f"test-0000{shard}-of-00002.parquet")
    task = load_task(f"hf:sums:question={{a}} + {{b}} =:answer=sum:data={tmp_path}")
    assert [(item.question, item.answer) for item in task.items] == [
        ("3 + 0 =", "3"), ("4 + 0 =", "4"), ("3 + 1 =", "4"), ("4 + 1 =", "5"),
    ]  # fmt: skip
    assert set(task.chance) == {"generate"}


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        ("question=query", "line 1: no column 'query'; its columns are id, q, choices, key."),
        ("question=q:answer=id:choices=q", "line 1: column 'q' is 'Which, A or B?', not a list"),
        ("question=q:answer=id:choices=choices", "line 2: field 'answer' is '2'; expected"),
        ("question=q:split=dev", "has no file of the split 'dev'; expected a .jsonl, .csv or"),
        ("questions=q", "it takes question=..., answer=..., choices=..., context=..., cluster="),
        ("question=q:answer=key:capability=maths", "field 'capability' is unknown"),
    ],
)
def test_what_the_data_set_does_not_have(tmp_path: Path, arguments: str, part: str) -> None:
    with pytest.raises(UserError) as caught:
        load_task(f"hf:arc:{arguments}:data={write_split(tmp_path, ARC)}")
    assert part in str(caught.value)


MAPPED = "question=q:choices=choices:answer=key"


def hub(monkeypatch: pytest.MonkeyPatch, answer: Any) -> list[tuple[Any, ...]]:
    """A package ``datasets`` that gives rows or raises, and what it was called with."""
    calls: list[tuple[Any, ...]] = []

    def load_dataset(*name: Any, split: str) -> Any:
        calls.append((*name, split))
        if isinstance(answer, Exception):
            raise answer
        return answer

    module: Any = ModuleType("datasets")
    module.load_dataset, module.__version__ = load_dataset, "5.2.0"
    monkeypatch.setitem(sys.modules, "datasets", module)
    return calls


def test_a_split_of_the_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    calls = hub(monkeypatch, [row | {"image": None} for row in ARC])
    task = load_task(f"hf:allenai/arc:test:config=easy:{MAPPED}")
    here = load_task(f"hf:arc:{MAPPED}:data={write_split(tmp_path, ARC)}")
    assert (task.items, task.chance) == (here.items, here.chance)
    assert task.name == "hf:allenai/arc"
    load_task(f"hf:allenai/arc:{MAPPED}:split=test")
    assert calls == [("allenai/arc", "easy", "test"), ("allenai/arc", None, "test")]


def test_a_split_of_the_hub_that_cannot_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    hub(monkeypatch, ConnectionError("no route to host"))
    name = f"hf:allenai/arc:dev:{MAPPED}"
    with pytest.raises(UserError) as caught:
        load_task(name)
    assert str(caught.value) == (
        "The split 'dev' of 'allenai/arc' cannot be loaded (ConnectionError: no route to host); "
        "expected a network, or the data set in the hub's cache here, with this split and config=; "
        f"or give local files: {name}:data=FOLDER."
    )
    monkeypatch.setattr("datasets.__version__", "2.16.1")
    with pytest.raises(UserError, match=r"release 2\.16\.1, which may run code of a data set"):
        load_task(name)
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UserError, match=r"'layerwise\[datasets\]', or give local"):
        load_task(name)
