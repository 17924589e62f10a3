"""What a parameter of a public function is on the command line: its flag, type, text and help.

All of it follows from the function's signature and docstring but for what ``FLAGS`` says: values
that texts stand for (``0-5,9``, ``2GiB``), and descriptions that speak of Python. Both are read
from the source text: an analysis loads torch when it is imported, and its help must not wait for
that. What stands as a default in the signature of a public function is therefore a literal.
"""

from __future__ import annotations

import ast
import functools
import importlib.util
import inspect
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer

from layerwise.errors import UserError
from layerwise.ground.options import filled
from layerwise.ground.readers import refuse_path
from layerwise.runs import options
from layerwise.storage.places import refuse_unusable_folder

from .completion import complete_protocol, complete_task

REQUIRED = inspect.Parameter.empty


class Signature(NamedTuple):
    """What the source of a public function says of it."""

    summary: str  # the first sentence of its docstring
    parameters: Mapping[str, inspect.Parameter]  # by name, in their order
    texts: Mapping[str, str]  # their descriptions, each in one line


@functools.cache
def signature_of(target: str) -> Signature:
    """Read a function's signature and docstring."""
    module, _, name = target.partition(":")
    spec = importlib.util.find_spec(module)
    loader: Any = spec.loader if spec else None
    # The text of the function, without its decorators: to parse all of a module takes longer.
    pattern = rf"^def {name}\(.*?(?=^[^\s)]|\Z)"
    match = re.search(pattern, loader.get_source(module), re.MULTILINE | re.DOTALL)
    assert match is not None, f"{module} has no function {name}"
    tree = ast.parse(match.group())
    (definition,) = tree.body
    assert isinstance(definition, ast.FunctionDef)
    del definition.body[1:]  # all but the docstring, so that nothing needs an import
    namespace = dict(vars(options))
    flags = annotations.compiler_flag
    exec(compile(tree, name, "exec", flags, dont_inherit=True), namespace)
    function: Any = namespace[name]
    signature, texts = filled(function, options.TEXTS)
    summary = inspect.cleandoc(function.__doc__ or "").partition("\n\n")[0]
    return Signature(" ".join(summary.split()), signature.parameters, texts)


SAME = object()
_TYPES: Mapping[str, Any] = {
    "bool": bool,
    "float": float,
    "int": int,
    "str": str,
    "str | Path": str,
    "str | os.PathLike[str] | Model": str,
    "TunedLens | str | Path": str,
    "str | Sequence[str]": list[str],
    "TaskLike | Sequence[TaskLike]": list[str],
}


def read_layers(text: str) -> list[int | str]:
    """Layers from ``0-5,9``, or from ``encoder.0-3,decoder.2``."""
    return _numbers(text, "layers", ", or of an encoder-decoder encoder.0-3,decoder.2")


def _numbers(text: str, named: str, of_stacks: str) -> list[int | str]:
    """Numbers from ranges, with their stack in front where that is named and may be."""
    chosen: list[int | str] = []
    for piece in map(str.strip, text.split(",")):
        match = re.fullmatch(r"(encoder\.|decoder\.)?([0-9]{1,4})(?:-([0-9]{1,4}))?", piece)
        if match is None or (match[1] and not of_stacks):
            raise UserError(
                f"Cannot read {named} {text!r}: expected numbers and ranges like 0-5,9{of_stacks}."
            )
        first, last = int(match[2]), int(match[3] or match[2])
        if last < first:
            raise UserError(
                f"Cannot read {named} {text!r}, where {piece} runs backwards: expected the "
                f"smaller number first, {last}-{first}."
            )
        chosen += [f"{match[1]}{n}" if match[1] else n for n in range(first, last + 1)]
    return chosen


