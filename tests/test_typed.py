"""Types and shapes of the package are checked while its tests run, those of each function."""

from __future__ import annotations

import contextlib
import inspect
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Annotated, TypedDict, Unpack

import numpy as np
import pytest
from beartype.roar import BeartypeCallHintViolation
from jaxtyping import Float, TypeCheckError

from layerwise import stats
from tests.cases import LONG
from tests.typed import _Loader, begin_test, type_checked


def assert_calls_refused(*calls: Callable[[], object]) -> None:
    for call in calls:
        begin_test()
        with pytest.raises((BeartypeCallHintViolation, TypeCheckError)):
            call()


@type_checked
def product(a: Float[np.ndarray, "n k"], b: Float[np.ndarray, "k m"]) -> Float[np.ndarray, "n m"]:
    return (a @ b)[: 2 if a.shape[0] == 3 else None]


def test_axes_of_one_name_have_one_size_within_a_call():
    assert product(np.ones((4, 2)), np.ones((2, 5))).shape == (4, 5)
    begin_test()
    assert product(np.ones((5, 3)), np.ones((3, 4))).shape == (5, 4)
    assert_calls_refused(
        lambda: product(np.ones((4, 2)), np.ones((3, 5))),
        lambda: product(np.ones((4, 2)), np.ones(2)),
        lambda: product(np.ones((3, 2)), np.ones((2, 5))),  # what is returned has another shape
    )


class Options(TypedDict, total=False):
    seed: Annotated[int, 0, "decides all draws."]
    missing: Annotated[NotThere, 0, "of a type that is known to type checkers alone."]  # pyright: ignore


@type_checked
def optional(**options: Unpack[Options]) -> int:
    return options["seed"]


def test_options_that_are_unpacked_are_checked():
    assert optional(seed=3, missing="any") == 3
    assert_calls_refused(lambda: optional(seed="3"))


def test_functions_of_functions_and_iterators_are_checked():
    def outer() -> Callable[..., object]:
        @type_checked
        def inner(number: int) -> str:
            return number if number == 3 else "text"  # pyright: ignore

        return inner

    @type_checked
    def counted(number: int) -> Iterator[int]:
        yield number

    inner = outer()
    assert inner(2) == "text"
    assert list(counted(2)) == [2]
    assert_calls_refused(lambda: inner("2"), lambda: inner(3), lambda: counted("2"))


@type_checked
@dataclass(frozen=True)
class Pair:
    one: int
    more: tuple[str, ...] = ()

    @property
    @type_checked
    def first(self) -> str:
        return self.more[0] if self.more else None  # pyright: ignore


def test_fields_and_properties_of_dataclasses_are_checked():
    assert Pair(1, ("a",)).first == "a"
    assert_calls_refused(lambda: Pair("1"), lambda: Pair(1, (2,)), lambda: Pair(1).first)


def test_the_package_is_checked():
    assert_calls_refused(
        lambda: stats.above_chance(np.ones((2, 2), dtype=bool), 0.5),
        lambda: stats.mcnemar_exact("1", 2),  # pyright: ignore
    )


def half_function() -> Callable[..., float]:
    @type_checked
    def half(number: int, *, of: int = 2) -> float:
        return number / of if number else 0.0

    return half


@type_checked
def half(number: int, *, of: int = 2) -> float:
    return number / of if number else 0.0


@pytest.mark.parametrize("kind", ["of a module", "within a function", "made at each call"])
def test_the_first_call_is_checked_in_each_test_and_all_in_long_runs(kind):
    """Functions within a function, which are made at each of its calls, are counted together."""
    same = half if kind == "of a module" else half_function()
    for _ in range(2):
        begin_test()
        refused = []
        for call in (1, 2, 3):
            function = half_function() if kind == "made at each call" else same
            with contextlib.suppress(BeartypeCallHintViolation):
                function(2, of=2.5)
                continue
            refused.append(call)
        assert refused == ([1, 2, 3] if LONG else [1])


def test_a_checked_function_has_the_signature_defaults_and_closure_of_its_own():
    begin_test()
    for _ in range(2):
        assert str(inspect.signature(half)) == "(number: 'int', *, of: 'int' = 2) -> 'float'"
        assert half(6) == 3.0
        assert half(6, of=3) == 2.0
        assert Child(1).name() == "parent 1"


class Parent:
    @type_checked
    def __init__(self, number: int) -> None:
        self.number = number

    @type_checked
    def name(self) -> str:
        return f"parent {self.number}"


class Child(Parent):
    @type_checked
    def __init__(self, number: int) -> None:
        super().__init__(number)  # whose class is in the function's closure

    @type_checked
    def name(self) -> str:
        return super().name()


def test_what_is_compiled_is_kept_until_the_source_is_another(tmp_path, monkeypatch):
    path = tmp_path / "module.py"
    path.write_text("def one(number: int) -> int:\n    return number\n")
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    loader = _Loader("module", str(path))
    first = loader.get_code("module")
    with monkeypatch.context() as patch:
        patch.setattr("tests.typed._decorate", lambda tree: pytest.fail("compiled anew"))
        assert loader.get_code("module") == first
    path.write_text("def one(number: int) -> int:\n    return 2 * number\n")
    assert loader.get_code("module") != first
