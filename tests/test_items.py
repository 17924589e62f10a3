"""Item by item: what was asked and answered, from a run's folder, in Python, and on the page."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import layerwise as lw
from layerwise.analyses.ablation.page.examples import example_items, examples_section, shorten
from layerwise.analyses.ablation.tables.questions import question_table
from layerwise.analyses.registry import run_tables
from layerwise.errors import UserError
from layerwise.report._layers import sections
from tests.analysis import word_task
from tests.commands import assert_refused, run, run_cleanly
from tests.models.tiny import tiny_model
from tests.synthetic import ablation, cell_records, planted_answers, small_ablation

PROTOCOLS = ("letter", "continuation", "generate")
TASK = word_task(8, fewshot=word_task(1, "examples", 3).items)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("run")
    lw.ablate(tiny_model("llama"), TASK, PROTOCOLS, out=out, layers=[0, 2], progress=False)
    return out


def records(folder: Path, **values: object) -> pd.DataFrame:
    table = pd.read_parquet(folder / "records.parquet")
    for name, value in values.items():
        table = table.loc[table[name] == value]
    return table.set_index("item")


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_items_say_what_was_asked_and_answered_with_and_without_a_layer(folder, protocol):
    found = lw.items(folder, 2, "words", protocol, changed=False)
    assert list(found.columns) == [
        "task", "protocol", "item", "change", "fate", "prompt", "question", "options", "gold",
        "intact", "without", "right_intact", "right_without", "margin_intact", "margin_without",
        "margin_change",
    ]  # fmt: skip
    intact = records(folder, intervention="intact", protocol=protocol)
    without = records(folder, intervention="skip:layer=2", protocol=protocol)
    assert set(found["item"]) == {item.id for item in TASK.items}
    by_id = {item.id: item for item in TASK.items}
    for row in found.to_dict("records"):
        item = by_id[row["item"]]
        assert row["question"].startswith(f"Question: {item.question}\n")
        assert row["prompt"].endswith(row["question"])
        assert row["prompt"] != row["question"]  # an example stands before it
        options = list("ABC") if protocol == "letter" else list(item.choices)
        assert row["options"] == (None if protocol == "generate" else options)
        gold = options[item.choices.index(item.answer)] if protocol == "letter" else item.answer
        assert row["gold"] == gold
        for when, of in (("intact", intact), ("without", without)):
            saved = of.loc[row["item"]]
            taken = saved["generated"] if protocol == "generate" else options[int(saved["chosen"])]
            assert row[when] == str(taken).strip()
            assert row[f"right_{when}"] == saved["correct"]
            if protocol == "generate":
                assert np.isnan(row[f"margin_{when}"])
            else:
                assert row[f"margin_{when}"] == saved["margin"]
        assert row["change"] == "skip:layer=2"


def test_lost_items_come_first_and_the_largest_loss_of_margin_among_them(folder):
    every = lw.items(folder, 0, "words", "continuation", changed=False)
    order = ["lost", "gained", "right", "wrong"]
    places = every["fate"].map(order.index).tolist()
    assert places == sorted(places)
    for _, group in every.groupby("fate"):
        assert group["margin_change"].is_monotonic_increasing
    changed = lw.items(folder, 0, "words", "continuation")
    assert set(changed["fate"]) <= {"lost", "gained"}
    assert len(changed) == (every["right_intact"] != every["right_without"]).sum()


@pytest.mark.long
def test_a_result_in_memory_has_the_same_items_as_its_folder(folder):
    result = lw.ablate(tiny_model("llama"), TASK, PROTOCOLS, layers=[0, 2], progress=False)
    of_folder = lw.items(folder, 0, "words", changed=False)
    pd.testing.assert_frame_equal(lw.items(result, 0, "words", changed=False), of_folder)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (("--layer", "7", "--task", "words"), ("no layer '7'", "0 to 2")),
        (("--layer", "1", "--task", "words"), ("did not change layer 1", "layers 0 and 2")),
        (("--layer", "0", "--task", "wrods"), ("'wrods'", "Did you mean 'words'?")),
        (("--layer", "0", "--task", "words", "--protocol", "choose"),
         ("'choose'", "continuation, generate, letter")),
    ],
)  # fmt: skip
def test_what_the_run_does_not_have_is_refused_with_what_it_has(folder, given, words):
    assert_refused(run("items", folder, *given), *words)


def test_a_folder_without_an_ablation_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"No folder .*none: expected"):
        lw.items(tmp_path / "none", 0, "words")
    with pytest.raises(UserError, match=r"No records\.parquet .*run layerwise profile or ablate"):
        lw.items(tmp_path, 0, "words")


def test_the_command_prints_a_table_and_the_counts(folder):
    printed = run_cleanly("items", folder, "--layer", 0, "--task", "words", "--protocol", "letter")
    found = lw.items(folder, 0, "words", "letter")
    lost = int((found["fate"] == "lost").sum())
    gained = len(found) - lost
    assert (
        f"words, when it picks a letter, without layer 0: {lost} lost, {gained} gained, of 8 items."
        in printed
    )
    every = run_cleanly("items", folder, "--layer", 0, "--task", "words", "--all")
    assert all(shorten(f"Question: {item.question}", 100) in every for item in TASK.items)


def test_a_table_fits_80_columns_and_breaks_no_word(folder, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr("layerwise.cli.printing.WIDE", 80)
    printed = run_cleanly("items", folder, "--layer", 0, "--task", "words", "--all")
    assert max(map(len, printed.splitlines())) <= 80
    words = {word for item in TASK.items for word in item.question.split()}
    assert words <= set(printed.split())


def test_a_long_text_loses_its_middle_between_words():
    assert shorten("one two\nthree four five six seven", 19) == "one two … six seven"
    assert shorten("short\ntext", 19) == "short text"
    assert shorten(" ", 19) == "(nothing)"
    assert shorten(None, 19) == "–"
    assert shorten("\x1b[31mred", 19) == "\\x1b[31mred"


@pytest.mark.parametrize("damage", [b"", b"{}\n", b'{"item": "words/0000", "task"\n', b"\xff\n"])
def test_without_whole_requests_there_are_answers_and_no_texts(folder, tmp_path, damage):
    for name in ("records.parquet", "run.json"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    (tmp_path / "requests.jsonl").write_bytes(damage)
    found = lw.items(tmp_path, 0, "words", "continuation", changed=False)
    assert found["prompt"].isna().all()
    assert found["intact"].str.fullmatch(r"option [123]").all()
    assert found["margin_change"].notna().all()


def test_items_are_read_without_torch(folder):
    code = (
        "import sys, layerwise; "
        f"print(len(layerwise.items({str(folder)!r}, 0, 'words', changed=False)), "
        "'torch' in sys.modules)"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout.split() == ["24", "False"]


def question_lines(task: str, protocol: str, n: int) -> list[dict]:
    keys = {"task": task, "protocol": protocol, "gold": True, "continuation": None}
    return [
        keys | {"item": f"{task}/{i:04d}", "context": f"few\nshot {i}", "answer": f"gold {i}"}
        for i in range(n)
    ]


def with_questions():
    result = small_ablation()
    lines = [*question_lines("keys", "generate", 60), *question_lines("sums", "letter", 60)]
    return replace(result, questions=lambda: question_table(lines))


def test_examples_of_a_task_are_one_that_breaks_and_one_that_stays():
    """Layer 3 retrieves; written answers say more than letters."""
    result = with_questions()
    run = run_tables([result])
    breaks, stays = example_items(run, "keys").itertuples()
    for example in (breaks, stays):
        assert (example.task, example.protocol, example.layer) == ("keys", "generate", 3)
        assert example.question == "shot " + example.gold.removeprefix("gold ")
        assert example.without == example.intact == "some text"
    right = result.records.query("task == 'keys' and protocol == 'generate'")
    right = right.pivot(index="item", columns="intervention", values="correct")
    ids = [f"keys/{int(one.gold.removeprefix('gold ')):04d}" for one in (breaks, stays)]
    assert right.loc[ids[0], ["intact", "skip:layer=3"]].tolist() == [True, False]
    assert right.loc[ids[1], ["intact", "skip:layer=3"]].tolist() == [True, True]


def test_examples_without_signal_name_no_layer():
    found = example_items(run_tables([with_questions()]), "sums")
    assert found["layer"].tolist() == [None, None]


def test_the_page_shows_examples_after_the_role_map():
    anchors = [part.anchor for part in sections(run_tables([with_questions()]))]
    assert anchors[:2] == ["roles", "examples"]
    section = examples_section(run_tables([with_questions()]))
    assert len(section.tables[0].cells) == 4
    assert section.tables[0].collapsed
    assert "layer 3: some text" in section.tables[0].cells[0][-1]
    assert section.tables[0].cells[-1][-1] == "–"
    assert examples_section(run_tables([small_ablation()])).tables == ()  # without requests


def test_examples_pass_over_layers_that_every_capability_needs():
    """Layer 0 breaks all, layer 3 one capability a little less."""
    rng = np.random.default_rng(3)
    both = planted_answers(rng, 60, 6, critical=(0,), accuracy=0.95, chance=0.0)
    more = both.copy()
    more[:40, 4] = False
    result = ablation(
        cell_records(more, "keys", "retrieval", "generate"),
        cell_records(both, "sums", "reasoning", "generate"),
    )
    lines = [*question_lines("keys", "generate", 60), *question_lines("sums", "generate", 60)]
    run = run_tables([replace(result, questions=lambda: question_table(lines))])
    assert set(example_items(run, "keys")["layer"]) == {3}
    assert len(examples_section(run).tables[0].cells) == 4
