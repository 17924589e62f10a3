"""Data sets of the hub or in a folder, whose columns a task's name maps."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from layerwise.errors import UserError
from layerwise.tasks import expand_task_names, load_task

ARC = [
    {"id": 1, "q": "Which, A or B?", "choices": {"text": ["x", "y"], "label": ["A", "B"]},
     "key": "B"},
    {"id": 2, "q": "And 1 or 2?", "choices": {"text": ["u", "v"], "label": ["1", "2"]},
     "key": "1"},
]  # fmt: skip


def folder_of(folder: Path, rows: list[dict[str, Any]], split: str = "test") -> Path:
    text = "\n".join(map(json.dumps, rows))
    (folder / f"{split}.jsonl").write_text(text, encoding="utf-8")
    return folder


def test_columns_are_mapped(tmp_path: Path) -> None:
    name = f"hf:arc:question=q:choices=choices:answer=key:data={folder_of(tmp_path, ARC)}"
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
    folder = folder_of(tmp_path, [row], "validation")
    name = f"hf:mine:split=validation:choices=one+two:capability=reasoning:data={folder}"
    task = load_task(name)
    assert (task.items[0].answer, task.capability) == (right, "reasoning")


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
        ("question=q:answer=id:choices=q", "line 1: field 'choices' is not a list"),
        ("question=q:answer=id:choices=choices", "line 2: field 'answer' is '2'; expected"),
        ("question=q:split=dev", "has no file of the split 'dev'; expected dev.jsonl, .csv or"),
        ("questions=q", "it takes question=..., answer=..., choices=..., context=..., cluster="),
        ("question=q:answer=key:capability=maths", "field 'capability' is unknown"),
    ],
)
def test_what_the_data_set_does_not_have(tmp_path: Path, arguments: str, part: str) -> None:
    with pytest.raises(UserError) as caught:
        load_task(f"hf:arc:{arguments}:data={folder_of(tmp_path, ARC)}")
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
    here = load_task(f"hf:arc:{MAPPED}:data={folder_of(tmp_path, ARC)}")
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
