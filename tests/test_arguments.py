"""Arguments of all public functions: what is refused before any work, and what is made plain.

The cases are made from the functions' signatures, so that a new option cannot be forgotten.
"""

from __future__ import annotations

import inspect
import itertools
import json
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import layerwise as lw
from layerwise.analyses.arguments import check_arguments
from layerwise.analyses.execute import execute
from layerwise.analyses.tuned_lens.api import train_lens
from layerwise.ground.readers import plain
from layerwise.models.instance.kinds import Model
from layerwise.planning.plan import plan_run
from tests.analysis import word_task, write_jsonl
from tests.models.tiny import tiny_model


def public_functions() -> dict[str, Any]:
    """Every public function by name; of a module that can be called, its function."""
    named = {name: getattr(lw, name) for name in lw.__all__}
    found = {
        name: getattr(each, name) if inspect.ismodule(each) else each
        for name, each in named.items()
        if not isinstance(each, type)
    }
    return found | {"plan_run": plan_run, "train_lens": train_lens}


FUNCTIONS = public_functions()
OPTIONS = [
    pytest.param(name, parameter, id=f"{name}-{parameter.name}")
    for name, function in FUNCTIONS.items()
    for parameter in inspect.signature(function).parameters.values()
]
NO_ARGUMENTS = {"known_models"}
NEEDED: dict[str, Any] = {
    "name_or_path": "facts", "tasks": "facts", "n_removed": 1, "remove": [0], "out": "run",
    "results": [], "runs": ["a-1", "b-2"], "checkpoints": {1: "a", 2: "b"}, "folder": "run",
    "folders": ["run"], "run": "run", "layer": 0, "task": "facts",
    "prompt": "the", "clean": "the red", "corrupted": "red the", "answer": 7, "wrong": 8,
    "prompts": [{"prompt": "a", "answer": "b"}], "first": "a.jsonl", "second": "b.jsonl",
    "dataset": [{"question": "a", "answer": "b"}], "outcome": max, "metric": max,
    "interventions": [lw.sweep.skip(0)],
}  # fmt: skip


def endless() -> Iterator[int]:
    return itertools.count()


NUMBERS = [[0, None], [0.5], [True], {0, 1}, {0: 1}, 3, np.zeros((2, 2), int), endless(), b"ab"]
TEXTS = [3, [3], ["a", None], {"a"}, {"a": 1}, b"a", [b"a"], np.zeros((2, 2)), True]
# Of each kind of option (told by its annotation) values that it cannot have.
WRONG: dict[str, list[Any]] = {
    "int": [True, np.True_, 2.0, 2.5, np.float64(2), "3", [3], np.array([1, 2]), 10**30, 10**5000,
            float("nan"), torch.tensor(True), torch.tensor(1.5), b"1"],
    "float": [float("nan"), float("inf"), -float("inf"), True, "0.5", [0.5], np.float32("nan"),
              torch.tensor(float("inf")), 10**400, 1j],
    "float | str": [float("inf"), True, "wide", "3.3 km", "", [3.3], 10**400, 1j, b"3.3"],
    "bool": [0, 1, "no", [], np.array([True, False])],
    "str": [3, ["a"], b"a", True, 0.5],
    "str | Sequence[str]": TEXTS,
    "Sequence[int]": [*NUMBERS, "0-2"],
    "Sequence[int | str]": [*NUMBERS, "0-2"],
    "str | Sequence[int]": NUMBERS,
    "TaskLike | Sequence[TaskLike]": [3, [None], {"facts"}, {"facts": 1}, b"facts", [["facts"]]],
    "str | Path": ["", " ", "a\0b", "x" * 300, "a/" * 3000, "\ud800", "~nosuchuser/x", 3, b"run"],
    "str | Path | AblationResult": ["", "a\0b", "x" * 300, 3, b"run", ["run"]],
    "int | str": [True, 2.5, [3], b"1", 10**30],
    "str | os.PathLike[str]": ["", " \t", "x" * 300, 3, b"gpt2"],
    "str | os.PathLike[str] | Model": ["", "x" * 300, 3],
    "Executor": [3, "local", ["auto"], True, {"address": "auto"}],
    "Model": ["smollm2-135m", Path("m"), 3, torch.nn.Linear(1, 1), None],
    "TunedLens | str | Path": ["", "x" * 300, 3],
    "str | Path | Sequence[str | Path]": ["", ["run", ""], 3, [None], {"run"}, b"run"],
    "Sequence[str | Path] | Mapping[str, Sequence[str | Path]]": ["", [3], {"a": 3}, {3: ["run"]},
                                                                  {"": ["run"]}, None],
    "Folders": ["", 3, [3], {"a": "run", "b": "run"}, {1: 3, 2: 3}, b"run", None],
    "Checkpoints": ["", 3, [3], {"a": "m", "b": "m"}, {1: 3, 2: 3}, [(1, 2, 3), (4,)], b"m"],
    "Sequence[Result]": ["run", [3], {"a": 1}, [None]],
    "Result | Sequence[Result]": ["run", [3], {"a": 1}, [None]],
    "Prompt": [3, b"a", {"a": 1}, [1.5], [True], [None], ["a", 3]],
    "Prompt | Sequence[Prompt]": [3, b"a", {"a": 1}, [1.5], [["a"]], ["a", 3]],
    "str | int": [1.5, True, [3], b"a", {"a"}],
    "str | int | Sequence[str | int]": [1.5, [1.5], [None], b"a", {"a"}],
    "Sequence[int] | str": [3, "some", [1.5], b"a", {0}],
    "Sequence[Mapping] | DataFrame": ["a", 3, [3], {"a": [1]}, [], endless(), pd.DataFrame()],
    "str | Callable": [3, "", ["a"], str, b"a", {1: 2}],
    "str | Sequence[str] | Callable": [3, "", [3], [], str, b"a"],
    "Callable": [3, "max", [len], lw.UserError, {1: 2}],
    "Sequence[Intervention]": ["skip", 3, [3], {"a": 1}, [None], []],
    "Sequence[Mapping[str, Any]]": ["a", 3, [3], {"a": 1}],
    "Mapping[str, Sequence[int]]": [3, ["early"], {"early": "0-2"}, {"early": [None]}, {3: [0]}],
}  # fmt: skip


