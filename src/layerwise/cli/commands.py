"""Commands that run a model, each made from its public function's signature and docstring."""

from __future__ import annotations

import inspect
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer

from layerwise.ground.process import keep_texts_as_objects, settle

from . import printing
from .completion import complete_model, complete_task
from .options import (
    FLAGS,
    PAIRED,
    REQUIRED,
    Flag,
    Option,
    help_text,
    make_options,
)
from .signatures import MODEL, Signature, import_function, read_signature, saved_signatures
from .values import read_layers, read_positions

# Bars are shown where there is a terminal.
_NOT_ASKED = ("progress",)
LOAD_MODEL = "layerwise.models.load:load_model"
_MODEL = "Bundled alias, GGUF file, folder in hub format, or hub id."


@dataclass(frozen=True)
class Command:
    """A public function as a command."""

    target: str  # the function, ``module:name``; it is imported when the command runs
    # Prints what the function returns, given the folder that it wrote to.
    show: Callable[[Any, Any], None] = printing.show_result
    # What of its options does not follow from the function, beside ``FLAGS``.
    flags: Mapping[str, Flag] = field(default_factory=dict)
    model: Any = REQUIRED  # the model if none is named
    folder: Callable[[str], Path] | None = None  # where it writes if nobody says, by the model
    offload: bool = True  # whether it can run a model whose weights stay on disk
    beside: str | None = None  # the parameter that is a second model, named after the first
    another: str | None = None  # the option that is a further model, where one is named
    called: str | None = None  # what help calls the first argument, if not by its name
    several: bool = False  # whether there may be several of the first

    @property
    def signature(self) -> Signature:
        """The function's signature; that of a plugin's function is in no file."""
        return saved_signatures().get(self.target) or read_signature(self.target)

    @property
    def first(self) -> str:
        """The parameter that is named first, without an option: a model, or a model's folder."""
        return next(iter(self.signature.parameters))

    def options(self) -> dict[str, Option]:
        """The function's parameters as options, by name."""
        skipped = (self.first, *_NOT_ASKED, self.beside)
        names = [name for name in self.signature.parameters if name not in skipped]
        return make_options(self.signature, names, {**FLAGS, **self.flags})

    def loading_options(self) -> dict[str, Option]:
        """Options of ``load_model``, where the function takes a loaded model."""
        if self.signature.parameters[self.first].kind != MODEL:
            return {}
        names = ("dtype", "device", "backend", *(("offload",) if self.offload else ()))
        return make_options(saved_signatures()[LOAD_MODEL], names, FLAGS)

    def as_function(self) -> Callable[..., None]:
        """The command as a function that typer reads."""
        options, loading = self.options(), self.loading_options()

        def run(**given: Any) -> None:
            from layerwise.runs.progress import seconds_in_words

            started = time.monotonic()
            model = given.pop(self.first)
            how = {name: given.pop(name) for name in loading}
            named = (model,) if self.beside is None else (model, given.pop(self.beside))
            arguments = {name: option.value(given[name]) for name, option in options.items()}
            if self.folder is not None and arguments["out"] is None:
                arguments["out"] = self.folder(model)
            printing.say_start("Loading", *(model if self.several else named))
            result = self._call(named, how, arguments)
            if "progress" in self.signature.parameters:
                printing.say(f"Took {seconds_in_words(time.monotonic() - started)}.")
            self.show(result, arguments.get("out"))
            if arguments.get("write") is not None:
                printing.say(f"Model: {arguments['write']}")

        declared = {self.first: (self._first_annotation(), self.model)}
        if self.beside is not None:
            text = help_text(self.signature.parameters[self.beside].text)
            second = typer.Argument(help=text, autocompletion=complete_model)
            declared[self.beside] = (Annotated[str, second], REQUIRED)
        for name, option in {**options, **loading}.items():
            declared[name] = option.annotation_and_default()
        run.__annotations__ = {name: kind for name, (kind, _) in declared.items()}
        by_name = inspect.Parameter.KEYWORD_ONLY
        vars(run)["__signature__"] = inspect.Signature(
            [
                inspect.Parameter(name, by_name, default=default, annotation=kind)
                for name, (kind, default) in declared.items()
            ]
        )
        run.__doc__ = help_text(self.signature.summary)
        return run

    def _first_annotation(self) -> Any:
        """The first argument, as typer reads it."""
        flag = self.flags.get(self.first, Flag())
        text = flag.help or help_text(self.signature.parameters[self.first].text)
        words = _MODEL if self.first == "model" else text
        kind = list[str] if self.several else str
        argument = typer.Argument(help=words, metavar=self.called, autocompletion=complete_model)
        return Annotated[kind, argument]

    def _call(self, models: tuple[Any, ...], how: dict[str, Any], arguments: dict[str, Any]) -> Any:
        """Call the function; no model is loaded for what would be refused."""
        function = import_function(self.target)
        keep_texts_as_objects()
        if not how:
            return function(*models, **arguments)
        from layerwise.ground.arguments import check_ahead

        another = {} if self.another is None else {self.another: arguments.pop(self.another)}
        check_ahead(function, **arguments)
        loaded = [load_for_process(model, **how) for model in models]
        for name, model in another.items():
            arguments[name] = None if model is None else load_for_process(model, **how)
        return function(*loaded, **arguments)


