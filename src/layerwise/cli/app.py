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
    BrokenPluginWarning,
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
from layerwise.ground.process import collect_garbage_rarely, work_beside
from layerwise.ground.waiting import wait_briefly_beside_others
from layerwise.storage.atomic_files import FULL

from .commands import COMMANDS
from .completion import complete_model
from .printing import print_grid, say, say_start
from .saved_runs import compare, figures, items, report, show, verify

_Dtype = Annotated[str, typer.Option(help="float32, bfloat16 or float16.")]
_Device = Annotated[str, typer.Option(help="cpu, cuda, cuda:1 or mps.")]
_Backend = Annotated[
    str, typer.Option(help="What runs a decoder: auto, transformer-lens or hugging-face.")
]


def look(
    model: Annotated[
        str,
        typer.Argument(
            help="Bundled alias, file, folder or hub id.", autocompletion=complete_model
        ),
    ],
    prompt: Annotated[str, typer.Argument(help="The text, in quotes.")],
    token: Annotated[
        str | None, typer.Option(help="One token, such as ' Paris': colours show it alone.")
    ] = None,
    skips: Annotated[bool, typer.Option(help="Also without each layer.")] = True,
    chat: Annotated[bool, typer.Option("--chat", help="Use the chat template.")] = False,
    dtype: _Dtype = "float32",
    device: _Device = "cpu",
    backend: _Backend = "auto",
) -> None:
    """Show what each layer would say next in a prompt, and what is said without it."""
    say_start("Loading", model)
    from layerwise.prompts.lens import lens_grid
    from layerwise.prompts.skip import skip_grid

    from .commands import load_for_process

    loaded = load_for_process(model, dtype=dtype, device=device, backend=backend)
    print_grid(lens_grid(loaded, prompt, token=token, chat=chat))
    if skips:
        print_grid(skip_grid(loaded, prompt, chat=chat))


def models(
    name: Annotated[
        str | None,
        typer.Argument(help="Model to load and describe.", autocompletion=complete_model),
    ] = None,
    offload: Annotated[
        str | None, typer.Option(help="disk: only the layer that runs has its weights in memory.")
    ] = None,
    backend: _Backend = "auto",
    dtype: _Dtype = "float32",
    device: _Device = "cpu",
) -> None:
    """List the bundled models, or describe one model."""
    from layerwise.models import known_models

    if name is None:
        if offload is not None:
            raise UserError(
                f"--offload {offload} says how a model is loaded, but no model was named; name "
                "one, or leave it out."
            )
        for known in known_models():
            state = "available" if known.available else f"not here; {known.install}"
            say(f"{known.name}: {known.summary} ({state})")
        say("or: a .gguf file, a folder of a model or an adapter, a hub id such as owner/name")
        return
    say_start("Loading", name)
    from layerwise.models import load_model, model_facts
    from layerwise.sweep.packed.blocks import attention_in_use

    model = load_model(name, dtype=dtype, device=device, offload=offload, backend=backend)
    facts = model_facts(model)
    for field in facts.__dataclass_fields__:
        say(f"{field}: {getattr(facts, field)}")
    say(f"attention: {attention_in_use(model)}")


def tasks() -> None:
    """List the built-in tasks, and what other tasks there are by source."""
    from importlib.util import find_spec

    from layerwise.tasks import languages, load_task, task_names
    from layerwise.tasks.benchmarks import BENCHMARKS
    from layerwise.tasks.registry import arguments_in_words

    for language in languages():
        for name in task_names(language):
            arguments = arguments_in_words(name)
            say(load_task(name).describe() + (f" [{arguments}]" if arguments else ""))
    say("all, a capability, or matched: several of them, in the language of the model")
    say("with arguments: NAME:argument=value:..., such as kv-words:n_pairs=8")
    say("")
    say("benchmarks in their authors' own files:")
    for name, benchmark in BENCHMARKS.items():
        part = f"[{benchmark.part}=...:]" if benchmark.part else ""
        say(f"benchmark:{name}:{part}data=FOLDER ({benchmark.capability}): {benchmark.description}")
    say("")
    missing = "" if find_spec("lm_eval") else " (not here; pip install 'layerwise[lm-eval]')"
    say(f"lm-eval:NAME or lm-eval:FILE.yaml: a task or group of lm-evaluation-harness{missing}")
    say("hf:OWNER/NAME:SPLIT:question=COLUMN:answer=COLUMN: a data set of the Hugging Face hub")
    say("hf:NAME:question=COLUMN:answer=COLUMN:data=FOLDER: the same in a folder, without network")
    say("a .toml file: other words, examples or extractor for the items of any of these")
    say("or: a .jsonl, .csv or .parquet file with question, answer, optionally choices, context")


