"""Options that functions share are in one place, and each function's help has all of them."""

from __future__ import annotations

import inspect
from dataclasses import fields
from typing import Annotated, TypedDict, Unpack

import pytest

from layerwise.analyses.arguments import Tasks, check_arguments
from layerwise.analyses.distillation.training.losses import Objective
from layerwise.ground.arguments import typed_dict_arguments
from layerwise.ground.docstrings import argument_texts, whole_docstring
from layerwise.models import load_model
from layerwise.runs.options import TEXTS, PairOptions, RunOptions, SeriesOptions, TrainingOptions
from tests.test_arguments import FUNCTIONS


class Options(TypedDict, total=False):
    limit: Annotated[int | None, 7, "the first so many."]
    seed: Annotated[int, 0, "a seed."]


class OtherOptions(Options, total=False):
    limit: Annotated[int | None, 100, "fewer."]


@check_arguments()
def echo_options(tasks: Tasks, *, draws: int = 2, **options: Unpack[Options]) -> dict[str, object]:
    """Say what was asked.

    It returns its arguments.

    Args:
        draws: how often,
            at most.
        seed: a seed of its own.

    Returns:
        All of them.
    """
    return {"tasks": tasks, "draws": draws, **options}


@check_arguments()
def bare(**options: Unpack[OtherOptions]) -> dict[str, object]:
    """Say what was asked."""
    return dict(options)


def test_a_function_has_the_options_that_it_unpacks_in_its_signature_and_docstring():
    parameters = inspect.signature(echo_options).parameters
    assert list(parameters) == ["tasks", "draws", "limit", "seed"]
    assert parameters["limit"].default == 7
    assert parameters["limit"].annotation == "int | None"
    assert parameters["limit"].kind is inspect.Parameter.KEYWORD_ONLY
    assert inspect.getdoc(echo_options) == (
        "Say what was asked.\n\nIt returns its arguments.\n\nArgs:\n"
        f"    tasks: {TEXTS['tasks']}\n"
        "    draws: how often, at most.\n"
        "    limit: the first so many.\n"
        "    seed: a seed of its own.\n\n"
        "Returns:\n    All of them."
    )


def test_a_docstring_without_arguments_gets_them():
    assert inspect.getdoc(bare) == (
        "Say what was asked.\n\nArgs:\n    limit: fewer.\n    seed: a seed."
    )
    assert whole_docstring("It is.\n\nReturns:\n    One.", {"a": "b."}).startswith(
        "It is.\n\nArgs:\n    a: b.\n\nReturns:"
    )


def test_what_is_left_out_has_its_default_and_the_nearest_class_decides():
    assert echo_options("facts", seed=3) == {"tasks": ("facts",), "draws": 2, "limit": 7, "seed": 3}
    assert bare() == {"limit": 100, "seed": 0}


def test_an_unknown_option_is_refused_with_the_nearest_name():
    with pytest.raises(
        TypeError, match=r"argument of echo_options 'limmit'\. Did you mean 'limit'\?"
    ):
        echo_options("facts", limmit=1)  # pyright: ignore[reportCallIssue]


def test_a_function_with_an_argument_that_nothing_describes_cannot_be_made():
    with pytest.raises(TypeError, match=r"without a text: \{'threshold'\}"):

        @check_arguments()
        def _(kind: str = "skip", threshold: float = 0.5) -> None:
            """Do it.

            Args:
                kind: which.
            """


@pytest.mark.parametrize("name", FUNCTIONS)
def test_help_has_every_argument(name):
    function = FUNCTIONS[name]
    if "Args:" in function.__doc__:
        assert list(argument_texts(function)) == list(inspect.signature(function).parameters)
    assert max(map(len, inspect.getdoc(function).splitlines())) <= 96


def test_one_name_has_one_type_and_but_for_the_number_of_items_one_default():
    for kind in (PairOptions, SeriesOptions):
        shared = kind.__annotations__.keys() & RunOptions.__annotations__.keys() - {"limit"}
        assert {name: kind.__annotations__[name] for name in shared} == {
            name: RunOptions.__annotations__[name] for name in shared
        }
    training = {name: one.default for name, one in typed_dict_arguments(TrainingOptions).items()}
    assert vars(Objective()) == {one.name: training[one.name] for one in fields(Objective)}
    loading = inspect.signature(load_model).parameters
    for function in FUNCTIONS.values():
        parameters = inspect.signature(function).parameters
        for name in parameters.keys() & loading.keys() - {"name"}:
            assert parameters[name].default == loading[name].default
