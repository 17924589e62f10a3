"""Every wrong call gets one sentence, and leaves nothing behind."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from layerwise.errors import UserError
from tests.analysis import word_task, write_jsonl
from tests.commands import assert_refused, model_folder, run
from tests.hostile.limits import is_sentence
from tests.hostile.wrong_calls import CALLS, COMMANDS, MODEL, UNKNOWN, Call, Command, Place
from tests.models.tiny import tiny_model


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Place:
    folder = tmp_path_factory.mktemp("wrong")
    task = word_task(4)
    write_jsonl(folder / "good.jsonl", task.items)
    os.mkfifo(folder / "pipe.jsonl")
    (folder / "folder.jsonl").mkdir()
    return Place(tiny_model("llama"), task, folder)


@pytest.fixture(autouse=True)
def working_folder(place, monkeypatch) -> None:
    monkeypatch.chdir(place.folder)


def names(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def test_there_are_at_least_150_wrong_calls_and_none_twice():
    called = [f"{type(each).__name__} {each.name}" for each in (*CALLS, *COMMANDS)]
    assert len(called) >= 150
    assert len(set(called)) == len(called)


@pytest.mark.parametrize("call", CALLS, ids=lambda call: call.name)
def test_a_wrong_call_is_refused_in_a_sentence(place: Place, call: Call, count):
    before = names(place.folder)
    with pytest.raises(UserError) as caught:
        call.call(place)
    told = str(caught.value)
    assert is_sentence(told), told
    for part in call.says:
        assert part in told
    assert names(place.folder) == before
    count("wrong calls")


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_a_wrong_command_is_refused_in_a_sentence(place: Place, command: Command, count):
    before = names(place.folder)
    words = [str(model_folder()) if word == MODEL else word for word in command.words]
    assert_refused(run(*words), *command.says)
    assert names(place.folder) == before
    count("wrong calls")


@pytest.mark.parametrize("words", UNKNOWN, ids=" ".join)
def test_unknown_commands_and_options_are_refused_with_the_usage(words, count):
    ended = run(*(str(model_folder()) if word == MODEL else word for word in words))
    assert ended.code == 2
    assert ended.out == ""
    assert "Usage" in ended.err
    assert "Traceback" not in ended.err
    count("wrong calls")
