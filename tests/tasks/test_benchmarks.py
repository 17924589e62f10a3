"""Benchmarks in files as their authors publish them."""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from layerwise.errors import UserError
from layerwise.runs.task_loading import load_tasks
from layerwise.tasks import Task, build_requests, load_task, patching_prompts
from layerwise.tasks._own import check_own_task
from layerwise.tasks.benchmarks import BENCHMARKS
from layerwise.tasks.items import bad_choices
from tests.hostile.documents import document_entries
from tests.hostile.limits import is_sentence

from .tokenizers import byte_level

REAL = Path(__file__).parents[3] / "shared" / "data"
RIVER = ["Rhine", "Danube", "Seine", "Po"]


def instruction(question: str, options: Sequence[str]) -> str:
    listed = " ".join(f"Answer{n}: {text}" for n, text in enumerate(options, 1))
    return f"Please choose the correct answer to the question: {question}\n\n{listed}\n\nAnswer"


def pairs(n: int) -> list[list[str]]:
    return [[f"key{place}", f"{chr(ord('a') + place)}-value"] for place in range(n)]


SUMS = "2+3=<<2+3=5>>5\n#### 1,005"
FILES: dict[str, tuple[str, Any, tuple[str, str, tuple[str, ...]]]] = {
    "gsm8k": ("test.jsonl", {"question": "How many?", "answer": SUMS}, ("How many?", "1,005", ())),
    "svamp": (
        "SVAMP.json",
        {"Body": "Dan had $ 4.", "Question": "What is left?", "Answer": 1.0},
        ("Dan had $ 4. What is left?", "1", ()),
    ),
    "mathqa": (
        "test.json",
        {"Problem": "what is 2 , 3 ?", "options": "a ) 1 , 2 , b ) 2 : 3 , c ) 3", "correct": "b"},
        ("what is 2 , 3 ?", "2 : 3", ("1 , 2", "2 : 3", "3")),
    ),
    "mathqa, as instructions": (
        "test.json",
        {"instruction": "what ? The options: A ) 1 , B ) none , C ) 3", "answer": "C"},
        ("what ?", "3", ("1", "none", "3")),
    ),
    "mathqa, as lists": (
        "test.json",
        {"instruction": "what ? The options: ['A ) 1 / 2', 'B ) 2']", "answer": "A"},
        ("what ?", "1 / 2", ("1 / 2", "2")),
    ),
    "openbookqa": (
        "test.jsonl",
        {
            "question": {
                "stem": "Which flows here?",
                "choices": [{"text": t, "label": k} for t, k in zip(RIVER, "ABCD", strict=True)],
            },
            "answerKey": "B",
        },
        ("Which flows here?", "Danube", tuple(RIVER)),
    ),
    "openbookqa, as instructions": (
        "test.json",
        {"instruction": instruction("Which: here?", RIVER), "answer": "answer3"},
        ("Which: here?", "Seine", tuple(RIVER)),
    ),
    "hellaswag": (
        "hellaswag_val.jsonl",
        {
            "ctx": "unused", "activity_label": "Rafting", "ctx_a": "[header] A boat.",
            "ctx_b": "it", "endings": ["sinks.", "[title] swims."], "label": "1",
        },
        ("Rafting:  A boat. It".replace("  ", " "), "swims.", ("sinks.", "swims.")),
    ),
    "hellaswag, as text": (
        "validation_9.jsonl",
        {"ctx": "A boat. it", "endings": ["sinks.", "swims."], "label": 0},
        ("A boat. it", "sinks.", ("sinks.", "swims.")),
    ),
}  # fmt: skip


TRUE_OR_NOT = {"a": 1, "b": 0}
FACTS = [("Paris", "France"), ("Rome", "Italy"), ("Turin", "Italy"), ("Bonn", "Germany")]
SAMPLES = [{"subject": city, "object": land} for city, land in FACTS]
OTHERS: dict[str, list[dict[str, Any]]] = {
    "openbookqa_facts": [FILES["openbookqa"][1] | {"fact1": "a fact"}],
    "truthfulqa": [{"question": "Q?", "mc1_targets": TRUE_OR_NOT}],
    "kv_retrieval": [{"ordered_kv_records": pairs(5), "key": "key1", "value": "b-value"}],
    "known_1000": [
        {"subject": city, "attribute": land, "prompt": f"{city} lies in", "relation_id": "P17"}
        for city, land in FACTS
    ],
    "relations": [{"prompt_templates": ["{} is in"], "samples": SAMPLES}],
    "mmlu": [
        {"question": "Q?", "answer": "1"} | {f"choice{n}": one for n, one in enumerate(RIVER)}
    ],
}
ROWS = {case: [row] for case, (_, row, _) in FILES.items()} | OTHERS
"""Rows as they are published, of each benchmark in each of its forms."""


