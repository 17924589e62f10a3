"""Arguments of the public functions: each has its name, type, default and description once.

They follow from a function's signature and docstring, and from the ``TypedDict`` of shared options
that it unpacks, whose entries are ``Annotated[type, default, text]``. A call reads its arguments by
their types before any work is done; what cannot be read is refused in a sentence. The command line
takes its options from the same arguments.
"""

from __future__ import annotations

import functools
import inspect
import operator
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import NoneType, UnionType
from typing import (
    Annotated,
    Any,
    ParamSpec,
    TypeVar,
    Union,
    Unpack,
    get_args,
    get_origin,
    get_type_hints,
)

from pydantic import BeforeValidator, ConfigDict, TypeAdapter, ValidationError

from layerwise.errors import UserError, unknown_name

from .argument_types import LARGEST, ExpectedWords, NoEntry, TooManyEntries, Whole
from .docstrings import argument_texts, whole_docstring
from .readers import ARGUMENT, Reads, plain, refuse, refuse_long

_P = ParamSpec("_P")
_R = TypeVar("_R")

REQUIRED = inspect.Parameter.empty
_STRICT = ConfigDict(strict=True, allow_inf_nan=False, arbitrary_types_allowed=True)
_EXPECTED = {
    bool: ExpectedWords("True or False"),
    int: ExpectedWords("a whole number", "1"),
    float: ExpectedWords("a finite number", "0.5"),
    str: ExpectedWords("a text"),
}


@dataclass(frozen=True)
class Argument:
    """An argument of a public function, or an option that several share."""

    name: str
    type: Any
    default: Any = REQUIRED
    text: str = ""  # its description

    def read(self, value: Any) -> Any:
        """The plain value of what was given; a ``UserError`` if it cannot be one."""
        try:
            return _adapter(self.type).validate_python(value, context={ARGUMENT: self.name})
        except ValidationError as error:
            raise self._refusal(value, error) from None

    @property
    def expected_words(self) -> str:
        """The words for its values, with an example."""
        kind = next(members(self.type))
        known = next((one for one in metadata(self.type) if isinstance(one, ExpectedWords)), None)
        known = known or _EXPECTED.get(kind) or ExpectedWords(type_words(self.type))
        usual = self.default[:1] if isinstance(self.default, tuple) else (self.default,)
        given = [repr(one) for one in usual if one not in (None, REQUIRED) and kind is not bool]
        return ", such as ".join([known.words, *(given or [known.example] * bool(known.example))])

    def _refusal(self, value: Any, error: ValidationError) -> UserError:
        """The sentence for what pydantic says of a value, or of an entry of a list."""
        first = max(error.errors(include_url=False), key=lambda one: len(one["loc"]))
        given, context = first["input"] if first["loc"] else value, first.get("ctx", {})
        cause: Any = context.get("error")
        if isinstance(cause, UserError):
            return cause
        if isinstance(cause, TooManyEntries):
            return refuse_long(self.name, self.expected_words)
        said = f"Argument {self.name!r} is"
        if isinstance(cause, NoEntry):
            more = "name at least one, or leave it out"
            return UserError(f"{said} empty; expected {self.expected_words}: {more}.")
        if first["type"] == "finite_number":
            return UserError(f"{said} {plain(given)}; expected {self.expected_words}.")
        for bound, side in (("ge", "least"), ("le", "most")):
            if bound in context:
                limit: Any = context[bound]
                number = type(limit)(plain(given))
                if isinstance(number, int) and abs(number) > LARGEST:
                    said, bounds = (
                        f"{said} a number of {number.bit_length()} bits",
                        "of at most 63 bits",
                    )
                else:
                    said, bounds = f"{said} {number:,}", f"at {side} {limit:,}"
                return UserError(f"{said}; expected {self.expected_words}, {bounds}.")
        return refuse(self.name, given, self.expected_words)


@functools.cache
def _adapter(kind: Any) -> Any:
    plainly: Any = Annotated[_with_storable_integers(kind), BeforeValidator(plain)]
    return TypeAdapter(plainly, config=_STRICT)


def _with_storable_integers(kind: Any) -> Any:
    """A type whose whole numbers are those that tables can hold."""
    if get_origin(kind) in (Union, UnionType):
        return functools.reduce(operator.or_, map(_with_storable_integers, get_args(kind)))
    return Whole if kind is int else kind


def metadata(kind: Any) -> Iterator[Any]:
    """The metadata of a type, the outermost first, also where it is optional."""
    if get_origin(kind) is Annotated:
        yield from reversed(kind.__metadata__)
        yield from metadata(kind.__origin__)
    elif get_origin(kind) in (Union, UnionType):
        for one in get_args(kind):
            yield from metadata(one)


def members(kind: Any) -> Iterator[Any]:
    """The types that a value may have, None apart."""
    if get_origin(kind) is Annotated:
        yield from members(kind.__origin__)
    elif get_origin(kind) in (Union, UnionType):
        for one in get_args(kind):
            yield from members(one)
    elif kind is not NoneType:
        yield kind