def annotation_words(parameter: inspect.Parameter) -> str:
    """An option's annotation in words, None apart; also where a checker has resolved it."""
    source = parameter.annotation
    assert isinstance(source, str), source
    return source.removesuffix(" | None")


def refusal(name: str, parameter: str, value: Any) -> str:
    function = FUNCTIONS[name]
    required = {
        each.name: NEEDED[each.name]
        for each in inspect.signature(function).parameters.values()
        if each.default is each.empty and each.name in NEEDED
    }
    if "model" in inspect.signature(function).parameters:
        required["model"] = tiny_model("llama")
    for second in {"other", "student"} & inspect.signature(function).parameters.keys():
        required[second] = tiny_model("llama")
    with pytest.raises(lw.UserError) as caught:
        function(**required | {parameter: value})
    return str(caught.value)


@pytest.mark.parametrize(("name", "parameter"), OPTIONS)
def test_wrong_values_of_every_option_are_refused_in_a_sentence(name, parameter):
    usual = WRONG[annotation_words(parameter)]
    wrong = [value for value in usual if value is not None or parameter.default is not None]
    wrong += [object(), float("nan")]
    if parameter.default is not None and parameter.name != "limit":
        wrong.append(None)
    for value in wrong:
        told = refusal(name, parameter.name, value)
        assert parameter.name in told or "model's name is empty" in told
        assert "expected" in told
        assert "\n" not in told
        assert len(told) < 500


def test_a_function_with_an_option_that_nobody_reads_cannot_be_made():
    with pytest.raises(TypeError, match="an argument without a type: novel"):

        @check_arguments()
        def run(model: Model, novel=3):
            raise AssertionError


def test_a_function_with_variadic_arguments_cannot_be_made():
    with pytest.raises(TypeError, match=r"run has the variadic argument \*names: expected one"):

        @check_arguments()
        def run(model: Model, *names: str):
            raise AssertionError

    with pytest.raises(TypeError, match=r"\*\*more, whose names are unknown: expected .*TypedDict"):

        @check_arguments()
        def run_more(model: Model, **more: int):
            raise AssertionError


def test_an_unknown_argument_is_told_with_the_nearest_name():
    with pytest.raises(TypeError, match=r"argument of ablate 'sed'\. Did you mean 'seed'\?"):
        lw.ablate(tiny_model("llama"), "facts", sed=1)


@pytest.mark.parametrize("name", sorted(set(FUNCTIONS) - NO_ARGUMENTS))
def test_every_public_function_checks_its_arguments(name):
    assert (
        vars(FUNCTIONS[name])["arguments"].keys()
        == inspect.signature(FUNCTIONS[name]).parameters.keys()
    )


