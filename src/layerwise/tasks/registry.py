"""The one registry of tasks: built-in suites by name, other sources by what a name looks like."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache, partial
from typing import Any, NamedTuple

from layerwise.errors import UserError, short_repr, unknown_name
from layerwise.ground.argument_types import Limit, Seed
from layerwise.ground.arguments import check_arguments
from layerwise.ground.readers import TaskName
from layerwise.models.organisms.language import LETTERS, ORGANISM, WIRED

from . import benchmarks, columns, harness, jsonl, task_files
from .items import CAPABILITIES, Capability
from .suites import BUILT_IN, MATCHED
from .suites.toy import toy_suites
from .task import Task, take

SuiteFactory = Callable[..., Task]
Matches = Callable[[str], bool]
Load = Callable[[str, int, int | None], Task]
TEXT = "text"
"""The language of ordinary models, of which the suites are in English."""
Arguments = Mapping[str, "int | tuple[int, ...]"]
_NOT_ASKED = ("language", "seed")
# Whether a type that a name can set has several values.
_KINDS = {int: False, int | None: False, Sequence[int]: True}
_NUMBERS = re.compile(r"\d{1,4}(\+\d{1,4})*", re.ASCII)


class _Suite(NamedTuple):
    capability: Capability
    factory: SuiteFactory
    language: str


# Names for several suites of a language.
_SETS = ("all", *MATCHED, *CAPABILITIES)
_SOURCES = (
    "a path to a .jsonl, .csv, .parquet or .toml file",
    "benchmark:NAME:data=FOLDER",
    "hf:NAME:question=COLUMN:data=FOLDER",
    "hf:OWNER/NAME:SPLIT:question=COLUMN",
    "lm-eval:NAME",
)
PREFIXES = ("benchmark:", "hf:", "lm-eval:")
"""Beginnings of names that belong to a source and are not paths."""
_FILES = (jsonl, columns, benchmarks, task_files)
"""Sources that are read before there is a model."""
_suites: dict[str, _Suite] = {}
_sources: list[tuple[Matches, Load]] = []


def register_suite(
    name: str, capability: Capability, factory: SuiteFactory, language: str = TEXT
) -> None:
    """Add a suite under a name.

    Args:
        name: how it is asked for; neither ``all``, ``matched`` nor a capability's name, and
            without a colon, behind which names of suites have their arguments.
        capability: what its items ask for.
        factory: makes the task from a seed. Arguments of its own that are whole numbers, or
            sequences of them, can be set by name (``kv-words:n_pairs=8``).
        language: whose models are asked it when ``all`` or a capability is asked for.

    Raises:
        ValueError: the name is taken or reserved.
    """
    if name in (*_suites, *_SETS) or ":" in name:
        raise ValueError(f"The name {name!r} is taken; register the suite under another one.")
    _suites[name] = _Suite(capability, factory, language)


def register_source(matches: Matches, load: Load) -> None:
    """Add a source of tasks that are not suites, e.g. files or another harness's tasks.

    Args:
        matches: says whether a name belongs to this source; suites go first.
        load: makes the task from the name, a seed and the number of few-shot examples
            (None for the source's default).

    Raises:
        ValueError: this source is registered already.
    """
    if any(known is matches for known, _ in _sources):
        raise ValueError("This source of tasks is registered already.")
    _sources.append((matches, load))


def languages() -> list[str]:
    """The languages that suites are in, that of ordinary models first."""
    return list(dict.fromkeys(suite.language for suite in _suites.values()))


@check_arguments()
def task_names(language: str = TEXT) -> list[str]:
    """List the suites of a language, by capability and then in the order of registration."""
    order = list(CAPABILITIES)
    spoken = [name for name, suite in _suites.items() if suite.language == language]
    return sorted(spoken, key=lambda name: order.index(_suites[name].capability))


def paired_names(language: str = TEXT) -> list[str]:
    """The suites of a language whose pairs of prompts are patched if nobody names tasks."""
    return ["kv-words", "facts"] if language == TEXT else task_names(language)


def suites_like(name: str, language: str) -> list[str]:
    """The suites of a language that ask for the same as a suite: itself in its own language."""
    if not is_suite(name) or _suites[suite_name(name)].language == language:
        return [name]
    capability = _suites[suite_name(name)].capability
    return [other for other in task_names(language) if _suites[other].capability == capability]


def expand_task_names(names: Iterable[str], language: str = TEXT) -> list[str]:
    """Replace sets and capabilities by their suites; keep other names; drop repetitions.

    Args:
        names: suites, also with arguments (``kv-words:n_pairs=8``), capabilities, ``all``,
            ``matched``, or names that a source knows (``mine.jsonl``).
        language: that of the model; sets and capabilities stand for suites in it.

    Returns:
        Names for ``load_task``, in the order asked for.

    Raises:
        UserError: an unknown name, or two tasks that would go by the same name in results.
    """
    expanded = [other for name in names for other in _expand(name, language)]
    by_label: dict[str, str] = {}
    for name in expanded:
        label = _label(name)
        if by_label.setdefault(label, name) != name:
            raise UserError(
                f"Tasks {by_label[label]!r} and {name!r} would both be called {label!r} in the "
                "results; rename one of the files."
            )
    return list(by_label.values())


@check_arguments()
def load_task(
    name_or_path: TaskName,
    *,
    seed: Seed = 0,
    limit: Limit | None = None,
    fewshot: int | None = None,
) -> Task:
    """Load a built-in suite, or read a task from a file.

    Args:
        name_or_path: a suite's name, with arguments if need be (``kv-words:n_pairs=8``), or a
            name that a source knows (``mine.jsonl``).
        seed: decides which items a suite makes and in which order.
        limit: take the first so many items only.
        fewshot: number of few-shot examples; None for the task's default.

    Raises:
        UserError: an unknown name, a bad argument, limit or number of examples, or a bad file.
    """
    if is_suite(name_or_path):
        return take(_variant(name_or_path, seed), limit, fewshot)
    for matches, load in _sources:
        if matches(name_or_path):
            return take(load(name_or_path, seed, fewshot), limit)
    if name_or_path in _SETS:
        suites = " or ".join(_expand(name_or_path, TEXT))
        raise UserError(
            f"{name_or_path!r} stands for all tasks of its kind; expected one; load {suites}."
        )
    raise unknown_name("task", name_or_path, _known_names())


def refuse_unusable_task(name: str, *, seed: int, limit: int | None, fewshot: int | None) -> None:
    """Refuse, before there is a model, what ``load_task`` would refuse of a suite or a file."""
    if is_suite(name) or any(own.matches(name) for own in _FILES):
        load_task(name, seed=seed, limit=limit, fewshot=fewshot)
    elif harness.matches(name):
        harness.refuse_unknown(name)
    elif name not in _SETS and not any(matches(name) for matches, _ in _sources):
        raise unknown_name("task", name, _known_names())


def is_suite(name: str) -> bool:
    """True if a name is that of a suite, with or without arguments."""
    return suite_name(name) in _suites


def is_from_suite(task: Task) -> bool:
    """True if other seeds of a suite make further items of a task."""
    # A task of one's own may go by a suite's name, and asks for something else.
    if task.source != "built-in" or not is_suite(task.name):
        return False
    suite = _variant(task.name, 0)
    return (suite.description, suite.template) == (task.description, task.template)


def arguments_in_words(name: str) -> str:
    """The arguments that a suite's name can set, with their usual values; empty if none."""
    return ", ".join(
        key if one.default is None else f"{key}={_argument_text(one.default)}"
        for key, one in suite_arguments(_suites[name].factory).items()
    )


def _variant(name: str, seed: int) -> Task:
    """The task of a suite; with arguments it goes by the name that states them."""
    return _draw_task(_suites[suite_name(name)].factory, name, seed)


# Most runs and tables ask for the same few suites, each several times.
@lru_cache(maxsize=64)
def _draw_task(factory: SuiteFactory, name: str, seed: int) -> Task:
    arguments = read_arguments(name, factory)
    task = factory(seed, **arguments)
    return replace(task, name=_variant_name(name)) if arguments else task


def _variant_name(name: str) -> str:
    """The one name of a suite's variant, however its arguments were written."""
    base = suite_name(name)
    arguments = read_arguments(name, _suites[base].factory)
    return ":".join([base, *(f"{key}={_argument_text(value)}" for key, value in arguments.items())])


def _expand(name: str, language: str) -> list[str]:
    if name in _SETS:
        spoken = task_names(language)
        names = [suite for suite in spoken if name in ("all", _suites[suite].capability)]
        if name in MATCHED:
            names = [_variant_name(suite) for suite in MATCHED[name].get(language, ())]
        if not names:
            raise UserError(
                f"No suite in the language {language!r} is of {name!r}; expected one of: "
                f"{', '.join(spoken) or 'none'}."
            )
        return names
    if is_suite(name):
        return [_variant_name(name)]
    if harness.matches(name):
        return harness.expand(name)
    if any(matches(name) for matches, _ in _sources):
        return [name]
    raise unknown_name("task", name, _known_names())


def _label(name: str) -> str:
    if is_suite(name):
        return name
    paths = (jsonl, task_files)
    return next((source.task_name(name) for source in paths if source.matches(name)), name)


def named_tasks() -> list[str]:
    """All suites, in whichever language, and the names for several of them."""
    return [*_suites, *_SETS]


def _known_names() -> list[str]:
    return [*named_tasks(), *_SOURCES]


for _name, _capability, _factory in BUILT_IN:
    register_suite(_name, _capability, _factory)
for _language in (ORGANISM, LETTERS, WIRED):
    for _name, _capability, _factory in toy_suites(_language):
        register_suite(_name, _capability, _factory, _language.name)
register_source(jsonl.matches, jsonl.load)
register_source(benchmarks.matches, benchmarks.load)
register_source(columns.matches, columns.load)
register_source(harness.matches, harness.load)
register_source(task_files.matches, partial(task_files.load, load_other=load_task))


def suite_arguments(factory: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    """The arguments of a suite's factory that a name can set: whole numbers, and rows of them."""
    parameters = inspect.signature(factory, eval_str=True).parameters
    return {
        name: parameter
        for name, parameter in parameters.items()
        if name not in _NOT_ASKED and parameter.annotation in _KINDS
    }


def suite_name(name: str) -> str:
    """The suite's own name, in front of the arguments."""
    return name.partition(":")[0]


def read_arguments(name: str, factory: Callable[..., Any]) -> Arguments:
    """The arguments in a name such as ``arithmetic:digits=1+2:n_items=400``."""
    # No commas: tables join the names of tasks by them.
    base, *parts = name.split(":")
    known = suite_arguments(factory)
    given: dict[str, int | tuple[int, ...]] = {}
    for part in parts:
        argument, equals, value = part.partition("=")
        several = argument in known and _KINDS[known[argument].annotation]
        right = _NUMBERS.fullmatch(value) and (several or "+" not in value)
        if argument not in known or argument in given or not (equals and right):
            if not known:
                raise UserError(f"Suite {base!r} takes no arguments; ask for {base!r} alone.")
            first, kind = next((key, _KINDS[one.annotation]) for key, one in known.items())
            raise UserError(
                f"Cannot read {short_repr(part)} in the task name {short_repr(name)}: "
                f"expected arguments of "
                f"{base!r}, each once, with whole numbers of at most four digits, such as "
                f"{base}:{first}={'1+2' if kind else '8'}; it takes {', '.join(known)}."
            )
        numbers = tuple(map(int, value.split("+")))
        given[argument] = numbers if several else numbers[0]
    if given.get("n_items") == 0:
        raise UserError(f"The task name {short_repr(name)} asks for 0 items; expected 1 or more.")
    return {argument: given[argument] for argument in known if argument in given}


def _argument_text(value: int | Sequence[int]) -> str:
    return str(value) if isinstance(value, int) else "+".join(map(str, value))