def claims() -> None:
    """List the published claims that `replicate` tests: what each says, and its source."""
    from layerwise.analyses.replication.claims import BY_NAME

    for name, claim in BY_NAME.items():
        say(f"{name}: {claim.sentence} ({claim.source.authors}, {claim.source.address})")


class _Commands(TyperGroup):
    """The commands; typer itself would end an interrupted one without a word."""

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The command of a name, of layerwise or of a plugin."""
        own = super().get_command(ctx, cmd_name)
        if own is not None:
            return own
        from .plugin_commands import find_plugin_command

        return find_plugin_command(cmd_name, self.commands)

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


def _show_version(wanted: bool) -> bool:
    if wanted:
        say(f"layerwise {metadata.version('layerwise')}")
        raise typer.Exit
    return wanted


@app.callback()
def settings(
    version: Annotated[
        bool,
        typer.Option(
            "--version", help="Say which version this is.", is_eager=True, callback=_show_version
        ),
    ] = False,
) -> None:
    """Layers of a language model that retrieve, know and reason, and how sure that is."""


GROUPS = {
    "See: what is each layer needed for?": (
        "profile", "look", "ablate", "decide", "score", "interactions", "head-sets", "text-loss",
    ),
    "Explain: where is the answer, and how does it get there?": (
        "lens", "train-lens", "patch", "path-patch", "attribution-patch", "attribution", "heads",
        "similarity",
    ),
    "Change: how can a model be made smaller?": (
        "remove", "prune", "heal", "early-exit", "distill",
    ),
    "Compare: do models, checkpoints and papers agree?": (
        "compare", "transplant", "profile-training", "replicate",
    ),
    "Read a run: what did it find?": ("show", "items", "report", "figures", "verify"),
    "Look up: what is there, and what does it take?": ("models", "tasks", "claims", "plan"),
}  # fmt: skip
"""Commands by the question that they answer, the most asked first."""

_functions = {name: command.as_function() for name, command in COMMANDS.items()} | {
    function.__name__: function
    for function in (
        models, tasks, claims, look, report, show, figures, items, verify, compare,
    )
}  # fmt: skip
for _question, _names in GROUPS.items():
    for _name in _names:
        app.command(_name, rich_help_panel=_question)(_functions[_name])


_NO_ROOM = (
    "the device ran out of memory: expected room for activations beside the weights; free memory "
    "there, or give a smaller --memory-budget or --dtype, and the same command goes on."
)
_FULL = (
    "expected room for the command's files and for what it prints; free some space, or print to "
    "another place, and give the same command again."
)
_WARNINGS = (
    MadeAgainWarning, DamagedFileWarning, OtherEnvironmentWarning, UnusedSettingsWarning,
    LongAnswersWarning, LongItemsWarning, NoSignalPossibleWarning, BrokenPluginWarning,
)  # fmt: skip


def _show_warning(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, *more: Any
) -> None:  # fmt: skip
    """Print this package's warnings as one line; those of others as Python does."""
    if category in _WARNINGS:
        say(f"layerwise: {message}", err=True)
    else:
        sys.stderr.write(warnings.formatwarning(message, category, filename, lineno))


def main() -> None:
    """Run the command line; a user's mistake is one sentence and exit code 2."""
    collect_garbage_rarely()
    work_beside()
    wait_briefly_beside_others()
    try:
        with warnings.catch_warnings():
            for category in _WARNINGS:
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
