"""A task of the harness: where it is found, and its data, if no foreign code would run."""

from __future__ import annotations

import contextlib
import difflib
import io
import os
import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from layerwise.errors import UserError, one_line, shown
from layerwise.ground.limited import JobError
from layerwise.tasks._source_names import SourceName

from .bounded import Templates, filter_apart, render_apart
from .config_files import Function, functions_in, read_config, with_functions
from .fields import check_fields


@contextlib.contextmanager
def quiet(templates: Templates | None = None) -> Iterator[None]:
    """Without the harness's progress bars and warnings, and with templates that run no code.

    They are rendered by ``templates``; without it they are trusted, and rendered in this process.
    """
    import lm_eval.utils as utils
    from jinja2.sandbox import SandboxedEnvironment

    usual, usual_render = utils.env, utils.apply_template
    safe = SandboxedEnvironment(undefined=usual.undefined, keep_trailing_newline=True)
    safe.filters = usual.filters
    utils.env, utils.apply_template = safe, templates or usual_render
    try:
        # The harness prints the type of what it cannot use.
        with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        utils.env, utils.apply_template = usual, usual_render


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
                f"Group {name!r} has the member {shown(one)}; expected names without a colon; "
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
    """Where the harness has the files of its tasks."""
    return Path(str(harness().__file__)).parent


@lru_cache(maxsize=1)
def everything() -> Any:
    """All tasks of the harness, whose listing takes seconds."""
    with quiet():
        return harness().TaskManager()


def is_own(path: Path) -> bool:
    """Whether a file is one of the harness itself, which is trusted as its package is."""
    return path.resolve().is_relative_to(own_folder().resolve())