def write(folder: Path, name: str, rows: Any) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = "\n".join(map(json.dumps, rows)) if path.suffix == ".jsonl" else json.dumps(rows)
    path.write_text(lines, encoding="utf-8")
    return path


@pytest.mark.parametrize("case", FILES)
def test_a_row_becomes_an_item(tmp_path: Path, case: str) -> None:
    file, row, (question, answer, choices) = FILES[case]
    write(tmp_path, file, [row])
    (item,) = load_task(f"benchmark:{case.split(',')[0]}:data={tmp_path}").items
    assert (item.question, item.answer, item.choices) == (question, answer, choices)


def test_openbookqa_with_facts_is_paired_with_the_same_questions_without(tmp_path: Path) -> None:
    row = FILES["openbookqa"][1]
    same = row["question"] | {"choices": [{"text": "Po", "label": k} for k in "ABCD"]}
    rows = [row | {"question": same}, row, row | {"answerKey": "A"}]
    write(tmp_path, "openbookqa/Main/test.jsonl", rows)
    facts = [one | {"fact1": f"fact {n} "} for n, one in enumerate(rows)]
    write(tmp_path, "openbookqa/Additional/test_complete.jsonl", facts)
    names = [f"benchmark:{name}:data={tmp_path}" for name in ("openbookqa", "openbookqa_facts")]
    plain, told = load_tasks(names, seed=0, limit=None, fewshot=None)
    assert [item.id for item in plain.items] == ["openbookqa/0001", "openbookqa/0002"]
    assert [item.pair for item in told.items] == ["openbookqa/0001", "openbookqa/0002"]
    assert told.capability == "retrieval"
    (asked, *_) = build_requests(told, told.items[0], "continuation", byte_level())
    assert asked.context == "fact 1\nWhich flows here?"
    assert told.chance["continuation"] == 0.25
    write(tmp_path, "openbookqa/Additional/test_complete.jsonl", rows)
    with pytest.raises(UserError, match="line 1: no field 'fact1'; expected the authors' own"):
        load_task(names[1])


def test_gsm8k_takes_its_worked_examples_from_its_training_file(tmp_path: Path) -> None:
    row = FILES["gsm8k"][1]
    write(tmp_path, "gsm8k/test.jsonl", [row, row | {"question": "How few?"}])
    write(tmp_path, "gsm8k/train.jsonl", [row | {"question": f"Q{n}"} for n in range(9)])
    task = load_task(f"benchmark:gsm8k:data={tmp_path}", fewshot=1)
    (asked,) = build_requests(task, task.items[0], "generate", byte_level())
    assert asked.context == f"Question: Q0\nAnswer: {SUMS}\n\nQuestion: How many?\nAnswer:"
    assert task.chance == {"generate": 1.0}
    assert len(load_task(f"benchmark:gsm8k:data={tmp_path}").fewshot) == 5
    write(tmp_path, "gsm8k/train.jsonl", [row | {"question": f"Q{n}"[n:]} for n in range(4)])
    assert [item.question for item in load_task(task.source).fewshot] == ["Q0", "1"]


HEADER = "question,choice0,choice1,choice2,choice3,answer\n"


