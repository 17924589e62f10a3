"""Where a task of lm-evaluation-harness is found: files, names, groups and tags.

Whether its code may run is in ``loading``.
"""

from __future__ import annotations

import contextlib
import difflib
import io
import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from layerwise.errors import UserError, one_line, shown
from layerwise.tasks._source_names import SourceName


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without the harness's progress bars and warnings, and with templates that run no code."""
    import lm_eval.utils as utils
    from jinja2.sandbox import SandboxedEnvironment

    usual = utils.env
    safe = SandboxedEnvironment(undefined=usual.undefined, keep_trailing_newline=True)
    safe.filters = usual.filters
    utils.env = safe
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        utils.env = usual


def members(asked: SourceName, name: str) -> list[str]:
    """The names of the tasks that a name stands for."""
    found = list(dict.fromkeys(_leaves(asked.base, name)))
    if found == [asked.base]:
        return [name]
    if asked.data is not None:
        raise UserError(
            f"{name!r} is a group, and each of its tasks has data of its own; expected data= "
            f"behind one task; name one of {', '.join(found[:5])}."
        )
    arguments = [f"{key}={value}" for key, value in asked.arguments.items()]
    return [":".join([asked.source, one, *arguments]) for one in found]


def harness() -> Any:
    """The harness's package of tasks, which is imported here."""
    try:
        import lm_eval.tasks
    except ImportError as error:
        raise UserError(
            "Tasks of lm-evaluation-harness need its package lm_eval, which is not installed; run "
            "pip install 'layerwise[lm-eval]'."
        ) from error
    return lm_eval.tasks


def own_folder() -> Path:
    """Where the harness has the files of its tasks."""
    return Path(str(harness().__file__)).parent


@lru_cache(maxsize=1)
def everything() -> Any:
    """All tasks of the harness, whose listing takes seconds."""
    with quiet():
        return harness().TaskManager()


def file_of(base: str) -> Path:
    """The file of a task, a group or a user; most are named like the task."""
    if base.endswith((".yaml", ".yml")):
        if not Path(base).is_file():
            raise UserError(f"File {base!r} is not there; expected the YAML file of a task.")
        return Path(base)
    named = own_folder().rglob(f"{base}.yaml") if re.fullmatch(r"[\w.-]+", base) else ()
    for path in sorted(named):
        config = read_yaml(path, base)
        if base in (config.get("task"), config.get("group")):
            return path
    entry = everything().task_index.get(base)
    if entry is None or entry.yaml_path is None:
        close = difflib.get_close_matches(base[:100], everything().all_tasks, n=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        raise UserError(
            f"Unknown task {shown(base)} of lm-evaluation-harness.{hint} Expected a name that "
            "`lm_eval ls tasks` lists, or the path of a .yaml file."
        )
    return Path(entry.yaml_path)


def read_yaml(path: Path, name: str, *, functions: bool = False) -> dict[str, Any]:
    """What a file and those that it includes say; names of functions unless they are wanted."""
    harness()
    from lm_eval.tasks._yaml_loader import load_yaml

    try:
        return load_yaml(path, resolve_func=functions)
    except ImportError as error:
        raise UserError(
            f"Task {name!r} needs a package that is not installed ({one_line(error)}); install it."
        ) from error
    except Exception as error:
        raise UserError(
            f"The file of task {name!r} cannot be read ({type(error).__name__}: {one_line(error)});"
            " expected a YAML task of lm-evaluation-harness."
        ) from error


def _leaves(base: str, name: str) -> Iterator[str]:
    """The tasks of a group or a tag, those of its groups too; paths stay paths."""
    if not base.endswith((".yaml", ".yml")):
        entry = everything().task_index.get(base) if _is_tag(base) else None
        if entry is not None:
            yield from sorted(entry.tags)
            return
    path = file_of(base)
    config = read_yaml(path, name)
    if "group" not in config:
        yield base
        return
    yield from _of_group(config.get("task"), path, name)


def _is_tag(base: str) -> bool:
    """Whether no file has the name, so that only the list of all tasks can have it."""
    try:
        file_of(base)
    except UserError:
        return base in everything().all_tags
    return False


def _of_group(listed: Any, path: Path, name: str) -> Iterator[str]:
    for member in listed if isinstance(listed, list) else [listed]:
        if isinstance(member, Mapping) and isinstance(member.get("task"), list):
            yield from _of_group(member["task"], path, name)
        elif isinstance(member, Mapping) and set(member) - {"task", "task_alias"}:
            raise UserError(
                f"The group {name!r} changes its task {shown(member.get('task'))}; expected tasks "
                "as they are; put each into a .yaml file of its own, and name these files."
            )
        else:
            one = str(member["task"] if isinstance(member, Mapping) else member)
            beside = path.parent / f"{one}.yaml"
            own = beside.is_file() and not beside.is_relative_to(own_folder())
            try:
                yield from _leaves(str(beside) if own else one, one)
            except UserError as error:
                raise UserError(f"Group {name!r} has a broken member: {error}") from error
