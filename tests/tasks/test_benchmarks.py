"""Benchmarks in files as their authors publish them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from layerwise.errors import UserError
from layerwise.runs.task_loading import load_tasks
from layerwise.tasks import Task, build_requests, load_task, patching_prompts
from layerwise.tasks._own import check_own_task
from layerwise.tasks.benchmarks import BENCHMARKS

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
    with pytest.raises(UserError, match="not as benchmark:openbookqa_facts is published"):
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


FACTS = [("Paris", "France"), ("Rome", "Italy"), ("Turin", "Italy"), ("Bonn", "Germany")]


def test_a_fact_has_a_twin_about_another_subject(tmp_path: Path) -> None:
    rows = [
        {"subject": city, "attribute": land, "prompt": f"{city} lies in", "relation_id": "P17"}
        for city, land in FACTS
    ]
    rows.append({"subject": "X", "attribute": "alone", "prompt": "X is", "relation_id": "P1"})
    task = known(tmp_path, rows)
    paris = task.items[0]
    assert set(paris.choices) == {"France", "Italy", "Germany"}
    assert paris.corruption is not None
    # Of as many letters as Paris.
    assert (paris.corruption.question, paris.corruption.answer) == ("Turin lies in", "Italy")
    assert len(task.items) == 4
    assert task.chance["generate"] == 0.5


def known(folder: Path, rows: list[dict[str, str]]) -> Task:
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
        f"File {str(path)!r} is not as benchmark:kv_retrieval is published (KeyError: "
        "'ordered_kv_records'); expected the authors' own file."
    )


@pytest.mark.parametrize(
    ("content", "part"),
    [
        ("[" * 100_000, "RecursionError"),
        ('[{"Body": "\\ud83d", "Question": "?", "Answer": 1}]', "half of one (a lone surrogate)"),
        ('[{"Body": "a", "Question": "?", "Answer": {}}]', "TypeError"),
        ("[3]", "TypeError"),
    ],
)
def test_damaged_files(tmp_path: Path, content: str, part: str) -> None:
    (tmp_path / "SVAMP.json").write_text(content, encoding="utf-8")
    with pytest.raises(UserError) as caught:
        load_task(f"benchmark:svamp:data={tmp_path}")
    assert part in str(caught.value)


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