@pytest.mark.parametrize(
    ("suffix", "head", "answer"), [("", HEADER, "1"), ("_{}", "", "B")], ids=["header", "bare"]
)
def test_mmlu_by_subject_and_as_a_whole(tmp_path, suffix, head, answer):
    for split in ("test", "dev"):
        for subject in ("rivers", "lakes"):
            rows = [f'"{subject}, {split} {n}?",Rhine,Danube,Seine,Po,{answer}' for n in range(6)]
            rows.append("Equal?,Po,Po,Rhine,Seine,1" if split == "test" else rows.pop())
            path = tmp_path / split / f"{subject}{suffix.format(split)}.csv"
            path.parent.mkdir(exist_ok=True)
            path.write_text(head + "\n".join(rows), encoding="utf-8")
    one = load_task(f"benchmark:mmlu:subject=rivers:data={tmp_path}")
    assert (one.name, len(one.items), len(one.fewshot)) == ("mmlu:subject=rivers", 6, 5)
    assert one.items[0].choices == tuple(RIVER)
    assert {item.answer for item in (*one.items, *one.fewshot)} == {"Danube"}
    assert one.fewshot[0].question == "rivers, dev 0?"
    assert one.description.endswith("; 1 row left out, with equal options or none")
    whole = load_task(f"benchmark:mmlu:data={tmp_path}")
    assert (whole.name, whole.fewshot) == ("mmlu", ())
    assert [item.group for item in whole.items[:3]] == ["lakes", "rivers", "lakes"]
    assert whole.chance["letter"] == 0.25
    with pytest.raises(UserError) as caught:
        load_task(f"benchmark:mmlu:subject=river:data={tmp_path}")
    assert str(caught.value) == (
        "Unknown subject 'river'. Did you mean 'rivers'? Expected one of: lakes, rivers."
    )
    with pytest.raises(UserError, match="from 0 to 0, or name a subject"):
        load_task(f"benchmark:mmlu:data={tmp_path}", fewshot=2)


def test_truthfulqa_mixes_options_whose_first_is_right(tmp_path: Path) -> None:
    targets = {text: int(not n) for n, text in enumerate("abcdefgh")}
    write(tmp_path, "mc_task.json", [{"question": "Q?", "mc1_targets": targets | {"": 0}}] * 20)
    task = load_task(f"benchmark:truthfulqa:data={tmp_path}")
    places = {item.choices.index(item.answer) for item in task.items}
    assert len(places) > 3
    assert {item.answer for item in task.items} == {"a"}
    assert len(task.items[0].choices) == 8
    assert {item.cluster for item in task.items} == {"as truthfulqa/0000"}


def test_a_look_up_has_a_twin_that_asks_for_another_key(tmp_path: Path) -> None:
    row = {"ordered_kv_records": pairs(5), "key": "key1", "value": "b-value"}
    write(tmp_path, "kv-retrieval-5_keys.jsonl", [row])
    task = load_task(f"benchmark:kv_retrieval:data={tmp_path}")
    (item,) = task.items
    assert set(item.choices) < {value for _, value in pairs(5)}
    assert task.chance == {"generate": 1.0, "letter": 0.25, "continuation": 0.25}
    prompts = patching_prompts(task, item, byte_level())
    assert prompts is not None
    assert prompts.problem is None
    (asked, *_) = build_requests(task, item, "continuation", byte_level())
    assert asked.context.endswith('Key: "key1"\nCorresponding value: "')
    assert asked.continuation in item.choices


def test_a_fact_has_a_twin_about_another_subject(tmp_path: Path) -> None:
    rows = [
        {"subject": city, "attribute": land, "prompt": f"{city} lies in", "relation_id": "P17"}
        for city, land in FACTS
    ]
    rows.append({"subject": "X", "attribute": "alone", "prompt": "X is", "relation_id": "P1"})
    task = load_known_facts(tmp_path, rows)
    paris = task.items[0]
    assert set(paris.choices) == {"France", "Italy", "Germany"}
    assert paris.corruption is not None
    # Of as many letters as Paris.
    assert (paris.corruption.question, paris.corruption.answer) == ("Turin lies in", "Italy")
    assert len(task.items) == 4
    assert task.chance["generate"] == 0.5


def load_known_facts(folder: Path, rows: list[dict[str, str]]) -> Task:
    write(folder, "known_1000.json", rows)
    return load_task(f"benchmark:known_1000:data={folder}", fewshot=0)


