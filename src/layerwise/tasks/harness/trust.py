"""Trust in a task: the code that its file would run, and the user's word that it may."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from layerwise.errors import UserError, short_repr
from layerwise.tasks._source_names import SourceName

from .config_files import Function, named_functions
from .fields import check_fields
from .finding import is_own, read_yaml, task_file

# Of the builders of data sets that come with ``datasets``, those that read plain values.
_PLAIN = ("json", "csv", "parquet", "arrow", "text")
# What the others of its settings decide lies in the data.
_OF_MACHINE = frozenset(("cache_dir", "download_config", "num_proc", "storage_options", "token"))


def trusted_config(source: SourceName, name: str) -> tuple[Path, dict[str, Any]]:
    """A task's file and configuration, with names of functions, unless it would run code."""
    path = task_file(source.base)
    config = read_yaml(path, name)
    code = None if is_trusted(source) else _foreign_code(path, config)
    if code:
        raise UserError(
            f"Task {name!r} runs code: {code}; expected a task of plain values, so read the code "
            f"and, if you trust it, write {source.source}:{source.base}:trust=yes."
        )
    if not is_own(path) and "group" not in config:
        check_fields(config, name)
    return path, config


def is_trusted(source: SourceName) -> bool:
    """True if a name lets its task run code."""
    return "trust" in source.arguments


def _foreign_code(path: Path, config: Mapping[str, Any]) -> str | None:
    """Code that a task would run beside the harness itself; None if none."""
    from datasets.packaged_modules import _PACKAGED_DATASETS_MODULES

    if config.get("unsafe_code"):
        return "it runs what the model writes (unsafe_code)"
    if not is_own(path):
        # A file of the harness, which this one includes, may name functions.
        for function in named_functions(config):
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
            return f"its metric {short_repr(named)} is fetched from the hub"
    return None
