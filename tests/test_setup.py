"""What all analyses start from: requests that several of them ask for."""

from __future__ import annotations

from dataclasses import replace

from layerwise.runs import encoding
from layerwise.runs.setup import prepare
from tests.analysis import word_task
from tests.models.tiny import tiny_model


def test_items_are_encoded_once_as_far_as_there_is_room(monkeypatch):
    task = word_task(3)
    setup = prepare(tiny_model("llama"), task, ("continuation", "generate"))
    first, second, third = task.items
    asked = setup.requests(task, first, "continuation")
    assert setup.requests(task, first, "continuation") is asked
    assert (
        replace(setup, protocols=("continuation",)).requests(task, first, asked[0].protocol)
        is asked
    )
    assert setup.requests(task, first, "generate") != asked
    assert setup.requests(task, second, "continuation") != asked
    # Another task, even of the same name and items, is asked in another way.
    shots = replace(task, fewshot=(third,))
    assert len(setup.requests(shots, first, "continuation")[0].context) > len(asked[0].context)
    monkeypatch.setattr(encoding, "_MOST_TOKENS", setup.built.n_tokens)
    fresh = setup.requests(task, third, "continuation")
    again = setup.requests(task, third, "continuation")
    assert fresh == again
    assert fresh is not again
    assert setup.requests(task, first, "continuation") is asked
