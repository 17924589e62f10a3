"""YAML files of tasks: each is read once, with those that it includes, and becomes plain values.

Functions stay names (``Function``) until ``with_functions``. No other tag of YAML makes an object.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from layerwise.errors import short_repr
from layerwise.ground.regular_files import open_regular

MOST_BYTES, MOST_FILES = 2**20, 100
# Values and characters, with each alias in full: a few lines of aliases can stand for billions.
MOST_EXPANDED = 2**22
MOST_DEPTH, MOST_DIGITS = 50, 100


@dataclass(frozen=True)
class Function:
    """A function that a file names by ``!function``."""

    name: str  # such as ``utils.process_docs``
    file: Path  # that names it; modules are looked for beside it


def read_config(path: Path) -> dict[str, Any]:
    """Contents of a file and of those that it includes, merged as the harness does.

    Raises OSError, ValueError or what the parser has for a file that cannot be read.
    """
    return _merge_includes(path, [])


def _merge_includes(path: Path, read: list[Path]) -> dict[str, Any]:
    # The harness resolves links first: what a file includes lies beside the link's target.
    path = path.expanduser().resolve()
    if path in read:
        raise ValueError(f"{path.name} is included twice")
    if len(read) == MOST_FILES:
        raise ValueError(f"it includes more than {MOST_FILES} files")
    read.append(path)
    config = _parse(path)
    if "include" not in config:
        return config
    named = config.pop("include")
    merged: dict[str, Any] = {}
    for one in named if isinstance(named, list) else [named]:
        if not isinstance(one, str):
            raise ValueError(f"{path.name} includes {short_repr(one)}, which is no path")
        included = _merge_includes(path.parent / one, read)
        if merged.get("unsafe_code"):
            included["unsafe_code"] = True
        included.pop("task_list", None)
        merged.update(included)
    # What runs the model's code still does so if another file denies it.
    unsafe = {"unsafe_code": True} if merged.get("unsafe_code") else {}
    return {**merged, **config, **unsafe}


def _parse(path: Path) -> dict[str, Any]:
    """Contents of one file."""
    import yaml

    with open_regular(path) as file:
        content = file.read(MOST_BYTES + 1)
    if len(content) > MOST_BYTES:
        raise ValueError(f"{path.name} is larger than {MOST_BYTES:,} bytes")
    _refuse_costly_yaml(content, path.name)
    config = yaml.load(content, Loader=_loader(path))  # of plain values
    if not isinstance(config, dict) or not all(isinstance(key, str) for key in config):
        raise ValueError(f"{path.name} has no fields with names")
    return config


def _refuse_costly_yaml(content: bytes, file: str) -> None:
    """Refuse deep nesting, and aliases that stand for too much or for themselves."""
    import yaml

    sizes: dict[str, int] = {}  # of what each anchor stands for
    anchors: list[str | None] = [None]
    totals = [0]
    for event in yaml.parse(content, Loader=_base()):
        if isinstance(event, yaml.CollectionStartEvent):
            sizes.pop(event.anchor, None)  # an alias within would stand for its own outside
            anchors.append(event.anchor)
            totals.append(0)
            if len(totals) > MOST_DEPTH:
                raise ValueError(f"{file} is nested more than {MOST_DEPTH} levels deep")
            continue
        if isinstance(event, yaml.AliasEvent):
            if event.anchor not in sizes:
                raise ValueError(f"an alias in {file} stands for nothing before it")
            anchor, size = None, sizes[event.anchor]
        elif isinstance(event, yaml.ScalarEvent):
            anchor, size = event.anchor, 1 + len(event.value)
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, size = anchors.pop(), 1 + totals.pop()
        else:
            continue
        if anchor is not None:
            sizes[anchor] = size
        totals[-1] += size
        if totals[-1] > MOST_EXPANDED:
            raise ValueError(f"the aliases of {file} stand for too much")


def _base() -> Any:
    import yaml

    return getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def _loader(file: Path) -> Any:
    """A loader of plain values, and of functions as names."""

    class Loader(_base()):  # the harness's own is of this class, too
        pass

    def number(loader: Any, node: Any, kind: str) -> Any:
        if len(node.value) > MOST_DIGITS:  # one of sixties takes quadratic time
            raise ValueError(f"a number in {file.name} has more than {MOST_DIGITS} digits")
        return getattr(loader, f"construct_yaml_{kind}")(node)

    def function(loader: Any, node: Any) -> Function:
        return Function(loader.construct_scalar(node), file)

    Loader.add_constructor("!function", function)
    for kind in ("int", "float"):
        Loader.add_constructor(
            f"tag:yaml.org,2002:{kind}",
            lambda loader, node, kind=kind: number(loader, node, kind),
        )
    return Loader


def named_functions(value: Any) -> list[Function]:
    """All functions that a configuration names."""
    if isinstance(value, Function):
        return [value]
    parts = [*value, *value.values()] if isinstance(value, dict) else value
    return [one for part in parts for one in named_functions(part)] if _is_nested(value) else []


def with_functions(value: Any) -> Any:
    """A configuration with functions in place of their names; their modules are imported."""
    if isinstance(value, Function):
        from lm_eval.tasks._yaml_loader import _import_func_in_yml

        return _import_func_in_yml(value.name, value.file.parent)
    if isinstance(value, dict):
        return {key: with_functions(one) for key, one in value.items()}
    return [with_functions(one) for one in value] if isinstance(value, list) else value


def _is_nested(value: Any) -> bool:
    return isinstance(value, dict | list | tuple | set)
