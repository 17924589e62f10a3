"""Shapes and types of every function of the package are checked while its tests run.

An import hook decorates all functions and dataclasses, also those within functions. jaxtyping
brings such a hook, but one that checks arguments twice a call, builds two functions for each that
it decorates, and compiles anew all that the package imports: a third of the time of all tests.
"""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import functools
import inspect
import marshal
import sys
import types
import typing
from collections.abc import Callable, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from importlib.util import cache_from_source, source_hash
from pathlib import Path
from typing import Any

from beartype import beartype
from beartype.door import die_if_unbearable
from jaxtyping import AbstractArray, jaxtyped

from .cases import LONG

PACKAGE = "layerwise"
DECORATOR = "_typed"
OWN_SOURCE = Path(__file__).read_bytes()
HOLDS_STATEMENTS = (ast.stmt, ast.excepthandler, ast.match_case)

# Functions that were called in this test, each with what makes it be checked at its next call.
_ARM_AGAIN: list[Callable[[], None]] = []
# Functions within a function are made anew at each of its calls, so they are known by the number
# of their code, which stays with the outer function.
_CHECKED: set[int] = set()


def begin_test() -> None:
    """From now on, the first call of each function is checked again."""
    for arm in _ARM_AGAIN:
        arm()
    _ARM_AGAIN.clear()
    _CHECKED.clear()


def check_types() -> None:
    """Check the package's functions from now on; a RuntimeError if it was imported before."""
    if PACKAGE in sys.modules:
        raise RuntimeError(f"{PACKAGE} was imported before its types could be checked.")
    sys.meta_path.insert(0, _Finder())


