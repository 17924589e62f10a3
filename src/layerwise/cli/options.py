"""Options of the command line: each is an argument of a public function, with a flag.

Name, type, default and help follow from the argument but for what ``FLAGS`` says: values that texts
stand for (``0-5,9``, ``2GiB``), and descriptions that speak of Python.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from layerwise.errors import UserError
from layerwise.ground.readers import refuse_path
from layerwise.storage.places import refuse_unusable_folder

from .completion import complete_protocol, complete_task
from .signatures import FLAG, FLOAT, INT, PATH, TEXTS, Parameter, Signature
from .values import read_bytes, read_executor, read_layers, read_numbers

REQUIRED = inspect.Parameter.empty
SAME = object()
_TYPES: Mapping[str, Any] = {FLAG: bool, INT: int, FLOAT: float, TEXTS: list[str]}


@dataclass(frozen=True)
class Flag:
    """The part of an option that does not follow from the function's parameter."""

    names: tuple[str, ...] = ()  # made of the parameter's if there are none
    help: str = ""  # the docstring's text if empty
    default: Any = SAME  # where that is not the function's
    read: Callable[[str], Any] | None = None  # makes the value of a text, where it is given as one
    complete: Callable[[str], list[str]] | None = None  # what the shell completes a text to


_TASK = ("--task", "--tasks")
PAIRED = Flag(
    _TASK,
    "Task with pairs of prompts; kv-words and facts if left out, or all suites of the model's "
    "toy language.",
    complete=complete_task,
)
FLAGS: Mapping[str, Flag] = {
    "tasks": Flag(
        _TASK,
        "Task, NAME:argument=value, capability, 'all', 'matched', or JSONL file.",
        complete=complete_task,
    ),
    "protocols": Flag(complete=complete_protocol),
    "layers": Flag(
        help="Which layers, e.g. 0-5,9 or encoder.0-3,decoder.2; all if left out.",
        read=read_layers,
    ),
    "heads": Flag(
        help="Heads of z, or key/value groups, e.g. 0,2,5-8; all if left out.",
        read=lambda text: read_numbers(text, "heads", ""),
    ),
    "offload": Flag(help="disk: only the layer that runs has its weights in memory."),
    "backend": Flag(help="What runs a decoder: auto, transformer-lens or hugging-face."),
    "executor": Flag(
        ("--ray",),
        "Make pieces on a Ray cluster: local, auto or HOST:PORT, and what each worker takes: "
        "auto,actors=8,gpus=1,cpus=4.",
        read=read_executor,
    ),
    "n_removed": Flag(("--layers",)),
    "out": Flag(help="Folder for tables; resumes there."),
    "memory_budget": Flag(
        help="For activations, keys and values, e.g. 2GiB; half of what is free if left out.",
        read=read_bytes,
    ),
}
"""Of every command, by the name of the parameter."""


@dataclass(frozen=True)
class Option:
    """A parameter of a public function as an option."""

    parameter: Parameter
    flag: Flag = Flag()  # what does not follow from the parameter

    @property
    def kind(self) -> Any:
        """The type that typer reads; a path is a text to it (``path_settings``)."""
        return str if self.flag.read else _TYPES.get(self.parameter.kind, str)

    @property
    def default(self) -> Any:
        """The default, ``REQUIRED`` if there is none."""
        if self.parameter.required:
            return REQUIRED
        value = self.parameter.default if self.flag.default is SAME else self.flag.default
        if self.kind == list[str] and isinstance(value, str):
            return [value]
        return value

    def annotation_and_default(self) -> tuple[Any, Any]:
        """Type and default as the signature of a command has them."""
        text, several = self.flag.help or help_text(self.parameter.text), self.kind == list[str]
        name = self.parameter.name.removeprefix("n_").replace("_", "-")
        names = self.flag.names or (f"--{name.removesuffix('s') if several else name}",)
        info = typer.Option(
            *names,
            help=f"{text} Repeatable." if several else text,
            autocompletion=self.flag.complete,
            **self._settings(names[0]),
        )
        kind = self.kind | None if self.default is None else self.kind
        return Annotated[kind, info], self.default

    def _settings(self, called: str) -> dict[str, Any]:
        """Settings of typer that refuse a text in the place of a value."""
        if self.kind not in (str, list[str]):
            return {}
        if self.parameter.kind != PATH:
            return {"callback": refuse_missing_value(called)}
        name = self.parameter.name
        return path_settings(name, refuse_unusable_folder if name == "out" else None, called)

    def value(self, given: Any) -> Any:
        """The function's argument, of what was given."""
        if self.kind == list[str]:
            return given or self.parameter.default
        if given is None:
            return None
        if self.flag.read is not None:
            return self.flag.read(given)
        return Path(given) if self.parameter.kind == PATH else given


def make_options(
    signature: Signature, names: Iterable[str], flags: Mapping[str, Flag]
) -> dict[str, Option]:
    """Some parameters of a function as options, by name."""
    return {name: Option(signature.parameters[name], flags.get(name, Flag())) for name in names}


def help_text(text: str) -> str:
    """A docstring's text as help: without marks of code, and None as what is left out."""
    plain = re.sub(r"\b([Ii])f None\b", r"\1f left out", text.replace("``", "").replace('"', ""))
    return plain if text.startswith("`") else plain[:1].upper() + plain[1:]


def refuse_missing_value(called: str) -> Callable[[Any], Any]:
    """A callback that refuses the next option in the place of a value, which is taken for it."""

    def read(given: Any) -> Any:
        for text in given if isinstance(given, list) else [given]:
            if isinstance(text, str) and text.startswith("--"):
                raise UserError(
                    f"{called} has no value: expected one behind it and found {text}; put the "
                    f"value between the two, or leave {called} out."
                )
        return given

    return read


def path_settings(
    name: str, refuse: Callable[[Path], None] | None = None, called: str = ""
) -> dict[str, Any]:
    """Settings of typer for an option or argument whose texts are paths."""
    # They are texts to typer, some of whose releases make a path before a callback sees the text;
    # an empty one is then the folder that one is in.
    of_value = refuse_missing_value(called) if called else None

    def read(given: Any) -> Any:
        if of_value is not None:
            of_value(given)
        for text in given if isinstance(given, list) else [given]:
            if text is not None:
                refuse_path(name, text)
                if refuse is not None:
                    refuse(Path(text))
        return given

    return {"metavar": "<path>", "callback": read}