def type_words(kind: Any) -> str:
    """A type as signatures and help show it, without its metadata."""
    if get_origin(kind) is Annotated:
        read = (one.words for one in kind.__metadata__ if isinstance(one, Reads))
        return next(read, "") or type_words(kind.__origin__)
    if get_origin(kind) in (Union, UnionType):
        return " | ".join(map(type_words, get_args(kind)))
    if get_args(kind):
        return f"{get_origin(kind).__name__}[{', '.join(map(type_words, get_args(kind)))}]"
    return "None" if kind is NoneType else kind.__name__


def check_arguments(
    *refusals: Callable[..., object], texts: Mapping[str, str] | None = None
) -> Callable[[Callable[_P, _R]], Callable[_P, _R]]:
    """Decorate a public function: its arguments, defaults too, are read before it is called.

    Args:
        refusals: raise a ``UserError`` for arguments that do not go together; the command line
            calls them before it loads a model (``check_ahead``).
        texts: descriptions of parameters that the docstring lacks.
    """

    def decorate(function: Callable[_P, _R]) -> Callable[_P, _R]:
        arguments = read_arguments(function, texts or {})
        silent = {one.name for one in arguments.values() if not one.text}
        if silent and "Args:" in (function.__doc__ or ""):
            raise TypeError(f"{function.__name__} has arguments without a text: {silent}.")
        signature = _signature(function, arguments)

        @functools.wraps(function)
        def call(*args: _P.args, **kwargs: _P.kwargs) -> _R:
            for unknown in kwargs.keys() - arguments.keys():
                raise TypeError(
                    str(unknown_name(f"argument of {function.__name__}", unknown, arguments))
                )
            bound = signature.bind(*args, **kwargs)
            bound.apply_defaults()
            for name, value in bound.arguments.items():
                bound.arguments[name] = arguments[name].read(value)
            return function(*bound.args, **bound.kwargs)

        vars(call).update(arguments=arguments, refusals=refusals, __signature__=signature)
        if function.__doc__:
            words = {one.name: one.text for one in arguments.values()}
            call.__doc__ = whole_docstring(function.__doc__, words)
        return call

    return decorate


def read_arguments(
    function: Callable[..., Any], texts: Mapping[str, str]
) -> Mapping[str, Argument]:
    """A function's arguments by name, with the options that it unpacks."""
    signature, own = inspect.signature(function), argument_texts(function)
    hints = get_type_hints(function, include_extras=True)
    arguments: dict[str, Argument] = {}
    for parameter in signature.parameters.values():
        name = parameter.name
        if name not in hints:
            raise TypeError(f"{function.__name__} has an argument without a type: {name}.")
        if parameter.kind is inspect.Parameter.VAR_POSITIONAL:
            raise TypeError(
                f"{function.__name__} has the variadic argument *{name}: expected one argument "
                f"{name} that takes a list."
            )
        if parameter.kind is inspect.Parameter.VAR_KEYWORD:
            if get_origin(hints[name]) is not Unpack:
                raise TypeError(
                    f"{function.__name__} has the variadic argument **{name}, whose names are "
                    f"unknown: expected **{name}: Unpack[...] of a TypedDict of options."
                )
            options = typed_dict_arguments(get_args(hints[name])[0])
            arguments |= options
            texts = {**texts, **{option.name: option.text for option in options.values()}}
        else:
            arguments[name] = Argument(name, hints[name], parameter.default)
    known = {**texts, **own}
    return {
        name: Argument(name, one.type, one.default, known.get(name, ""))
        for name, one in arguments.items()
    }


def typed_dict_arguments(kind: Any) -> dict[str, Argument]:
    """The entries of a ``TypedDict`` of options."""
    options = {}
    for name, hint in get_type_hints(kind, include_extras=True).items():
        *more, default, text = hint.__metadata__  # a type's own metadata come first
        kind = Annotated[hint.__origin__, *more] if more else hint.__origin__
        options[name] = Argument(name, kind, default, text)
    return options


def select_options(kind: Any, options: Mapping[str, Any]) -> dict[str, Any]:
    """Those of some options that are entries of a ``TypedDict``."""
    return {name: options[name] for name in kind.__annotations__}


def _signature(
    function: Callable[..., Any], arguments: Mapping[str, Argument]
) -> inspect.Signature:
    """A function's signature with the options that it unpacks, and plain words for types."""
    signature = inspect.signature(function)
    kinds = {one.name: one.kind for one in signature.parameters.values()}
    parameters = [
        inspect.Parameter(
            one.name, kinds.get(one.name, inspect.Parameter.KEYWORD_ONLY),
            default=one.default, annotation=type_words(one.type),
        )
        for one in arguments.values()
    ]  # fmt: skip
    return signature.replace(parameters=parameters)


def check_ahead(function: Callable[..., Any], **given: Any) -> None:
    """Refuse arguments of a public function but for its models, which are not loaded yet."""
    arguments: Mapping[str, Argument] = vars(function)["arguments"]
    values = {
        name: one.read(given.get(name, one.default))
        for name, one in arguments.items()
        if name in given or one.default is not REQUIRED
    }
    for refusal in vars(function)["refusals"]:
        names = inspect.signature(refusal).parameters.keys() & values.keys()
        refusal(**{name: values[name] for name in names})