def load_for_process(name: str, **how: Any) -> Any:
    """Load a model for the rest of the process."""
    from layerwise.models import load_model

    model = load_model(name, **how)
    settle()
    return model


def default_folder(model: str) -> Path:
    """The usual folder of a profile; resolved, so that ``.`` has a name too."""
    return Path("runs") / os.path.basename(os.path.realpath(os.path.expanduser(model)))


_ANALYSES = "layerwise.analyses"
_PAIRED = {"tasks": PAIRED}
COMMANDS: Mapping[str, Command] = {
    "profile": Command(
        "layerwise.profiling.api:profile", printing.show_profile, model="smollm2-135m",
        folder=default_folder,
        flags={
            "limit": Flag(
                help="Take the first so many items of each task; if left out as many as show each "
                "layer that costs a capability 20 accuracy points, in 8 of 10 runs."
            )
        },
    ),
    "ablate": Command(f"{_ANALYSES}.ablation.api:ablate"),
    "score": Command(f"{_ANALYSES}.ablation.api:score", printing.show_score),
    "profile-training": Command(
        f"{_ANALYSES}.training.api:profile_training", printing.show_series, several=True,
        called="CHECKPOINT...",
        flags={
            "checkpoints": Flag(
                help="Folders in hub format whose names end with their step, such as "
                "checkpoint-500, or STEP=FOLDER."
            ),
            "limit": Flag(help="Take the first so many items of each task."),
            "out": Flag(help="Folder for the page, tables and a run of each; resumes there."),
        },
    ),
    "lens": Command(
        f"{_ANALYSES}.logit_lens.api:logit_lens",
        flags={
            "positions": Flag(
                help="Of the prompt, from its end, e.g. -1 or -3,-2,-1; or all.",
                default="-1", read=read_positions,
            )
        },
    ),
    "train-lens": Command(
        f"{_ANALYSES}.tuned_lens.api:train_lens",
        lambda trained, out: printing.show_result(trained.result, out),
    ),
    "attribution": Command(f"{_ANALYSES}.attribution.api:attribution"),
    "heads": Command(f"{_ANALYSES}.heads.api:head_scores"),
    "head-sets": Command(f"{_ANALYSES}.head_sets.api:head_sets"),
    "decide": Command(f"{_ANALYSES}.decisions.api:decide"),
    "patch": Command(f"{_ANALYSES}.patching.api:patch_activations", flags=_PAIRED),
    "path-patch": Command(f"{_ANALYSES}.path_patching.api:patch_paths", flags=_PAIRED),
    "attribution-patch": Command(
        f"{_ANALYSES}.attribution_patching.api:attribute_patches", flags=_PAIRED
    ),
    "interactions": Command(f"{_ANALYSES}.interactions.api:interactions"),
    "transplant": Command(f"{_ANALYSES}.transplant.api:transplant", offload=False, beside="other"),
    "distill": Command(
        f"{_ANALYSES}.distillation.api:distill", printing.show_written_model, offload=False,
        beside="student", called="TEACHER",
        flags={"out": Flag(help="New folder for the distilled student.")},
    ),
    "heal": Command(
        f"{_ANALYSES}.distillation.api:heal", printing.show_written_model, called="FOLDER",
        flags={"out": Flag(help="New folder for the healed model.")},
    ),
    "early-exit": Command(f"{_ANALYSES}.early_exit.api:early_exit"),
    "similarity": Command(f"{_ANALYSES}.similarity.api:similarity"),
    "text-loss": Command(f"{_ANALYSES}.running_text.api:text_loss"),
    "remove": Command(f"{_ANALYSES}.removal.api:removal_order", printing.show_removal),
    "replicate": Command(
        f"{_ANALYSES}.replication.api:replicate",
        another="also_distilled",
        flags={
            "claims": Flag(("--claim", "--claims"), "Claim, such as song-3, or all."),
            "also_distilled": Flag(complete=complete_model),
        },
    ),
    "prune": Command(
        f"{_ANALYSES}.pruning.api:prune_model", printing.show_written_model,
        flags={
            "remove": Flag(
                help="Which layers, e.g. 20-23, or encoder.3,decoder.1.", read=read_layers
            ),
            "out": Flag(help="New folder for the model without them."),
            "limit": Flag(default=10),
        },
    ),
    "plan": Command(
        "layerwise.planning.plan:plan_run", lambda plan, _: printing.say(plan),
        flags={
            "tasks": Flag(("--task", "--tasks"), complete=complete_task),
            "claims": Flag(("--claim", "--claims")),
        },
    ),
}  # fmt: skip
"""Every command that runs a model, by name."""


def targets() -> list[str]:
    """The functions whose signatures the command line needs."""
    return sorted({command.target for command in COMMANDS.values()} | {LOAD_MODEL})