class _Finder(MetaPathFinder):
    """Finds the package's modules as ever, and has what they define checked."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: types.ModuleType | None = None
    ) -> ModuleSpec | None:
        if name.partition(".")[0] != PACKAGE:
            return None
        spec = PathFinder.find_spec(name, path, target)
        if spec is not None and isinstance(spec.loader, SourceFileLoader):
            spec.loader = _Loader(spec.loader.name, spec.loader.path)
        return spec


class _Loader(SourceFileLoader):
    """Compiles a module with its functions and classes decorated by ``type_checked``."""

    def get_code(self, fullname: str) -> types.CodeType:
        path = self.get_filename(fullname)
        source = self.get_data(path)
        kept, of = cache_from_source(path, optimization="typed"), source_hash(source + OWN_SOURCE)
        with contextlib.suppress(OSError):
            data = self.get_data(kept)
            if data.startswith(of):
                return marshal.loads(data[len(of) :])
        tree = ast.parse(source, path)
        _decorate(tree)
        code = compile(tree, path, "exec", dont_inherit=True)
        if not sys.dont_write_bytecode:
            self.set_data(kept, of + marshal.dumps(code))
        return code

    def exec_module(self, module: types.ModuleType) -> None:
        setattr(module, DECORATOR, type_checked)
        super().exec_module(module)


def _decorate(node: ast.AST) -> None:
    """Decorate functions first, while their hints can be seen, and classes last."""
    if isinstance(node, ast.FunctionDef):
        node.decorator_list.append(_decorator(node))
    elif isinstance(node, ast.ClassDef):
        node.decorator_list.insert(0, _decorator(node))
    for child in ast.iter_child_nodes(node):
        if isinstance(child, HOLDS_STATEMENTS):  # expressions, which are most, define nothing
            _decorate(child)


def _decorator(node: ast.stmt) -> ast.expr:
    return ast.copy_location(ast.Name(DECORATOR, ast.Load()), node)


# Models hold functions of these as fields, whose code is part of the hash of a run's settings.
HELD = ("layerwise.models.seq2seq", "layerwise.models.decoder")


def type_checked(of: Any) -> Any:
    """A function, or a dataclass, that checks what it is given and what it returns."""
    if not inspect.isclass(of):
        return _typed_function(of)
    if dataclasses.is_dataclass(of) and not hasattr(of.__init__, "__wrapped__"):
        of.__init__ = _typed_function(of.__init__)
    return of


def _typed_function(function: types.FunctionType) -> Callable[..., Any]:
    if inspect.isgeneratorfunction(function):
        # beartype alone would check arguments no earlier than the first value is asked for.
        return jaxtyped(function, typechecker=beartype)
    is_held = function.__module__.startswith(HELD)
    if LONG or is_held or "<locals>" in function.__qualname__ or function.__closure__:
        return _counted(function)
    _check_first_calls(function)
    return function


def _counted(function: types.FunctionType) -> Callable[..., Any]:
    """A function all of whose calls are checked in long runs, and the first of each test by day."""
    code, checks = id(function.__code__), []

    @functools.wraps(function)
    def checked(*args: Any, **kwargs: Any) -> Any:
        if not LONG and code in _CHECKED:
            return function(*args, **kwargs)
        _CHECKED.add(code)
        if not checks:  # not earlier: most functions are never called in one process
            checks.append(_checks(function))
        return checks[0](*args, **kwargs)

    return checked


def _check_first_calls(function: types.FunctionType) -> None:
    """Have the first call of each test checked, and leave no trace of it in those that follow.

    A wrapper around each function took a twentieth of the time of all tests. So the function's code
    is exchanged: for one that checks a call, and back.
    """
    plain = _copy(function, function.__annotations__)
    code, checks = function.__code__, []

    def check(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        function.__code__ = code
        _ARM_AGAIN.append(arm)
        if not checks:  # not earlier: most functions are never called in one process
            checks.append(_checks(plain))
        return checks[0](*args, **kwargs)

    first = _FIRST_CALL.replace(
        co_consts=tuple(check if each == "check" else each for each in _FIRST_CALL.co_consts),
        co_filename=code.co_filename,
        co_firstlineno=code.co_firstlineno,
        co_name=code.co_name,
        co_qualname=code.co_qualname,
    )

    def arm() -> None:
        function.__code__ = first

    vars(function)["__wrapped__"] = plain  # whose signature is the function's
    arm()


# The text stands for the function that checks a call, which takes its place among the constants.
_FIRST_CALL = (
    lambda *args, **kwargs: "check".__call__(args, kwargs)  # pyright: ignore
).__code__


def _checks(function: Callable[..., Any]) -> Callable[..., Any]:
    hints = {name: _resolve(hint, function) for name, hint in function.__annotations__.items()}
    check = _with_options(beartype(_copy(function, hints)), hints)
    if not any(map(_has_shape, hints.values())):
        return check

    def in_one_context(*args: Any, **kwargs: Any) -> Any:
        with jaxtyped("context"):  # within it, an axis of a name has one size
            return check(*args, **kwargs)

    return in_one_context


def _with_options(check: Callable[..., Any], hints: dict[str, Any]) -> Callable[..., Any]:
    """The same, which also checks options that are unpacked: beartype takes any."""
    unpacked = [typing.get_args(hint)[0] for hint in hints.values() if _is_unpacked(hint)]
    if not unpacked:
        return check
    (kind,) = unpacked
    scope = vars(sys.modules[kind.__module__])
    options = {name: _evaluate(hint, scope) for name, hint in kind.__annotations__.items()}

    def with_options(*args: Any, **kwargs: Any) -> Any:
        for name in options.keys() & kwargs.keys():
            die_if_unbearable(kwargs[name], options[name])
        return check(*args, **kwargs)

    return with_options


def _is_unpacked(hint: Any) -> bool:
    return typing.get_origin(hint) is typing.Unpack


def _resolve(hint: Any, function: Callable[..., Any]) -> Any:
    """The type that a hint names; any will do if its name is not known when the tests run."""

    return _evaluate(hint, function.__globals__)


def _evaluate(hint: Any, scope: dict[str, Any]) -> Any:
    def of(value: Any) -> None: ...

    of.__annotations__ = {"value": hint}
    try:
        return typing.get_type_hints(of, scope, include_extras=True)["value"]
    except Exception:
        return Any


def _copy(function: Callable[..., Any], hints: dict[str, Any]) -> types.FunctionType:
    copy = types.FunctionType(
        function.__code__,
        function.__globals__,
        function.__name__,
        function.__defaults__,
        function.__closure__,
    )
    copy.__kwdefaults__ = function.__kwdefaults__
    copy.__qualname__ = function.__qualname__
    copy.__module__ = function.__module__
    copy.__annotations__ = hints
    return copy


def _has_shape(hint: Any) -> bool:
    of_arrays = inspect.isclass(hint) and issubclass(hint, AbstractArray)
    return of_arrays or any(map(_has_shape, typing.get_args(hint)))