def test_relations_one_all_and_a_kind(tmp_path: Path) -> None:
    samples = [{"subject": city, "object": land} for city, land in FACTS]
    samples.append({"subject": "Paris", "object": "Gaul"})
    for kind, name in (("factual", "cities"), ("bias", "towns")):
        row = {"prompt_templates": ["{} is in", "In which land is {}?"], "samples": samples}
        write(tmp_path, f"relations/{kind}/{name}.json", row)
    one = load_task(f"benchmark:relations:relation=cities:data={tmp_path}", fewshot=1)
    assert [item.question for item in one.items] == ["Paris is in", "Rome is in", "Turin is in"]
    assert one.items[0].aliases == ("Gaul",)
    assert one.fewshot[0].id == "relations/cities/0003"
    assert "Gaul" not in {text for item in one.items for text in item.choices}
    (asked, *_) = build_requests(one, one.items[0], "continuation", byte_level())
    assert asked.context == "Bonn is in Germany\nParis is in"
    factual = load_task(f"benchmark:relations:relation=factual:data={tmp_path}", fewshot=0)
    assert {item.group for item in factual.items} == {"cities"}
    whole = load_task(f"benchmark:relations:data={tmp_path}")
    assert {item.group for item in whole.items} == {"cities", "towns"}
    assert whole.fewshot == ()


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("benchmark:gsm9k", "Unknown benchmark 'gsm9k'. Did you mean 'gsm8k'? Expected one of: "),
        ("benchmark:gsm8k", "does not say where its files are; expected the folder behind data=, "),
        ("benchmark:gsm8k:data=nowhere", "'nowhere' has no file of benchmark:gsm8k: expected test"),
        ("benchmark:gsm8k:subject=x:data=nowhere", "expected arguments of benchmark:gsm8k, each"),
    ],
)
def test_names_that_no_benchmark_has(name: str, sentence: str) -> None:
    with pytest.raises(UserError) as caught:
        load_task(name)
    assert sentence in str(caught.value)


def test_files_of_something_else(tmp_path: Path) -> None:
    for number in (75, 140):
        write(tmp_path, f"kv-retrieval-{number}_keys.jsonl", [{"key": "a"}])
    with pytest.raises(UserError, match="has several files of benchmark:kv_retrieval"):
        load_task(f"benchmark:kv_retrieval:data={tmp_path}")
    path = tmp_path / "kv-retrieval-75_keys.jsonl"
    with pytest.raises(UserError) as caught:
        load_task(f"benchmark:kv_retrieval:data={path}")
    assert str(caught.value) == (
        f"File {str(path)!r}, line 1: no field 'ordered_kv_records'; expected the authors' own "
        "file of benchmark:kv_retrieval."
    )


@pytest.mark.parametrize(
    ("content", "part"),
    [
        ("[" * 100_000, "SVAMP.json': not JSON (nested too deeply); expected"),
        ('[{"Body": "\\ud83d", "Question": "?", "Answer": 1}]', "half of one (a lone surrogate)"),
        (
            '[{"Body": "a", "Question": "?", "Answer": {}}]',
            "row 1: field 'Answer' is {}; expected a",
        ),
        ("[3]", "a row is no object; expected"),
    ],
)
def test_damaged_files(tmp_path: Path, content: str, part: str) -> None:
    (tmp_path / "SVAMP.json").write_text(content, encoding="utf-8")
    with pytest.raises(UserError) as caught:
        load_task(f"benchmark:svamp:data={tmp_path}")
    assert part in str(caught.value)


WRONG: list[tuple[str, dict[str, Any], str]] = [
    ("gsm8k", {"answer": "2+3\n#### "}, "expected a number behind ####"),
    ("gsm8k", {"answer": "2+3\n#### many"}, "expected a number behind ####"),
    ("gsm8k", {"question": None}, "row 1: field 'question' is None; expected a text"),
    *(("svamp", {"Answer": value}, "row 1: field 'Answer' is") for value in
      (float("nan"), float("-inf"), True, None, "many", "1e999", "1e-999", [1])),
    *(("mathqa", {"correct": value}, "row 1: the answer is") for value in ("", "f", "ab", "ä")),
    ("mathqa", {"correct": 1}, "row 1: field 'correct' is 1; expected a text"),
    ("mathqa, as lists", {"instruction": "what ? The options: ['A ) 1', 2]"}, "no list of texts"),
    ("mathqa, as lists", {"instruction": "? The options: [" + "-" * 9000}, "no list of texts"),
    *(("openbookqa", {"answerKey": value}, "row 1: the answer is") for value in
      ("", "E", "AB", "0", 1, None, True)),
    *(("openbookqa, as instructions", {"answer": value}, "row 1: the answer is") for value in
      ("answer0", "answer5", "answer", "", "answer12", "1", None)),
    *(("hellaswag", {"label": value}, "row 1: the answer is") for value in
      (-1, "-1", "", 2, 1.5, True, None, "A", [1])),
    ("hellaswag", {"endings": ["a", 3]}, "row 1: field 'endings' has 3; expected texts"),
]  # fmt: skip


