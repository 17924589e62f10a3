"""Arguments of the public functions, checked and made plain before any work is done.

Every option goes by one name wherever it is taken, and has one reader: NumPy and torch scalars
become plain numbers, arrays and generators tuples, and what cannot be read is refused in a
sentence. Models, tasks and results have their readers in ``analyses.arguments``.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, ParamSpec, TypeVar

from layerwise.errors import unknown_name

from .options import filled, whole_docstring
from .path_readers import model_name, path, paths, runs, task_name
from .readers import (
    Reader,
    groups,
    limit,
    memory_budget,
    numbers,
    one_of,
    real,
    resamples,
    seed,
    text,
    texts,
    truth,
    whole,
)

_P = ParamSpec("_P")
_R = TypeVar("_R")

READERS: Mapping[str, Reader] = {
    "against": text("mean"),
    "align": truth,
    "also": texts("heads", none=True),
    "analysis": text("ablation"),
    "answers": text("task"),
    "as_one": truth,
    "backend": one_of("backend", ("auto", "transformer-lens", "hugging-face")),
    "batch": whole(8),
    "block": whole(1),
    "by": texts("greedy"),
    "chat": truth,
    "cross_entropy": real(0.5),
    "device": text("cpu"),
    "direction": text("denoising"),
    "directions": texts("denoising"),
    "divergence": text("forward"),
    "draws": whole(1),
    "dtype": text("float32"),
    "exhaustive": truth,
    "fewshot": whole(0),
    "fewshot_seeds": whole(3),
    "folder": path,
    "folders": paths,
    "groups": groups,
    "heads": numbers("[0, 2]"),
    "held_out": real(0.5),
    "hidden": real(1.0),
    "kind": text("skip"),
    "kl": truth,
    "language": text("text"),
    "layers": numbers("[0, 1]", names=True),
    "length": whole(50),
    "lens": text("logit"),
    "limit": limit,
    "mean_by": text("pooled"),
    "memory_budget": memory_budget,
    "method": one_of("method", ("engine", "reference")),
    "mixture": real(0.5),
    "n_removed": whole(1),
    "n_resamples": resamples,
    "n_texts": whole(512),
    "name": model_name,
    "name_or_path": task_name,
    "offload": text("disk"),
    "on_policy": real(0.5),
    "original": path,
    "out": path,
    "over": text("prompt"),
    "pairs": whole(16),
    "positions": texts("last"),
    "progress": truth,
    "protocols": texts("letter", none=True),
    "rank": whole(8),
    "rate": real(0.01),
    "receivers": texts("logits", none=True),
    "untimed": truth,
    "remove": numbers("[4, 5]", names=True),
    "runs": runs,
    "sample": whole(64),
    "seed": seed,
    "sequences": whole(20),
    "site": text("attn_out"),
    "sets": texts("single"),
    "sites": texts("resid_post"),
    "smallest_depth": real(1.0),
    "smallest_gain": real(0.2),
    "smallest_loss": real(0.05),
    "smallest_nats": real(0.1),
    "steps": whole(200),
    "temperature": real(1.0),
    "text": path,
    "threshold": real(0.4),
}
"""How each argument is read that is neither a model, a task nor a result, by its name."""
# These may be None, whatever they are if nobody says.
_NONE_FOR_ALL = {"limit"}


def check_arguments(
    *ahead: Callable[..., object], texts: Mapping[str, str] = MappingProxyType({}), **others: Reader
) -> Callable[[Callable[_P, _R]], Callable[_P, _R]]:
    """Decorate a public function: its arguments, defaults too, are read before it is called.

    Options that it unpacks are filled into its signature and docstring, as are ``texts`` of
    parameters that its docstring says nothing of.
    """

    def decorate(function: Callable[_P, _R]) -> Callable[_P, _R]:
        signature, described = filled(function, texts)
        missing = signature.parameters.keys() - READERS.keys() - others.keys()
        if missing:
            raise TypeError(f"{function.__name__} has arguments without a reader: {missing}.")
        silent = {name for name, text in described.items() if not text}
        if silent and "Args:" in (function.__doc__ or ""):
            raise TypeError(f"{function.__name__} has arguments without a text: {silent}.")
        readers = {name: others.get(name) or READERS[name] for name in signature.parameters}

        @functools.wraps(function)
        def call(*args: _P.args, **kwargs: _P.kwargs) -> _R:
            for unknown in kwargs.keys() - readers.keys():
                raise TypeError(
                    str(unknown_name(f"argument of {function.__name__}", unknown, readers))
                )
            bound = signature.bind(*args, **kwargs)
            bound.apply_defaults()
            read_all(signature, readers, bound.arguments)
            return function(*bound.args, **bound.kwargs)

        vars(call).update(readers=readers, ahead=ahead, __signature__=signature)
        if function.__doc__:
            call.__doc__ = whole_docstring(function.__doc__, described)
        return call

    return decorate


def read_all(
    signature: inspect.Signature, readers: Mapping[str, Reader], given: dict[str, Any]
) -> None:
    """Read arguments in place; None stays where it is the default."""
    for name, value in given.items():
        optional = signature.parameters[name].default is None or name in _NONE_FOR_ALL
        if value is not None or not optional:
            given[name] = readers[name](name, value)


def check_ahead(function: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
    """Refuse arguments of a public function but for its models, which are not loaded yet."""
    # The first argument is one; of what is not given and has no default nothing is said.
    signature = inspect.signature(function)
    bound = signature.bind_partial(None, *args, **kwargs)
    bound.apply_defaults()
    given = bound.arguments
    del given[next(iter(signature.parameters))]
    read_all(signature, vars(function)["readers"], given)
    for refuse in vars(function)["ahead"]:
        names = inspect.signature(refuse).parameters.keys() & given.keys()
        refuse(**{name: given[name] for name in names})
