"""Files of the harness's tasks: the one of a task, and those that a group or a tag names."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from layerwise.errors import UserError, one_line, short_repr
from layerwise.tasks._source_names import SourceName

from .bounded import quiet
from .config_files import read_config


def members(source: SourceName, name: str) -> list[str]:
    """The names of the tasks that a name stands for."""
    try:
        tasks = list(_leaves(source.base, name, set()))
    except RecursionError as error:
        raise UserError(
            f"Group {name!r} has groups within groups too deeply; expected a few levels; name its "
            "tasks themselves."
        ) from error
    if tasks == [source.base]:
        return [name]
    if not tasks:
        raise UserError(f"Group {name!r} has no task; expected one at least; name it there.")
    for one in tasks:
        if ":" in one:  # what stands behind a colon could grant trust
            raise UserError(
                f"Group {name!r} has the member {short_repr(one)}; expected names without a colon; "
                "rename the file."
            )
    if source.data is not None:
        raise UserError(
            f"{name!r} is a group, and each of its tasks has data of its own; expected data= "
            f"behind one task; name one of {', '.join(tasks[:5])}."
        )
    arguments = [f"{key}={value}" for key, value in source.arguments.items()]
    return [":".join([source.source, one, *arguments]) for one in tasks]


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
    """Folder in which the harness has the files of its tasks."""
    return Path(str(harness().__file__)).parent


@lru_cache(maxsize=1)
def task_manager() -> Any:
    """All tasks of the harness, whose listing takes seconds."""
    with quiet():
        return harness().TaskManager()


def is_own(path: Path) -> bool:
    """True if a file is one of the harness itself, which is trusted as its package is."""
    return path.resolve().is_relative_to(own_folder().resolve())


def task_file(base: str) -> Path:
    """The file of a task, a group or a user; most are named like the task."""
    if base.endswith((".yaml", ".yml")):
        if not os.path.exists(base):
            raise UserError(f"File {base!r} is not there; expected the YAML file of a task.")
        return Path(base).resolve()
    named = own_folder().rglob(f"{base}.yaml") if re.fullmatch(r"[\w.-]{1,200}", base) else ()
    for path in sorted(named):
        config = read_yaml(path, base)
        if base in (config.get("task"), config.get("group")):
            return path
    entry = task_manager().task_index.get(base)
    if entry is None or entry.yaml_path is None:
        close = difflib.get_close_matches(base[:100], task_manager().all_tasks, n=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        raise UserError(
            f"Unknown task {short_repr(base)} of lm-evaluation-harness.{hint} Expected a name that "
            "`lm_eval ls tasks` lists, or the path of a .yaml file."
        )
    return Path(entry.yaml_path)


def read_yaml(path: Path, name: str) -> dict[str, Any]:
    """Contents of a file and of those that it includes; functions are names."""
    try:
        return read_config(path)
    except RecursionError:
        raise
    except Exception as error:
        kind = "" if type(error) is ValueError else f"{type(error).__name__}: "
        raise UserError(
            f"The file of task {name!r} cannot be read ({kind}{one_line(error)}); expected a YAML "
            "task of lm-evaluation-harness."
        ) from error


class _BrokenMemberError(UserError):
    """A member that cannot be read; the sentence names the group that it is in."""


def _leaves(base: str, name: str, seen: set[str]) -> Iterator[str]:
    """The tasks of a group or a tag, those of its groups too; paths stay paths.

    What was ``seen`` before is passed over: groups may name one another.
    """
    if base in seen:
        return
    seen.add(base)
    try:
        path = task_file(base)
    except UserError:  # only the list of all tasks, which takes seconds, knows tags
        if base.endswith((".yaml", ".yml")) or base not in task_manager().all_tags:
            raise
        yield from sorted(task_manager().task_index[base].tags)
        return
    config = read_yaml(path, name)
    if "group" in config:
        yield from _group_members(config.get("task"), path, name, seen)
    else:
        yield base


def _group_members(listed: Any, path: Path, name: str, seen: set[str]) -> Iterator[str]:
    for member in listed if isinstance(listed, list) else [listed]:
        if isinstance(member, Mapping) and isinstance(member.get("task"), list):
            yield from _group_members(member["task"], path, name, seen)
        elif isinstance(member, Mapping) and set(member) - {"task", "task_alias"}:
            raise UserError(
                f"The group {name!r} changes its task {short_repr(member.get('task'))}; "
                f"expected tasks "
                "as they are; put each into a .yaml file of its own, and name these files."
            )
        else:
            one = member.get("task") if isinstance(member, Mapping) else member
            if not isinstance(one, str):
                raise UserError(
                    f"Group {name!r} has the member {short_repr(one)}; expected the name "
                    f"of a task; "
                    "correct the file."
                )
            beside = path.parent / f"{one}.yaml"
            own = os.path.exists(beside) and not is_own(beside)
            try:
                yield from _leaves(str(beside) if own else one, one, seen)
            except _BrokenMemberError:
                raise
            except UserError as error:
                sentence = f"Group {name!r} has a broken member: {error}"
                raise _BrokenMemberError(sentence) from error
