"""A task of the harness with its data: from hub or files, if no foreign code would run."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from layerwise.errors import UserError, one_line, shown
from layerwise.tasks._source_names import SourceName

from .files import file_of, harness, members, own_folder, quiet, read_yaml

# Of the builders of data sets that come with ``datasets``, those that read plain values.
_PLAIN = ("json", "csv", "parquet", "arrow", "text")


def trusted_config(asked: SourceName, name: str) -> dict[str, Any]:
    """The configuration of a task without its functions, unless it would run code."""
    path = file_of(asked.base)
    config = read_yaml(path, name)
    code = None if "trust" in asked.arguments else _code_of(path, config)
    if code:
        raise UserError(
            f"Task {name!r} runs code: {code}; expected a task of plain values, so read the code "
            f"and, if you trust it, write {asked.source}:{asked.base}:trust=yes."
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


def load_theirs(asked: SourceName, name: str) -> Any:
    """The harness's own task, with its data."""
    path = file_of(asked.base)
    config = trusted_config(asked, name)
    if "group" in config:
        known = ", ".join(members(asked, name))
        raise UserError(f"{name!r} is a group; expected one task; load one of {known}.")
    # Read again with its functions, now that they may run.
    config = {**read_yaml(path, name, functions=True), **_local_data(config, asked, name)}
    with quiet():
        try:
            loaded = harness().TaskManager(include_defaults=False).load(config)
        except Exception as error:
            raise _cannot_load(name, asked, error) from error
    (theirs,) = loaded["tasks"].values()
    return theirs


def _local_data(config: Mapping[str, Any], asked: SourceName, name: str) -> dict[str, Any]:
    """What a task's configuration has in place of a download: local files of its splits."""
    if asked.data is None:
        return {}
    folder = Path(asked.data)
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
            f"{asked.data!r} has no file of the split {asks!r} that task {name!r} asks; expected "
            f"{asks}.jsonl, .json, .csv or .parquet there, and the same for examples."
        )
    kinds = {_READERS[Path(file).suffix] for file in files.values()}
    if len(kinds) > 1:
        raise UserError(f"{asked.data!r} has files of several kinds; expected one kind.")
    found: dict[str, Any] = {
        "dataset_path": kinds.pop(),
        "dataset_name": None,
        "dataset_kwargs": {"data_files": files},
        **{key: None for key, split in own.items() if split not in files},
    }
    if examples not in files and "samples" not in inner:
        # The harness leaves an item out of its own examples only if both splits have one name.
        found |= {"fewshot_split": asks, "test_split": asks}
        found |= {"fewshot_config": {**inner, "split": asks}} if "split" in inner else {}
    return found


def _cannot_load(name: str, asked: SourceName, error: Exception) -> UserError:
    kind = type(error).__name__
    if asked.data is None and any(one in kind for one in _NO_DATA):
        return UserError(
            f"The data of task {name!r} is not on this machine and cannot be fetched ({kind}); "
            f"expected a network, or local files: {name}:data=FOLDER with a file for each split, "
            "such as test.jsonl."
        )
    return UserError(
        f"Task {name!r} cannot be made ({kind}: {one_line(error)}); expected a task that "
        "lm-evaluation-harness itself can load, and data with the fields that it names."
    )
