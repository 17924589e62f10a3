"""Whether a task would run code that is not the harness's own.

What is found and refused is in SECURITY.md.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from layerwise.errors import UserError, shown
from layerwise.tasks._source_names import SourceName

from .files import file_of, own_folder, read_yaml

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
        if _is_builder(builder) and builder not in _PLAIN:
            return f"its data set is read by {builder!r}"
    for metric in config.get("metric_list") or ():
        named = metric.get("metric")
        own = isinstance(named, str) and (named in METRIC_REGISTRY or "process_results" in config)
        # Functions are paths here; only files of the harness may have any.
        if metric.get("hf_evaluate") or not (own or (own_file and "/" in str(named))):
            return f"its metric {shown(named)} is fetched from the hub"
    return None


def _is_builder(path: Any) -> bool:
    from datasets.packaged_modules import _PACKAGED_DATASETS_MODULES

    return path in _PACKAGED_DATASETS_MODULES


def _included(path: Path) -> Iterator[Path]:
    """A user's file and those that it includes, without the harness's own."""
    yield path
    include = _yaml_alone(path).get("include") or []
    for one in include if isinstance(include, list) else [include]:
        inner = path.parent / one
        if not inner.resolve().is_relative_to(own_folder().resolve()):
            yield from _included(inner)


def _yaml_alone(path: Path) -> dict[str, Any]:
    from lm_eval.tasks._yaml_loader import load_yaml

    return load_yaml(path, resolve_func=False, recursive=False)
