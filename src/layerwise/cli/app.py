"""The command line: the public functions with their arguments, and nothing else.

Mistakes of the user's come as one sentence on the error stream, with exit code 2.
"""

from __future__ import annotations

import io
import sys
import warnings
from importlib import metadata
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from layerwise.errors import (
    DamagedFileWarning,
    LongAnswersWarning,
    LongItemsWarning,
    MadeAgainWarning,
    NoSignalPossibleWarning,
    OtherEnvironmentWarning,
    UnusedSettingsWarning,
    UserError,
    one_line,
)
from layerwise.ground.process import collect_rarely, work_beside
from layerwise.ground.waiting import wait_briefly_beside_others
from layerwise.storage.atomic_files import FULL

from .commands import COMMANDS
from .lists import models, tasks
from .look import look
from .printing import say
from .saved_runs import compare, figures, items, report, show, verify


class _Commands(TyperGroup):
    """The commands; typer itself would end an interrupted one without a word."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            say(
                "layerwise: interrupted. If a folder was named (--out), the same command continues "
                "where it stopped.",
                err=True,
            )
            raise typer.Exit(130) from None


app = typer.Typer(
    name="layerwise",
    cls=_Commands,
    help="Which layers of a language model retrieve, know and reason, and how sure that is.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


def _tell_version(wanted: bool) -> bool:
    if wanted:
        say(f"layerwise {metadata.version('layerwise')}")
        raise typer.Exit
    return wanted


@app.callback()
def settings(
    version: Annotated[
        bool,
        typer.Option(
            "--version", help="Say which version this is.", is_eager=True, callback=_tell_version
        ),
    ] = False,
) -> None:
    """Which layers of a language model retrieve, know and reason, and how sure that is."""


for _function in (models, tasks):
    app.command()(_function)
for _name, _command in COMMANDS.items():
    app.command(_name)(_command.function())
for _function in (look, report, show, figures, items, verify, compare):
    app.command()(_function)


_NO_ROOM = (
    "the device ran out of memory: expected room for activations beside the weights; free memory "
    "there, or give a smaller --memory-budget or --dtype, and the same command goes on."
)
_FULL = (
    "expected room for the command's files and for what it prints; free some space, or print to "
    "another place, and give the same command again."
)
_TOLD = (
    MadeAgainWarning, DamagedFileWarning, OtherEnvironmentWarning, UnusedSettingsWarning,
    LongAnswersWarning, LongItemsWarning, NoSignalPossibleWarning,
)  # fmt: skip


def _show_warning(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, *more: Any
) -> None:  # fmt: skip
    """Print this package's warnings as one line; those of others as Python does."""
    if category in _TOLD:
        say(f"layerwise: {message}", err=True)
    else:
        sys.stderr.write(warnings.formatwarning(message, category, filename, lineno))


def main() -> None:
    """Run the command line; a user's mistake is one sentence and exit code 2."""
    collect_rarely()
    work_beside()
    wait_briefly_beside_others()
    try:
        with warnings.catch_warnings():
            for category in _TOLD:
                warnings.simplefilter("always", category)
            warnings.showwarning = _show_warning
            app(prog_name="layerwise")
    except UserError as error:
        say(f"layerwise: {error}", err=True)
        sys.exit(2)
    except RuntimeError as error:
        if type(error).__name__ != "OutOfMemoryError":  # torch's, which is not imported for help
            raise
        say(f"layerwise: {_NO_ROOM} ({one_line(error)})", err=True)
        sys.exit(2)
    except OSError as error:
        if error.errno not in FULL:
            raise
        sys.stdout = io.StringIO()  # what could not be printed would be tried again at the end
        say(f"layerwise: cannot write ({error.strerror}): {_FULL}", err=True)
        sys.exit(2)