def file_of(base: str) -> Path:
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
    entry = everything().task_index.get(base)
    if entry is None or entry.yaml_path is None:
        close = difflib.get_close_matches(base[:100], everything().all_tasks, n=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        raise UserError(
            f"Unknown task {shown(base)} of lm-evaluation-harness.{hint} Expected a name that "
            "`lm_eval ls tasks` lists, or the path of a .yaml file."
        )
    return Path(entry.yaml_path)


def read_yaml(path: Path, name: str) -> dict[str, Any]:
    """What a file and those that it includes say; functions are names."""
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
        path = file_of(base)
    except UserError:  # only the list of all tasks, which takes seconds, knows tags
        if base.endswith((".yaml", ".yml")) or base not in everything().all_tags:
            raise
        yield from sorted(everything().task_index[base].tags)
        return
    config = read_yaml(path, name)
    if "group" in config:
        yield from _of_group(config.get("task"), path, name, seen)
    else:
        yield base


def _of_group(listed: Any, path: Path, name: str, seen: set[str]) -> Iterator[str]:
    for member in listed if isinstance(listed, list) else [listed]:
        if isinstance(member, Mapping) and isinstance(member.get("task"), list):
            yield from _of_group(member["task"], path, name, seen)
        elif isinstance(member, Mapping) and set(member) - {"task", "task_alias"}:
            raise UserError(
                f"The group {name!r} changes its task {shown(member.get('task'))}; expected tasks "
                "as they are; put each into a .yaml file of its own, and name these files."
            )
        else:
            one = member.get("task") if isinstance(member, Mapping) else member
            if not isinstance(one, str):
                raise UserError(
                    f"Group {name!r} has the member {shown(one)}; expected the name of a task; "
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


# Of the builders of data sets that come with ``datasets``, those that read plain values.
_PLAIN = ("json", "csv", "parquet", "arrow", "text")
# What the others of its settings decide lies in the data.
_OF_MACHINE = frozenset(("cache_dir", "download_config", "num_proc", "storage_options", "token"))


def trusted_config(source: SourceName, name: str) -> tuple[Path, dict[str, Any]]:
    """A task's file and configuration, with names of functions, unless it would run code."""
    path = file_of(source.base)
    config = read_yaml(path, name)
    code = None if is_trusted(source) else _code_of(path, config)
    if code:
        raise UserError(
            f"Task {name!r} runs code: {code}; expected a task of plain values, so read the code "
            f"and, if you trust it, write {source.source}:{source.base}:trust=yes."
        )
    if not is_own(path) and "group" not in config:
        check_fields(config, name)
    return path, config


def is_trusted(source: SourceName) -> bool:
    """Whether a name lets its task run code."""
    return "trust" in source.arguments


def _code_of(path: Path, config: Mapping[str, Any]) -> str | None:
    """What a task would run beside the harness itself; None if nothing."""
    from datasets.packaged_modules import _PACKAGED_DATASETS_MODULES

    if config.get("unsafe_code"):
        return "it runs what the model writes (unsafe_code)"
    if not is_own(path):
        # A file of the harness, which this one includes, may name functions.
        for function in functions_in(config):
            if not is_own(function.file):
                return f"{function.file.name} names a !function"
        for field in ("class", "use_prompt"):
            if field in config:
                return f"it has the field {field}"
        builder = config.get("dataset_path")
        if (
            isinstance(builder, str)
            and builder in _PACKAGED_DATASETS_MODULES
            and builder not in _PLAIN
        ):
            return f"its data set is read by {builder!r}"
        settings = config.get("dataset_kwargs")
        for key in _OF_MACHINE.intersection(settings if isinstance(settings, dict) else ()):
            return f"its dataset_kwargs set {key}, which can write files or start processes"
    return _foreign_metric(config)


def _foreign_metric(config: Mapping[str, Any]) -> str | None:
    """The metric that is none of the harness; None if all are."""
    from lm_eval.api import metrics as _metrics
    from lm_eval.api.registry import METRIC_REGISTRY

    del _metrics  # fills the registry
    listed = config.get("metric_list")
    for metric in listed if isinstance(listed, list) else ():
        if not isinstance(metric, dict):
            continue  # which ``check_fields`` refuses
        named = metric.get("metric")
        own = isinstance(named, str) and (named in METRIC_REGISTRY or "process_results" in config)
        if metric.get("hf_evaluate") or not (own or isinstance(named, Function | None)):
            return f"its metric {shown(named)} is fetched from the hub"
    return None


_SPLITS = ("training_split", "validation_split", "test_split", "fewshot_split")
_EXAMPLES = ("fewshot_split", "training_split", "validation_split")
_READERS = {".json": "json", ".jsonl": "json", ".csv": "csv", ".parquet": "parquet"}
_NO_DATA = ("ConnectionError", "OfflineModeIsEnabled", "DatasetNotFoundError", "LocalEntryNotFound")


def load_theirs(source: SourceName, name: str) -> Any:
    """The harness's own task, with its data."""
    path, config = trusted_config(source, name)
    if "group" in config:
        known = ", ".join(members(source, name))
        raise UserError(f"{name!r} is a group; expected one task; load one of {known}.")
    local = _local_data(config, source, name)
    templates = None if is_trusted(source) or is_own(path) else Templates(name)
    with quiet(templates):
        try:
            config = {**with_functions(config), **local}
            loaded = harness().TaskManager(include_defaults=False).load(config)
            (theirs,) = loaded["tasks"].values()
            if templates is not None:
                render_apart(theirs, templates)
            filter_apart(theirs, name)
        except UserError:
            raise
        except ImportError as error:
            raise UserError(
                f"Task {name!r} needs a package that is not installed ({one_line(error)}); install "
                "it."
            ) from error
        except Exception as error:
            raise _cannot_load(name, source, error) from error
    return theirs


def _local_data(config: Mapping[str, Any], source: SourceName, name: str) -> dict[str, Any]:
    """What a task's configuration has in place of a download: local files of its splits."""
    if source.data is None:
        return {}
    folder = Path(source.data)
    try:
        beside = sorted(os.listdir(folder)) if folder.exists() else []
    except (OSError, ValueError) as error:
        raise UserError(
            f"{shown(source.data)} cannot be listed ({one_line(error)}); expected a folder with "
            "a file for each split."
        ) from error
    own = {key: str(config[key]) for key in _SPLITS if config.get(key)}
    inner = config.get("fewshot_config") or {}
    examples = str(inner.get("split") or next((own[key] for key in _EXAMPLES if key in own), ""))
    files: dict[str, str] = {}
    for split in sorted({examples, *own.values()} - {""}):
        known = [one for one in beside if one.startswith(split) and Path(one).suffix in _READERS]
        if known:
            files[split] = str(folder / known[0])
    asks = str(own.get("test_split") or own.get("validation_split"))
    if asks not in files:
        raise UserError(
            f"{source.data!r} has no file of the split {asks!r} that task {name!r} asks; expected "
            f"{asks}.jsonl, .json, .csv or .parquet there, and the same for examples."
        )
    kinds = {_READERS[Path(file).suffix] for file in files.values()}
    if len(kinds) > 1:
        raise UserError(f"{source.data!r} has files of several kinds; expected one kind.")
    local: dict[str, Any] = {
        "dataset_path": kinds.pop(),
        "dataset_name": None,
        "dataset_kwargs": {"data_files": files},
        **{key: None for key, split in own.items() if split not in files},
    }
    if examples not in files and "samples" not in inner:
        # The harness leaves an item out of its own examples only if both splits have one name.
        local |= {"fewshot_split": asks, "test_split": asks}
        local |= {"fewshot_config": {**inner, "split": asks}} if "split" in inner else {}
    return local


def reason_of(error: Exception) -> str:
    """Kind and message of an error, also of one in another process."""
    return (
        one_line(error)
        if isinstance(error, JobError)
        else f"{type(error).__name__}: {one_line(error)}"
    )


def _cannot_load(name: str, source: SourceName, error: Exception) -> UserError:
    kind = type(error).__name__
    if source.data is None and any(one in kind for one in _NO_DATA):
        return UserError(
            f"The data of task {name!r} is not on this machine and cannot be fetched ({kind}); "
            f"expected a network, or local files: {name}:data=FOLDER with a file for each split, "
            "such as test.jsonl."
        )
    return UserError(
        f"Task {name!r} cannot be made ({reason_of(error)}); expected a task that "
        "lm-evaluation-harness itself can load, and data with the fields that it names."
    )
