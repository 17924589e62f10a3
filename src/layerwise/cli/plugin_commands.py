"""Commands of plugins: ``COMMANDS`` in a plugin's package, as in the folder of any analysis.

They are looked for only if a name is no command of layerwise, as to import a plugin takes long.
"""

from __future__ import annotations

import importlib
from collections.abc import Collection

import typer
from typer.core import TyperCommand
from typer.main import get_command

from layerwise.ground.analysis_folders import AnalysisFolder, leave_out, plugins

from .commands import Command


def find_plugin_command(name: str, taken: Collection[str]) -> TyperCommand | None:
    """The command of a plugin, as typer runs it; None if none has the name.

    A plugin that cannot be imported, or whose command has a ``taken`` name, is left out with a
    warning.
    """
    known: dict[str, TyperCommand] = {}
    for folder in plugins():
        try:
            commands = _read_commands(folder)
            for clash in [one for one in commands if one in known or one in taken]:
                raise ValueError(f"{clash!r} is the name of another command")
            known |= {one: _for_typer(one, command) for one, command in commands.items()}
        except (Exception, SystemExit) as error:  # whatever it is, it is not layerwise's
            leave_out(folder, error)
    return known.get(name)


def _read_commands(folder: AnalysisFolder) -> dict[str, Command]:
    named = getattr(importlib.import_module(folder.module), "COMMANDS", {})
    return {name: Command(f"{folder.module}.{target}") for name, target in named.items()}


def _for_typer(name: str, command: Command) -> TyperCommand:
    alone = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    alone.command(name)(command.as_function())
    return get_command(alone)  # type: ignore[return-value]
