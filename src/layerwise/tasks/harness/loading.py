"""A task of the harness with its data, from the hub or from local files."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from layerwise.errors import UserError, one_line, short_repr
from layerwise.tasks._source_names import SourceName

from .bounded import Templates, error_reason, isolate_filters, isolate_rendering, quiet
from .config_files import with_functions
from .finding import harness, is_own, members
from .trust import is_trusted, trusted_config

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
                isolate_rendering(theirs, templates)
            isolate_filters(theirs, name)
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
    """Local files that stand for a download in a task's configuration."""
    if source.data is None:
        return {}
    folder = Path(source.data)
    try:
        beside = sorted(os.listdir(folder)) if folder.exists() else []
    except (OSError, ValueError) as error:
        raise UserError(
            f"{short_repr(source.data)} cannot be listed ({one_line(error)}); expected a "
            f"folder with "
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


def _cannot_load(name: str, source: SourceName, error: Exception) -> UserError:
    kind = type(error).__name__
    if source.data is None and any(one in kind for one in _NO_DATA):
        return UserError(
            f"The data of task {name!r} is not on this machine and cannot be fetched ({kind}); "
            f"expected a network, or local files: {name}:data=FOLDER with a file for each split, "
            "such as test.jsonl."
        )
    return UserError(
        f"Task {name!r} cannot be made ({error_reason(error)}); expected a task that "
        "lm-evaluation-harness itself can load, and data with the fields that it names."
    )
