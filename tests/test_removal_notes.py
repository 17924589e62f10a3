"""What stands under an order of removal: the layers, what was not tested, the next command."""

from __future__ import annotations

import shlex
from typing import Any

import typer.main

from layerwise.analyses.registry import tables_of_run
from layerwise.analyses.removal.api import removal_order
from layerwise.analyses.removal.result import prune_command
from layerwise.cli.app import app
from layerwise.report import report
from layerwise.report._layers import sections
from tests.analysis import decided_by_layers, word_task
from tests.models.tiny import tiny_model
from tests.pages import blank_pages
from tests.synthetic import facts, task_facts


def test_notes_name_the_layers_what_was_not_tested_and_the_smallest_loss():
    model = tiny_model("llama", num_hidden_layers=5)
    task = decided_by_layers(model, word_task(160), 24)
    result = removal_order(model, task, n_removed=2, by=["deep", "block"], progress=False)
    notes = result.notes()
    assert notes[0] == "Removed in this order (deep, chosen when it chooses): 4, 3."
    block = ", ".join(map(str, result.orders["block", "continuation"][-1]))
    assert notes[1] == f"Removed (block, chosen when it chooses): {block}."
    assert notes[2].startswith("They may cost more when it picks a letter and when it writes")
    assert "with 12 held-out items" in notes[3]
    assert "would be found in 8 of 10 samples" in notes[3]
    assert all(len(note.split()) <= 25 for note in notes)
    run = tables_of_run([result])
    (words,) = (part.words for part in sections(run) if part.anchor == "removal")
    assert all(note in words for note in notes)


def test_without_an_order_the_notes_say_why_and_what_to_try():
    task = word_task(8)
    result = removal_order(tiny_model("llama"), task, "letter", n_removed=1, progress=False)
    assert result.orders.get(("greedy", "letter"), []) == []
    (note,) = result.notes()
    assert note.startswith("No signal: words when it picks a letter: right in")
    assert "Try" in note


def test_the_command_that_writes_the_model_can_be_given():
    run = facts(task_facts("keys", "retrieval", n_items=30))
    words = shlex.split(prune_command((6, 2), ["continuation"], run))
    assert words[:2] == ["layerwise", "prune"]
    group: Any = typer.main.get_command(app)
    given = group.commands["prune"].make_context("prune", words[2:]).params
    assert given["remove"] == "2,6"
    assert given["protocols"] == ["continuation", "letter", "generate"]
    assert given["out"] == "made-up-without-2"
    assert given["limit"] == 30
    own = run.model_copy(update={"model": run.model.model_copy(update={"source": "user"})})
    assert prune_command((6, 2), ["continuation"], own) == ""
    (task,) = run.tasks
    made = task.model_copy(update={"source": "built-in"})  # a ``Task`` says so, too
    of_task = run.model_copy(update={"tasks": (made,)})
    assert prune_command((6, 2), ["continuation"], of_task) == ""
    suite = made.model_copy(update={"name": "facts"})
    assert "--task facts" in prune_command((6,), [], run.model_copy(update={"tasks": (suite,)}))


def test_the_page_of_a_removal_without_signal_says_what_to_try():
    result = removal_order(tiny_model("llama"), word_task(8), "letter", n_removed=1, progress=False)
    page = report(result)
    text = " ".join(page.text.split())
    assert " guesses. Nothing can be said about its layers here." in text
    assert "Not shown: No signal: words when it picks a letter: right in" in text
    assert "Try " in text
    with blank_pages():  # without a strip over the layers the first section is unfolded
        assert page.html.count('<details class="part" open>') == 1