@pytest.mark.parametrize(("case", "changes", "says"), WRONG)
def test_an_answer_that_names_no_option_is_refused(tmp_path, case, changes, says):
    _, row, _ = FILES[case]
    path = write(tmp_path, "rows.json", [row | changes])
    with pytest.raises(UserError) as caught:
        load_task(f"benchmark:{case.split(',')[0]}:data={path}")
    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("targets", "says"),
    [
        ({"a": 1, "b": 1, "c": 0}, "has 2 true answers, not one"),
        ({"a": 0, "b": 0}, "has 0 true answers, not one"),
        ({"a": 1, "b": 2}, "expected 0 or 1 for each text"),
        ({"a": True, "b": False}, "expected 0 or 1 for each text"),
        (["a"], "expected an object"),
    ],
)
def test_truthfulqa_has_one_true_answer(tmp_path: Path, targets: Any, says: str) -> None:
    rows = [{"question": "Q?", "mc1_targets": one} for one in (TRUE_OR_NOT, targets)]
    write(tmp_path, "mc_task.json", rows)
    with pytest.raises(UserError, match="row 2: field 'mc1_targets'") as caught:
        load_task(f"benchmark:truthfulqa:data={tmp_path}")
    assert says in str(caught.value)


@pytest.mark.parametrize("answer", ["", "BC", "E", "4", "-1", "0123"])
def test_mmlu_refuses_an_answer_that_is_no_letter_or_place(tmp_path: Path, answer: str) -> None:
    path = tmp_path / "rivers.csv"
    path.write_text(f"Q?,Rhine,Danube,Seine,Po,B\nQ?,0,BC,E,4,{answer}\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"line 2: the answer is .*; expected the label or the pla"):
        load_task(f"benchmark:mmlu:data={path}")


@pytest.mark.parametrize(
    ("answer", "gold"),
    [("1234567", "1234567"), ("22090603.0", "22090603"), ("0.1", "0.1"), ("2.50", "2.50"),
     ("1e3", "1000"), ("9" * 400, "9" * 400), ('"12"', "12"), ("-3.0", "-3")],
)  # fmt: skip
def test_a_number_is_the_answer_with_all_of_its_digits(tmp_path, answer, gold):
    path = tmp_path / "SVAMP.json"
    path.write_text(f'[{{"Body": "a", "Question": "?", "Answer": {answer}}}]', encoding="utf-8")
    (item,) = load_task(f"benchmark:svamp:data={tmp_path}").items
    assert item.answer == gold


def test_options_in_one_text_go_by_their_letters(tmp_path: Path) -> None:
    texts = ["a ) 1 , c ) 3 , b ) 2", "a ) 1 , a ) 3 , b ) 2", "a ) 1 , a ) 3 , b ) 2", "none"]
    rows = [
        {"Problem": f"{n} ?", "options": text, "correct": "ba"[n == 1]}
        for n, text in enumerate(texts)
    ]
    write(tmp_path, "test.json", rows)
    task = load_task(f"benchmark:mathqa:data={tmp_path}")
    assert [item.answer for item in task.items] == ["2", "2"]
    assert task.description.endswith("; 2 rows left out, with equal options or none")


def test_texts_of_many_brackets_are_read_in_linear_time(tmp_path: Path) -> None:
    begun = "[" * 500_000
    row = {"ctx": f"x[header] y{begun}", "endings": [f"a[b]c\n]{begun}", "b"], "label": 0}
    write(tmp_path, "validation.json", [row])
    (item,) = load_task(f"benchmark:hellaswag:data={tmp_path}/validation.json").items
    assert item.question == f"x y{begun}"
    assert item.answer == f"ac\n]{begun}"
    options = "a)" * 200_000 + "\n1 , b ) 2"
    write(tmp_path, "test.json", [{"Problem": "?", "options": options, "correct": "b"}])
    (item,) = load_task(f"benchmark:mathqa:data={tmp_path}/test.json").items
    assert item.answer == "2"


@pytest.mark.parametrize(
    "template", ["{:>1500000000}", "{0.__class__}", "{}{}", "no subject", "{}{{", "{} " * 2]
)
def test_a_relation_fills_nothing_but_a_subject_into_its_template(tmp_path, template):
    samples = [{"subject": city, "object": land} for city, land in FACTS]
    write(tmp_path, "x.json", {"prompt_templates": [template], "samples": samples})
    with pytest.raises(UserError, match=r"row 1: field 'prompt_templates' is .*; expected"):
        load_task(f"benchmark:relations:data={tmp_path}/x.json")


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"value": "c-value"}, "the value 'c-value' is not that of the key 'key1'"),
        ({"key": "key9"}, "is not that of the key 'key9'"),
        ({"ordered_kv_records": [*pairs(5), ["key1", "x"]]}, "has a key twice"),
        ({"ordered_kv_records": [["key1", 3]]}, "has ['key1', 3]; expected two texts"),
    ],
)
def test_a_looked_up_value_is_that_of_its_key(tmp_path, changes, says):
    row = {"ordered_kv_records": pairs(5), "key": "key1", "value": "b-value"}
    path = write(tmp_path, "kv.jsonl", [row | changes])
    with pytest.raises(UserError) as caught:
        load_task(f"benchmark:kv_retrieval:data={path}")
    assert says in str(caught.value)