def other_forms(value: Any) -> list[Any]:
    """The same value as other libraries and types have it."""
    if isinstance(value, bool):
        return [np.bool_(value), np.array(value), torch.tensor(value)]
    if isinstance(value, int):
        return [np.int64(value), np.array(value), torch.tensor(value), pd.Series([value])[0]]
    if isinstance(value, float):
        return [np.float64(value), torch.tensor(value, dtype=torch.float64), np.array(value)]
    if isinstance(value, str):
        return [np.str_(value)]
    assert isinstance(value, tuple)
    forms = [list(value), iter(value), dict.fromkeys(value).keys()]
    return [*forms, np.array(value), pd.Series(value)] if value else forms


@pytest.mark.parametrize(("name", "parameter"), OPTIONS)
def test_other_forms_of_every_default_become_the_same_plain_value(name, parameter):
    argument = vars(FUNCTIONS[name])["arguments"][parameter.name]
    if parameter.default in (parameter.empty, None):
        return
    usual = argument.read(parameter.default)
    json.dumps(usual)
    for form in other_forms(parameter.default):
        got = argument.read(form)
        assert type(got) is type(usual)
        assert got == usual
        if isinstance(got, tuple):
            assert all(type(one) in (int, str) for one in got)


@pytest.mark.parametrize(
    ("name", "given", "made"),
    [
        ("layers", range(3), (0, 1, 2)),
        ("layers", np.array([2, 0]), (2, 0)),
        ("layers", torch.tensor([1]), (1,)),
        ("layers", (n for n in (0, "encoder.1")), (0, "encoder.1")),
        ("layers", [np.int32(1), torch.tensor(2)], (1, 2)),
        ("heads", pd.Index([3, 4]), (3, 4)),
        ("tasks", Path("a/mine.jsonl"), ("a/mine.jsonl",)),
        ("tasks", PurePosixPath("mine.jsonl"), ("mine.jsonl",)),
        ("tasks", iter(["facts", Path("mine.jsonl")]), ("facts", "mine.jsonl")),
        ("protocols", np.array(["letter"]), ("letter",)),
        ("out", "~/runs", Path.home() / "runs"),
        ("out", "./~/runs", "./~/runs"),
        ("limit", torch.tensor([[5]])[0, 0], 5),
        ("rate", 1, 1.0),
        ("rate", np.float32(0.5), 0.5),
        ("runs", {"a": (Path("x"), "y")}, {"a": (Path("x"), "y")}),
    ],
)
def test_what_others_call_lists_and_numbers_is_made_plain(name, given, made):
    functions = {"rate": "distill", "runs": "compare"}
    got = vars(FUNCTIONS[functions.get(name, "ablate")])["arguments"][name].read(given)
    assert got == made
    assert type(got) is type(made)


def test_a_scalar_is_plain_and_anything_else_stays():
    assert type(plain(np.int64(3))) is int
    assert plain([1]) == [1]


def test_a_run_with_numpy_and_generators_goes_on_as_the_plain_run(tmp_path):
    """A NumPy seed once failed when everything was done, for run.json could not be written."""
    model, file = tiny_model("llama"), write_jsonl(tmp_path / "words.jsonl", word_task(3).items)
    out = tmp_path / "run"
    fancy = lw.ablate(
        model, Path(file), iter(["continuation"]), layers=np.array([0, 1]), seed=np.int64(3),
        limit=torch.tensor(2), as_one=np.False_, out=out, progress=False,
    )  # fmt: skip
    plainly = lw.ablate(
        model, str(file), ["continuation"], layers=[0, 1], seed=3, limit=2, out=out, progress=False
    )
    pd.testing.assert_frame_equal(fancy.records, plainly.records)
    told = json.loads((out / "run.json").read_text())
    assert (told["seed"], told["settings"]["layers"]) == (3, [0, 1])


def test_a_setting_that_run_json_cannot_hold_is_found_before_anything_is_made():
    def make(parts: Any, told: Any) -> list[Any]:
        raise AssertionError("work was begun")

    for odd in (np.int64(3), {1, 2}):
        with pytest.raises(TypeError, match="not JSON serializable"):
            execute(make, (), None, {"seed": odd}, lambda: None, False)
    with pytest.raises(ValueError, match="not JSON compliant"):
        execute(make, (), None, {"rate": float("nan")}, lambda: None, False)


def test_sentences_spell_control_characters_out():
    with pytest.raises(lw.UserError, match=re.escape(r"'\x1b[31mred.jsonl'")) as caught:
        lw.load_task("\x1b[31mred.jsonl")
    assert "\x1b" not in str(caught.value)
