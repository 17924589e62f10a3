"""Task files: other words, examples and extractors for the items of another task."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from layerwise.errors import UserError
from layerwise.sweep.requests import Generated
from layerwise.tasks import build_requests, load_task, score

from .tokenizers import byte_level, with_chat

ROWS = [
    {"question": "Which river flows through Vienna?", "answer": "Danube"},
    {"question": "How many are there?", "answer": "12"},
]
EXAMPLES = [{"question": f"Example {n}?", "answer": f"answer {n}"} for n in range(4)]


def written(folder: Path, text: str) -> str:
    for name, rows in (("mine", ROWS), ("examples", EXAMPLES)):
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
    task = load_task(written(tmp_path, WHOLE), fewshot=2)
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
    path = written(tmp_path, WHOLE)
    assert len(load_task(path).fewshot) == 4
    assert len(load_task(path, fewshot=0).fewshot) == 0
    with pytest.raises(UserError, match="has 4 few-shot examples, so 5 cannot be taken"):
        load_task(path, fewshot=5)


def test_items_may_be_those_of_any_task(tmp_path: Path) -> None:
    path = written(tmp_path, 'task = "facts"\nsystem = "Complete the sentence."')
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
        ('task = "asked.toml"', "'task' is 'asked.toml', another task file"),
        ('task = "factz"', "Unknown task 'factz'"),
        ('task = "facts"\nfewshot = "none.jsonl"', "none.jsonl' cannot be read"),
        ('task = "mine.jsonl"\nfewshot = "mine.jsonl"', "shows the answer to its item"),
    ],
)
def test_a_bad_task_file_is_refused_in_a_sentence(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(UserError) as caught:
        load_task(written(tmp_path, text))
    assert said in str(caught.value)
