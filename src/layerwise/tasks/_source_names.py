"""Names of tasks from other sources: ``benchmark:mmlu:subject=anatomy:data=FOLDER``.

What a source does with its arguments is its own business.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from layerwise.errors import UserError, short_repr


@dataclass(frozen=True)
class SourceName:
    """A name, taken apart."""

    source: str  # such as ``benchmark``
    base: str  # the task's name there
    arguments: dict[str, str]  # what stands behind it, as texts
    data: str | None  # the folder or file of its data; None if the name gives none

    @property
    def label(self) -> str:
        """Name of the task in results: its name and arguments, without its data."""
        return ":".join([self.base, *(f"{key}={value}" for key, value in self.arguments.items())])


def read_source_name(name: str, known: Sequence[str] = ()) -> SourceName:
    """Take a name apart; ``data=`` is the last argument, as a path may have colons."""
    head, _, data = name.partition(":data=")
    source, base, *parts = head.split(":")
    arguments: dict[str, str] = {}
    for part in parts:
        key, equals, value = part.partition("=")
        # Tables join the names of tasks by commas.
        if key not in known or key in arguments or not (equals and value) or "," in part:
            takes = ", ".join(f"{key}=..." for key in (*known, "data"))
            raise UserError(
                f"Cannot read {short_repr(part)} in the task name {short_repr(name)}: "
                f"expected arguments of "
                f"{source}:{base}, each once and data= last; it takes {takes}."
            )
        arguments[key] = value
    return SourceName(source, base, arguments, data or None)