@pytest.mark.parametrize("part", ["**", "/etc", "..", "[", "a\0b", "{}"])
def test_a_part_is_a_name_and_no_pattern(tmp_path: Path, part: str) -> None:
    (tmp_path / "test").mkdir()
    (tmp_path / "test" / "rivers_test.csv").write_text("Q?,a,b,c,d,A\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"Unknown subject .*Expected one of: rivers"):
        load_task(f"benchmark:mmlu:subject={part}:data={tmp_path}")


def test_a_cell_that_is_too_long_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "rivers.csv"
    path.write_text(f"Q?,a,b,c,d,A\n{'q' * 131_073},a,b,c,d,A\n", encoding="utf-8")
    with pytest.raises(UserError, match="line 2: a cell has more than 131,072 characters; expecte"):
        load_task(f"benchmark:mmlu:data={path}")
    path.write_text("Q?,a,b,A\n", encoding="utf-8")
    with pytest.raises(UserError, match="line 1: 4 cells; expected question, choice0, "):
        load_task(f"benchmark:mmlu:data={path}")


def test_a_folder_name_that_is_too_long_is_refused() -> None:
    with pytest.raises(UserError, match=r"cannot be read .File name too long"):
        load_task("benchmark:gsm8k:data=" + "x" * 5000)


ODD_VALUES: list[Any] = [
    None, True, -1, 10**400, float("nan"), "", "x", "\ud83d", [], [None], {}, "gone",
]  # fmt: skip


@pytest.mark.parametrize("case", ROWS)
def test_any_value_in_any_place_of_a_row_is_read_or_refused(tmp_path: Path, case: str) -> None:
    name = f"benchmark:{case.split(',')[0]}:data={tmp_path / 'rows.json'}"
    for number, value in product(range(len([*document_entries(ROWS[case])])), ODD_VALUES):
        rows = copy.deepcopy(ROWS[case])
        holder, key = [*document_entries(rows)][number]
        holder[key] = value
        if value == "gone":
            del holder[key]
        write(tmp_path, "rows.json", rows)
        try:
            task, refusal = load_task(name, fewshot=0), None
        except UserError as error:
            task, refusal = None, str(error)
        if task is None:
            assert is_sentence(str(refusal)), refusal
        else:
            assert {bad_choices(item) for item in task.items} == {None}


@pytest.mark.skipif(not REAL.is_dir(), reason="the benchmarks' files are not here")
@pytest.mark.parametrize("name", [name for name in BENCHMARKS if name != "openbookqa_facts"])
def test_the_files_themselves(name: str) -> None:
    part = ":relation=linguistic" if name == "relations" else ""
    task = load_task(f"benchmark:{name}{part}:data={REAL}", limit=300)
    assert len(task.items) >= 100
    assert len({item.answer for item in task.items}) > 10
    places = [item.choices.index(item.answer) for item in task.items if item.choices]
    assert not places or 0.1 < places.count(0) / len(places) < 0.5
    if name not in ("mmlu", "known_1000"):  # which have a question twice, or show it
        check_own_task(task)
