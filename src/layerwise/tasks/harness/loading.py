"""A task of the harness: where it is found, and its data, if no foreign code would run."""

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


def members(source: SourceName, name: str) -> list[str]:
    """The names of the tasks that a name stands for."""
    tasks = list(dict.fromkeys(_leaves(source.base, name)))
    if tasks == [source.base]:
        return [name]
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
    try:
        path = file_of(base)
    except UserError:  # only the list of all tasks, which takes seconds, knows tags
        if base not in everything().all_tags:
            raise
        yield from sorted(everything().task_index[base].tags)
        return
    config = read_yaml(path, name)
    if "group" in config:
        yield from _of_group(config.get("task"), path, name)
    else:
        yield base


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


# Of the builders of data sets that come with ``datasets``, those that read plain values.
_PLAIN = ("json", "csv", "parquet", "arrow", "text")


def trusted_config(source: SourceName, name: str) -> dict[str, Any]:
    """The configuration of a task without its functions, unless it would run code."""
    path = file_of(source.base)
    config = read_yaml(path, name)
    code = None if "trust" in source.arguments else _code_of(path, config)
    if code:
        raise UserError(
            f"Task {name!r} runs code: {code}; expected a task of plain values, so read the code "
            f"and, if you trust it, write {source.source}:{source.base}:trust=yes."
        )
    return config


def _code_of(path: Path, config: Mapping[str, Any]) -> str | None:
    """What a task would run beside the harness itself; None if nothing."""
    from datasets.packaged_modules import _PACKAGED_DATASETS_MODULES
    from lm_eval.api import metrics as _metrics
    from lm_eval.api.registry import METRIC_REGISTRY

    del _metrics  # fills the registry
    if config.get("unsafe_code"):
        return "it runs what the model writes (unsafe_code)"
    own_file = path.resolve().is_relative_to(own_folder().resolve())
    if not own_file:
        for file in _included(path):
            if re.search(
                r"^[^#\n]*(!function|!!python)", file.read_text(encoding="utf-8"), re.MULTILINE
            ):
                return f"{file.name} names a !function"
        for field in ("class", "use_prompt"):
            if field in config:
                return f"it has the field {field}"
        builder = config.get("dataset_path")
        if builder in _PACKAGED_DATASETS_MODULES and builder not in _PLAIN:
            return f"its data set is read by {builder!r}"
    for metric in config.get("metric_list") or ():
        named = metric.get("metric")
        own = isinstance(named, str) and (named in METRIC_REGISTRY or "process_results" in config)
        # Functions are paths here; only files of the harness may have any.
        if metric.get("hf_evaluate") or not (own or (own_file and "/" in str(named))):
            return f"its metric {shown(named)} is fetched from the hub"
    return None


def _included(path: Path) -> Iterator[Path]:
    """A user's file and those that it includes, without the harness's own."""
    from lm_eval.tasks._yaml_loader import load_yaml

    yield path
    include = load_yaml(path, resolve_func=False, recursive=False).get("include") or []
    for one in include if isinstance(include, list) else [include]:
        inner = path.parent / one
        if not inner.resolve().is_relative_to(own_folder().resolve()):
            yield from _included(inner)


_SPLITS = ("training_split", "validation_split", "test_split", "fewshot_split")
_EXAMPLES = ("fewshot_split", "training_split", "validation_split")
_READERS = {".json": "json", ".jsonl": "json", ".csv": "csv", ".parquet": "parquet"}
_NO_DATA = ("ConnectionError", "OfflineModeIsEnabled", "DatasetNotFoundError", "LocalEntryNotFound")


def load_theirs(source: SourceName, name: str) -> Any:
    """The harness's own task, with its data."""
    path = file_of(source.base)
    config = trusted_config(source, name)
    if "group" in config:
        known = ", ".join(members(source, name))
        raise UserError(f"{name!r} is a group; expected one task; load one of {known}.")
    # Read again with its functions, now that they may run.
    config = {**read_yaml(path, name, functions=True), **_local_data(config, source, name)}
    with quiet():
        try:
            loaded = harness().TaskManager(include_defaults=False).load(config)
        except Exception as error:
            raise _cannot_load(name, source, error) from error
    (theirs,) = loaded["tasks"].values()
    return theirs


def _local_data(config: Mapping[str, Any], source: SourceName, name: str) -> dict[str, Any]:
    """What a task's configuration has in place of a download: local files of its splits."""
    if source.data is None:
        return {}
    folder = Path(source.data)
    own = {key: str(config[key]) for key in _SPLITS if config.get(key)}
    inner = config.get("fewshot_config") or {}
    examples = str(inner.get("split") or next((own[key] for key in _EXAMPLES if key in own), ""))
    files: dict[str, str] = {}
    for split in sorted({examples, *own.values()} - {""}):
        known = [one for one in sorted(folder.glob(f"{split}*")) if one.suffix in _READERS]
        if known:
            files[split] = str(known[0])
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


def _cannot_load(name: str, source: SourceName, error: Exception) -> UserError:
    kind = type(error).__name__
    if source.data is None and any(one in kind for one in _NO_DATA):
        return UserError(
            f"The data of task {name!r} is not on this machine and cannot be fetched ({kind}); "
            f"expected a network, or local files: {name}:data=FOLDER with a file for each split, "
            "such as test.jsonl."
        )
    return UserError(
        f"Task {name!r} cannot be made ({kind}: {one_line(error)}); expected a task that "
        "lm-evaluation-harness itself can load, and data with the fields that it names."
    )
