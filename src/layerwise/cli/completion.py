"""Completions of the shell: names of models and tasks, beside files of theirs that lie here.

Where nothing here fits, the shell completes names of files itself.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from layerwise.models.names.registry import BUNDLED, WIRED_MODELS

# A shell evaluates what it is given, so other names are left to its own completion.
_PLAIN = re.compile(r"[\w./+-]+", re.ASCII)
_MODEL_CARDS = ("config.json", "adapter_config.json")
_TASK_FILES = (".jsonl", ".csv", ".parquet", ".toml")


def complete_model(incomplete: str) -> list[str]:
    """Bundled models, folders of models and GGUF files that begin with a text."""
    return [
        *_names_with_prefix(incomplete, (*BUNDLED, *WIRED_MODELS)),
        *_paths(incomplete, _is_model),
    ]


def complete_task(incomplete: str) -> list[str]:
    """Suites, sets of suites, prefixes of sources and task files that begin with a text."""
    from layerwise.tasks.benchmarks import BENCHMARKS
    from layerwise.tasks.registry import PREFIXES, named_tasks

    benchmarks = [f"benchmark:{name}:" for name in BENCHMARKS]
    sources = benchmarks if incomplete.startswith("benchmark:") else PREFIXES
    paths = _paths(incomplete, lambda path: path.suffix in _TASK_FILES)
    return [*_names_with_prefix(incomplete, (*named_tasks(), *sources)), *paths]


def complete_protocol(incomplete: str) -> list[str]:
    """Protocols that begin with a text."""
    from layerwise.tasks import PROTOCOLS

    return _names_with_prefix(incomplete, PROTOCOLS)


def _names_with_prefix(incomplete: str, names: Iterable[str]) -> list[str]:
    return [name for name in names if name.startswith(incomplete)]


def _paths(incomplete: str, fits: Callable[[Path], bool]) -> Iterator[str]:
    """Paths that begin with a text, as it is written, and that fit."""
    folder, begun = os.path.split(incomplete)
    try:
        names = sorted(os.listdir(folder or "."))
    except (OSError, ValueError):
        return
    for name in names:
        path = os.path.join(folder, name)
        # Hidden files are offered once their dot is written.
        hidden = name.startswith(".") and not begun
        if name.startswith(begun) and not hidden and _PLAIN.fullmatch(path) and fits(Path(path)):
            yield path


def _is_model(path: Path) -> bool:
    return path.suffix == ".gguf" or any((path / card).is_file() for card in _MODEL_CARDS)