def read_positions(text: str) -> str | list[int]:
    """Positions of a prompt from ``-3,-1``; ``all`` as it is."""
    if text.strip() == "all":
        return "all"
    try:
        return [int(piece) for piece in text.split(",")]
    except ValueError as error:
        raise UserError(
            f"Cannot read positions {text!r}: expected negative numbers such as -1 or -3,-2,-1, "
            "counted from the end of the prompt, or all."
        ) from error


def read_bytes(text: str) -> int:
    """A number of bytes from ``2GiB`` or ``500MB``."""
    from pydantic import ByteSize, TypeAdapter, ValidationError

    try:
        return int(TypeAdapter(ByteSize).validate_python(text))
    except ValidationError as error:
        raise UserError(
            f"Cannot read the memory budget {text!r}: expected a size such as 2GiB or 500MB."
        ) from error


def read_executor(text: str) -> Any:
    """What makes pieces on a Ray cluster, from ``auto,actors=2``."""
    from layerwise.runs.ray_executor import RayExecutor

    return RayExecutor.of(text)


@dataclass(frozen=True)
class Flag:
    """What of an option does not follow from the function's parameter."""

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
        read=lambda text: _numbers(text, "heads", ""),
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

    parameter: inspect.Parameter
    text: str  # its description
    flag: Flag = Flag()  # what does not follow from the parameter

    @property
    def kind(self) -> Any:
        """The type that typer reads."""
        return str if self.flag.read else _TYPES[self.parameter.annotation.removesuffix(" | None")]

    @property
    def default(self) -> Any:
        """The default, ``REQUIRED`` if there is none."""
        value = self.parameter.default if self.flag.default is SAME else self.flag.default
        if self.kind == list[str] and isinstance(value, (str, tuple)):
            return [value] if isinstance(value, str) else list(value)
        return value

    def declared(self) -> tuple[Any, Any]:
        """Type and default as the signature of a command has them."""
        text, several = self.flag.help or help_of(self.text), self.kind == list[str]
        name = self.parameter.name.removeprefix("n_").replace("_", "-")
        names = self.flag.names or (f"--{name.removesuffix('s') if several else name}",)
        info = typer.Option(
            *names,
            help=f"{text} Repeatable." if several else text,
            autocompletion=self.flag.complete,
            **self._read(names[0]),
        )
        kind = self.kind | None if self.default is None else self.kind
        return Annotated[kind, info], self.default

    @property
    def _is_path(self) -> bool:
        return "Path" in self.parameter.annotation

    def _read(self, called: str) -> dict[str, Any]:
        """What reads a text that is given for it."""
        if self.kind not in (str, list[str]):
            return {}
        if not self._is_path:
            return {"callback": value_of(called)}
        name = self.parameter.name
        return reading_path(name, refuse_unusable_folder if name == "out" else None, called)

    def value(self, given: Any) -> Any:
        """The function's argument, of what was given."""
        if self.kind == list[str]:
            return given or self.parameter.default
        if self._is_path and given is not None:
            return Path(given)
        return given if given is None or self.flag.read is None else self.flag.read(given)


def options_of(
    signature: Signature, names: Iterable[str], flags: Mapping[str, Flag]
) -> dict[str, Option]:
    """Some parameters of a function as options, by name."""
    return {
        name: Option(signature.parameters[name], signature.texts[name], flags.get(name, Flag()))
        for name in names
    }


def help_of(text: str) -> str:
    """A docstring's text as help: without marks of code, and None as what is left out."""
    plain = re.sub(r"\b([Ii])f None\b", r"\1f left out", text.replace("``", "").replace('"', ""))
    return plain if text.startswith("`") else plain[:1].upper() + plain[1:]


def value_of(called: str) -> Callable[[Any], Any]:
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


def reading_path(
    name: str, refuse: Callable[[Path], None] | None = None, called: str = ""
) -> dict[str, Any]:
    """What an option or argument has whose texts are paths."""
    # They are texts to typer, some of whose releases make a path before a callback sees the text;
    # an empty one is then the folder that one is in.
    of_value = value_of(called) if called else None

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
