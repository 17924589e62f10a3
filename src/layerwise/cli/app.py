"""The command line: the Python API's functions with their arguments, and nothing else.

Mistakes of the user's come as one sentence on the error stream, with exit code 2.
"""

from __future__ import annotations

import re
import sys
import warnings
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer
from typer.core import TyperGroup

from layerwise.errors import MadeAgainWarning, UnusedSettingsWarning, UserError, printable
from layerwise.ground.process import collect_rarely, settle, work_beside
from layerwise.results.atomic_files import is_folder, refuse_unusable_file, refuse_unusable_folder

if TYPE_CHECKING:
    from layerwise.results.base import Result

_Made = TypeVar("_Made")


class _Commands(TyperGroup):
    """The commands; typer itself would end an interrupted one without a word."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            _say(
                "layerwise: interrupted; with a folder to write to, the same command goes on "
                "where it stopped.",
                err=True,
            )
            raise typer.Exit(130) from None


app = typer.Typer(
    name="layerwise",
    cls=_Commands,
    help="Which layers of a language model retrieve, know and reason, and how sure that is.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

ModelName = Annotated[
    str, typer.Argument(help="Bundled alias, GGUF file, folder in hub format, or hub id.")
]
Tasks = Annotated[
    list[str],
    typer.Option("--task", "--tasks", help="Task, capability, 'all', or JSONL file; repeatable."),
]
PairedTasks = Annotated[
    list[str] | None,
    typer.Option(
        "--task",
        "--tasks",
        help="Task with pairs of prompts; kv-words and facts if left out, or all suites of the "
        "model's toy language; repeatable.",
    ),
]
Protocols = Annotated[
    list[str], typer.Option("--protocol", help="letter, continuation or generate; repeatable.")
]
Sites = Annotated[
    list[str],
    typer.Option(
        "--site",
        help="resid_pre, resid_mid, resid_post, attn_out, mlp_out; by head z, pattern; of an "
        "encoder-decoder also resid_mid_cross, cross_attn_out, cross_k, cross_v, by head cross_z, "
        "cross_pattern; repeatable.",
    ),
]
Positions = Annotated[
    list[str] | None,
    typer.Option(
        "--position", help="Labels such as 'last changed', last, answer, all; repeatable."
    ),
]
Layers = Annotated[
    str | None,
    typer.Option(help="Which layers, e.g. 0-5,9 or encoder.0-3,decoder.2; all if left out."),
]
Exhaustive = Annotated[
    bool, typer.Option("--exhaustive", help="Skip layers also where there is no signal.")
]
Also = Annotated[
    list[str],
    typer.Option(
        help="Beyond the main analyses: parts, heads, attribution, head-scores, similarity, "
        "removal, estimates, paths, or all. May be repeated."
    ),
]


def _usable_folder(out: Path | None) -> Path | None:
    """A folder to write to, refused before anything is loaded if nothing can be written there."""
    if out is not None:
        refuse_unusable_folder(out)
    return out


def _usable_file(out: Path | None) -> Path | None:
    """As ``_usable_folder``, of a file."""
    if out is not None:
        refuse_unusable_file(out)
    return out


Out = Annotated[
    Path | None,
    typer.Option("--out", callback=_usable_folder, help="Folder for tables; resumes there."),
]
Limit = Annotated[int | None, typer.Option(help="Take the first so many items of each task.")]
Seed = Annotated[int, typer.Option(help="Decides built-in items and all bootstraps.")]
Fewshot = Annotated[int | None, typer.Option(help="Number of few-shot examples.")]
Chat = Annotated[bool, typer.Option("--chat", help="Wrap prompts in the chat template.")]
Dtype = Annotated[str, typer.Option(help="float32, bfloat16 or float16.")]
Device = Annotated[str, typer.Option(help="cpu, cuda, cuda:1 or mps.")]
Offload = Annotated[
    str | None, typer.Option(help="disk: only the layer that runs has its weights in memory.")
]
Budget = Annotated[
    str | None,
    typer.Option(
        "--memory-budget",
        help="For activations, keys and values, e.g. 2GiB; half of what is free if left out.",
    ),
]


def _tell_version(wanted: bool) -> bool:
    if wanted:
        _say(f"layerwise {metadata.version('layerwise')}")
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


def _say(text: object, err: bool = False) -> None:
    """Print text; what names of files, tasks and models hold is shown and not obeyed."""
    typer.echo(printable(str(text), lines=True), err=err)


ALL_PROTOCOLS = ["letter", "continuation", "generate"]
WIDE = 240


@app.command()
def models(
    name: Annotated[str | None, typer.Argument(help="Load this model and say what it is.")] = None,
    offload: Offload = None,
) -> None:
    """List the models that can be asked for by name, or describe one."""
    from layerwise.models import known_models

    if name is None:
        if offload is not None:
            raise UserError(
                f"--offload {offload} says how a model is loaded, but no model was named; name "
                "one, or leave it out."
            )
        for known in known_models():
            state = "available" if known.available else f"not here; {known.install}"
            _say(f"{known.name}: {known.summary} ({state})")
        _say("or: a .gguf file, a folder in hub format, a hub id such as owner/name")
        return
    from layerwise.models import load_model, model_facts
    from layerwise.sweep.blocks import attention_in_use

    model = load_model(name, offload=offload)
    facts = model_facts(model)
    for field in facts.__dataclass_fields__:
        _say(f"{field}: {getattr(facts, field)}")
    _say(f"attention: {attention_in_use(model)}")


@app.command()
def tasks() -> None:
    """List the built-in tasks."""
    from layerwise.tasks import languages, load_task, task_names

    for language in languages():
        for name in task_names(language):
            _say(load_task(name).describe())
    _say("or: a .jsonl file with question, answer and optionally choices and context")


@app.command()
def profile(
    model: ModelName = "smollm2-135m",
    task: Tasks = ["all"],  # noqa: B006
    protocol: Protocols = ALL_PROTOCOLS,
    out: Out = None,
    limit: Limit = 100,
    pairs: Annotated[int, typer.Option(help="Pairs of prompts a task for patching.")] = 16,
    exhaustive: Exhaustive = False,
    also: Also = [],  # noqa: B006
    seed: Seed = 0,
    fewshot: Fewshot = None,
    chat: Chat = False,
    dtype: Dtype = "float32",
    device: Device = "cpu",
    offload: Offload = None,
    memory_budget: Budget = None,
) -> None:
    """The main job: ablation, logit lens, activation patching, emergence, and the report."""
    from layerwise.analyses.profile.api import profile as run

    found = _call(
        run, (model, dtype, device, offload), task, protocol, limit=limit, pairs=pairs,
        exhaustive=exhaustive, also=also, seed=seed, fewshot=fewshot, chat=chat,
        out=out or _default_folder(model), memory_budget=_bytes(memory_budget),
    )  # fmt: skip
    _tell_work(found.work, "layer, item and option")
    _tell_planned(found.results[0])
    _say("The most important findings:")
    for finding in found.report.findings[:3]:
        _say(f"- {finding.sentence}")
    _say(f"Report: {found.path}")


@app.command()
def ablate(
    model: ModelName,
    task: Tasks = ["all"],  # noqa: B006
    protocol: Protocols = ALL_PROTOCOLS,
    kind: Annotated[str, typer.Option(help="skip, zero, mean, resample or noise.")] = "skip",
    site: Annotated[
        str | None,
        typer.Option(
            help="layer (skip), resid_pre, resid_mid, resid_post, attn_out, mlp_out, z (heads) or "
            "kv_group."
        ),
    ] = None,
    layers: Layers = None,
    heads: Annotated[
        str | None,
        typer.Option(help="Heads of z, or key/value groups, e.g. 0,2,5-8; all if left out."),
    ] = None,
    block: Annotated[int, typer.Option(help="Change so many layers at once, everywhere.")] = 1,
    as_one: Annotated[
        bool, typer.Option("--as-one", help="Change all layers and heads named at once.")
    ] = False,
    mean_by: Annotated[str, typer.Option(help="Means: pooled, or by position.")] = "pooled",
    out: Out = None,
    limit: Limit = None,
    seed: Seed = 0,
    fewshot: Fewshot = None,
    chat: Chat = False,
    dtype: Dtype = "float32",
    device: Device = "cpu",
    offload: Offload = None,
    method: Annotated[str, typer.Option(help="engine, or reference (slow).")] = "engine",
    memory_budget: Budget = None,
) -> None:
    """Change one layer, head, block or set at a time and see what each task loses."""
    from layerwise.analyses.ablation.api import ablate as run

    wanted = None if layers is None else _layers(layers)
    _show(
        _call(
            run, (model, dtype, device, offload), task, protocol, kind=kind, site=site,
            layers=wanted, heads=None if heads is None else _numbers(heads, "heads"), block=block,
            as_one=as_one, mean_by=mean_by, limit=limit, seed=seed, fewshot=fewshot, chat=chat,
            out=out, method=method, memory_budget=_bytes(memory_budget),
        ),
        out,
    )  # fmt: skip


@app.command()
def lens(
    model: ModelName,
    task: Tasks = ["all"],  # noqa: B006
    protocol: Annotated[
        list[str] | None,
        typer.Option("--protocol", help="letter, continuation (both if left out), or generate."),
    ] = None,
    which: Annotated[str, typer.Option("--lens", help="logit, or tuned.")] = "logit",
    tuned: Annotated[
        Path | None, typer.Option(help="Of a tuned lens: its file or folder; trained if left out.")
    ] = None,
    site: Annotated[
        list[str], typer.Option("--site", help="resid_pre, resid_mid or resid_post; repeatable.")
    ] = ["resid_post"],  # noqa: B006
    over: Annotated[
        str, typer.Option(help="Tokens to read: prompt, continuation (answer) or generated.")
    ] = "prompt",
    positions: Annotated[
        str, typer.Option(help="Of the prompt, from its end, e.g. -1 or -3,-2,-1; or all.")
    ] = "-1",
    out: Out = None,
    limit: Limit = None,
    seed: Seed = 0,
    fewshot: Fewshot = None,
    chat: Chat = False,
    dtype: Dtype = "float32",
    device: Device = "cpu",
    offload: Offload = None,
    memory_budget: Budget = None,
) -> None:
    """Read the answer from every layer's residual stream."""
    from layerwise.analyses.logit_lens.api import logit_lens as run

    _show(
        _call(
            run, (model, dtype, device, offload), task, protocol or None, lens=which,
            tuned=tuned, sites=site, over=over,
            positions=_positions(positions), limit=limit, seed=seed, fewshot=fewshot, chat=chat,
            out=out, memory_budget=_bytes(memory_budget),
        ),
        out,
    )  # fmt: skip


@app.command("train-lens")
def train_lens(
    model: ModelName,
    task: Tasks = ["all"],  # noqa: B006
    text: Annotated[
        Path | None, typer.Option(help=".txt or .jsonl to train on; other prompts if left out.")
    ] = None,
    kind: Annotated[str, typer.Option(help="full (matrix and bias) or bias.")] = "full",
    texts: Annotated[int, typer.Option(help="At most so many texts.")] = 512,
    steps: Annotated[int, typer.Option(help="Steps of training.")] = 200,
    rate: Annotated[float, typer.Option(help="Step size at first.")] = 0.01,
    out: Out = None,
    limit: Limit = None,
    seed: Seed = 0,
    fewshot: Fewshot = None,
    chat: Chat = False,
    dtype: Dtype = "float32",
    device: Device = "cpu",
    offload: Offload = None,
    memory_budget: Budget = None,
) -> None:
    """Train a tuned lens, and compare it with the untrained one on held-out texts."""
    from layerwise.analyses.tuned_lens.api import train_lens as run

    trained = _call(
        run, (model, dtype, device, offload), task, text=text, kind=kind, n_texts=texts,
        steps=steps, rate=rate, limit=limit, seed=seed, fewshot=fewshot, chat=chat, out=out,
        memory_budget=_bytes(memory_budget),
    )  # fmt: skip
    _show(trained.result, out)


@app.command()
def attribution(
    model: ModelName,
    task: Tasks = ["all"],  # noqa: B006
    protocol: Protocols = ["letter", "continuation"],  # noqa: B006
    against: Annotated[
        str, typer.Option(help="Distractors that the answer is compared with: mean or best.")
    ] = "mean",
    out: Out = None,
    limit: Limit = None,
    seed: Seed = 0,
    fewshot: Fewshot = None,
    chat: Chat = False,
    dtype: Dtype = "float32",
    device: Device = "cpu",
    offload: Offload = None,
    memory_budget: Budget = None,
) -> None:
    """Take the answer's logit apart: what each layer, attention, MLP and head adds to it."""
    from layerwise.analyses.attribution.api import attribution as run

    _show(
        _call(
            run, (model, dtype, device, offload), task, protocol, against=against, limit=limit,
            seed=seed, fewshot=fewshot, chat=chat, out=out, memory_budget=_bytes(memory_budget),
        ),
        out,
    )  # fmt: skip


@app.command()
def heads(
    model: ModelName,
    sequences: Annotated[int, typer.Option(help="How many sequences are tried.")] = 20,
    length: Annotated[
        int | None,
        typer.Option(help="Random tokens before they are repeated; 50 at most if left out."),
    ] = None,
    threshold: Annotated[
        float, typer.Option(help="Induction heads have prefix matching above this.")
    ] = 0.4,
    out: Out = None,
    seed: Seed = 0,
    dtype: Dtype = "float32",
    device: Device = "cpu",
    offload: Offload = None,
) -> None:
    """Find induction heads: what each head attends to on repeated random tokens."""
    from layerwise.analyses.heads.api import head_scores as run

    _show(
        _call(
            run, (model, dtype, device, offload), sequences=sequences, length=length,
            threshold=threshold, seed=seed, out=out,
        ),
        out,
    )  # fmt: skip


@app.command()
def patch(
    model: ModelName,
    task: PairedTasks = None,
    site: Sites = ["resid_pre"],  # noqa: B006
    direction: Annotated[
        list[str], typer.Option("--direction", help="denoising or noising; repeatable.")
    ] = ["denoising"],  # noqa: B006
    position: Positions = None,
    kl: Annotated[bool, typer.Option("--kl", help="Also KL divergences; slower.")] = False,
    align: Annotated[
        bool, typer.Option("--align", help="Also pairs of unequal length, aligned; slower.")
    ] = False,
    pairs: Annotated[int, typer.Option(help="Pairs of prompts a task.")] = 16,
    out: Out = None,
    limit: Limit = None,
    seed: Seed = 0,
    fewshot: Fewshot = None,
    dtype: Dtype = "float32",
    device: Device = "cpu",
    offload: Offload = None,
    memory_budget: Budget = None,
) -> None:
    """Patch activations between a clean and a corrupted prompt, by layer, position and head."""
    from layerwise.analyses.patching.api import patch_activations as run

    _show(
        _call(
            run, (model, dtype, device, offload), task or None, sites=site, directions=direction,
            positions=position or None, kl=kl, align=align, pairs=pairs, limit=limit, seed=seed,
            fewshot=fewshot, out=out, memory_budget=_bytes(memory_budget),
        ),
        out,
    )  # fmt: skip


@app.command("path-patch")
def path_patch(
    model: ModelName,
    task: PairedTasks = None,
    receiver: Annotated[
        list[str],
        typer.Option(
            "--receiver",
            help="logits, mlp:6, or q:5.1, k:5.1, v:5.1; repeatable. Of an encoder-decoder "
            "mlp:encoder.6, q:decoder.5.1, cross_q:decoder.5.1, cross_k:..., cross_v:... .",
        ),
    ] = ["logits"],  # noqa: B006
    direction: Annotated[str, typer.Option(help="noising or denoising.")] = "noising",
    pairs: Annotated[int, typer.Option(help="Pairs of prompts a task.")] = 16,
    out: Out = None,
    limit: Limit = None,
    seed: Seed = 0,
    fewshot: Fewshot = None,
    dtype: Dtype = "float32",
    device: Device = "cpu",
    offload: Offload = None,
) -> None:
    """Find which heads and MLPs act on a receiver directly."""
    from layerwise.analyses.path_patching.api import patch_paths as run

    _show(
        _call(
            run, (model, dtype, device, offload), task or None, receiver, direction=direction,
            pairs=pairs, limit=limit, seed=seed, fewshot=fewshot, out=out,
        ),
        out,
    )  # fmt: skip


@app.command("attribution-patch")
def attribution_patch(
    model: ModelName,
    task: PairedTasks = None,
    site: Sites = [],  # noqa: B006
    direction: Annotated[str, typer.Option(help="denoising or noising.")] = "denoising",
    position: Positions = None,
    sample: Annotated[int, typer.Option(help="Cells a task and site that are patched.")] = 64,
    pairs: Annotated[int, typer.Option(help="Pairs of prompts a task.")] = 16,
    out: Out = None,
    limit: Limit = None,
    seed: Seed = 0,
    fewshot: Fewshot = None,
    dtype: Dtype = "float32",
    device: Device = "cpu",
    memory_budget: Budget = None,
) -> None:
    """Estimate all patches by gradients, and compare with true patches of a sample."""
    from layerwise.analyses.attribution_patching.api import attribute_patches as run

    _show(
        _call(
            run, (model, dtype, device, None), task or None, sites=site or None,
            direction=direction, positions=position or None, sample=sample, pairs=pairs,
            limit=limit, seed=seed, fewshot=fewshot, out=out, memory_budget=_bytes(memory_budget),
        ),
        out,
    )  # fmt: skip


@app.command()
def similarity(
    model: ModelName,
    task: Tasks = ["all"],  # noqa: B006
    protocol: Protocols = ["letter", "continuation"],  # noqa: B006
    out: Out = None,
    limit: Limit = None,
    seed: Seed = 0,
    fewshot: Fewshot = None,
    chat: Chat = False,
    dtype: Dtype = "float32",
    device: Device = "cpu",
    offload: Offload = None,
    memory_budget: Budget = None,
) -> None:
    """Compare the residual streams that enter and leave layers."""
    from layerwise.analyses.similarity.api import similarity as run

    _show(
        _call(
            run, (model, dtype, device, offload), task, protocol, limit=limit, seed=seed,
            fewshot=fewshot, chat=chat, out=out, memory_budget=_bytes(memory_budget),
        ),
        out,
    )  # fmt: skip


@app.command()
def remove(
    model: ModelName,
    task: Tasks,
    layers: Annotated[int, typer.Option("--layers", help="How many layers are removed.")],
    by: Annotated[
        list[str],
        typer.Option(help="greedy, block, effect, deep, angular or influence; repeatable."),
    ] = ["greedy"],  # noqa: B006
    protocol: Protocols = ["continuation"],  # noqa: B006
    held_out: Annotated[
        float, typer.Option(help="Share of the items that the search does not see.")
    ] = 0.5,
    out: Out = None,
    limit: Limit = None,
    seed: Seed = 0,
    fewshot: Fewshot = None,
    chat: Chat = False,
    dtype: Dtype = "float32",
    device: Device = "cpu",
    offload: Offload = None,
    method: Annotated[str, typer.Option(help="engine, or reference (slow).")] = "engine",
    memory_budget: Budget = None,
) -> None:
    """Find in which order layers can be removed, and what is left of the accuracy."""
    from layerwise.analyses.removal.api import removal_order as run

    found = _call(
        run, (model, dtype, device, offload), task, protocol, n_removed=layers, by=by,
        held_out=held_out, limit=limit, seed=seed, fewshot=fewshot, chat=chat, out=out,
        method=method, memory_budget=_bytes(memory_budget),
    )  # fmt: skip
    _show(found, out)
    _tell_work(found.work, "candidate, item and option")


@app.command()
def prune(
    model: ModelName,
    remove: Annotated[
        str,
        typer.Option("--remove", help="Which layers, e.g. 20-23, or encoder.3,decoder.1."),
    ],
    out: Annotated[
        Path,
        typer.Option(
            "--out", callback=_usable_folder, help="New folder for the model without them."
        ),
    ],
    task: Tasks = ["all"],  # noqa: B006
    protocol: Protocols = ALL_PROTOCOLS,
    limit: Limit = 10,
    seed: Seed = 0,
    fewshot: Fewshot = None,
    chat: Chat = False,
    dtype: Dtype = "float32",
    device: Device = "cpu",
    memory_budget: Budget = None,
) -> None:
    """Write a model without some layers, load it back, and compare it with the prediction."""
    from layerwise.analyses.pruning.api import TABLES
    from layerwise.analyses.pruning.api import prune_model as run

    found = _call(
        run, (model, dtype, device, None), _layers(remove), out, task, protocol,
        limit=limit, seed=seed, fewshot=fewshot, chat=chat, memory_budget=_bytes(memory_budget),
    )  # fmt: skip
    _show(found, out / TABLES)
    _say(f"Model: {out}")


@app.command()
def plan(
    model: ModelName,
    task: Annotated[
        list[str] | None,
        typer.Option("--task", "--tasks", help="As for the analysis, left out, too; repeatable."),
    ] = None,
    protocol: Annotated[
        list[str] | None,
        typer.Option("--protocol", help="As for the analysis, left out, too; repeatable."),
    ] = None,
    analysis: Annotated[
        str, typer.Option(help="ablation, lens, patching or profile.")
    ] = "ablation",
    kind: Annotated[str, typer.Option(help="Of the ablation, as for ablate.")] = "skip",
    site: Annotated[str | None, typer.Option(help="Of the ablation.")] = None,
    layers: Layers = None,
    limit: Limit = None,
    pairs: Annotated[int, typer.Option(help="Pairs of prompts a task for patching.")] = 16,
    exhaustive: Exhaustive = False,
    also: Also = [],  # noqa: B006
    seed: Seed = 0,
    fewshot: Fewshot = None,
    chat: Chat = False,
    dtype: Dtype = "float32",
    device: Device = "cpu",
    memory_budget: Budget = None,
    recalibrate: Annotated[
        bool, typer.Option("--recalibrate", help="Measure again how fast this machine is.")
    ] = False,
) -> None:
    """Say what a run would cost before it is made: work, memory, and time here."""
    from layerwise.planning.plan import plan_run as run

    found = run(
        model, task or None, protocol or None, analysis=analysis, kind=kind, site=site,
        layers=None if layers is None else _layers(layers), limit=limit, pairs=pairs,
        exhaustive=exhaustive, also=also, seed=seed, fewshot=fewshot, chat=chat, dtype=dtype,
        device=device, memory_budget=_bytes(memory_budget), recalibrate=recalibrate,
    )  # fmt: skip
    _say(str(found))


@app.command()
def report(
    folders: Annotated[list[Path], typer.Argument(help="Folders of finished runs.")],
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", callback=_usable_file, help="File to write; report.html in the first folder."
        ),
    ] = None,
) -> None:
    """Make the report again from saved results; several runs stand side by side."""
    from layerwise.report import report_from_folders

    path = out or folders[0] / "report.html"
    if is_folder(path.parent):  # otherwise it is told that there is no such run
        refuse_unusable_file(path)
    made = report_from_folders(list(folders))
    made.save(path)
    if len(folders) == 1:
        made.save_figures(path.parent / "figures")
    for finding in made.findings[:3]:
        _say(f"- {finding.sentence}")
    _say(f"Report: {path}")


@app.command()
def verify(
    folder: Annotated[Path, typer.Argument(help="Folder of a run, comparison or pruned model.")],
) -> None:
    """Check whether saved results are as they were written, file by file."""
    from layerwise.analyses.verifying import verify as run

    found = run(folder)
    for name, state in found.files.items():
        _say(f"{name}: {state}")
    if not found.ok:
        raise UserError(found.sentence)
    _say(found.sentence)


@app.command()
def compare(
    runs: Annotated[
        list[Path] | None, typer.Argument(help="Folders of two or more runs of different models.")
    ] = None,
    group: Annotated[
        list[str] | None,
        typer.Option(
            help="NAME=FOLDER,FOLDER,...: training seeds of one architecture; two or more groups."
        ),
    ] = None,
    out: Annotated[
        Path,
        typer.Option(
            "--out", callback=_usable_folder, help="Folder for the page, tables and figures."
        ),
    ] = Path("comparison"),
    seed: Annotated[int, typer.Option(help="Decides the bootstrap over items.")] = 0,
    resamples: Annotated[int, typer.Option(help="Number of bootstrap samples.")] = 10_000,
) -> None:
    """Test what differs between saved runs of different models, or between groups of them."""
    from layerwise.analyses.comparison.api import compare as run
    from layerwise.analyses.comparison.api import runs_or_groups
    from layerwise.analyses.comparison.report import caution

    found = run(runs_or_groups(runs or [], group or []), seed=seed, n_resamples=resamples)
    page = found.save(out)
    _say(repr(found))
    for finding in found.established()[:5]:
        _say(f"- {finding.sentence}")
    _say(caution(found))
    _say(f"Comparison: {page}")


def _default_folder(model: str) -> Path:
    """Where a profile goes if nobody says; resolved, so that ``.`` has a name too."""
    return Path("runs") / Path(model).expanduser().resolve().name


def _call(
    function: Callable[..., _Made],
    named: tuple[str, str, str, str | None],
    *args: Any,
    **kwargs: Any,
) -> _Made:
    """Call a public function with a model, which is not loaded for what would be refused."""
    from layerwise.ground.arguments import check_ahead

    check_ahead(function, *args, **kwargs)
    return function(_load(*named), *args, **kwargs)


def _load(name: str, dtype: str, device: str, offload: str | None) -> Any:
    from layerwise.models import load_model

    model = load_model(name, dtype=dtype, device=device, offload=offload)
    settle()
    return model


def _numbers(text: str, named: str) -> list[int]:
    """Heads, layers or other numbers from ``0-5,9``."""
    found: list[int] = []
    for piece in text.split(","):
        match = re.fullmatch(r"([0-9]{1,4})(?:-([0-9]{1,4}))?", piece.strip())
        if match is None:
            raise UserError(
                f"Cannot read {named} {text!r}: expected numbers and ranges like 0-5,9."
            )
        first, last = match.groups()
        found += range(int(first), int(last or first) + 1)
    return found


def _layers(text: str) -> list[int | str]:
    """Layers from ``0-5,9``, or from ``encoder.0-3,decoder.2``."""
    found: list[int | str] = []
    for piece in text.split(","):
        stack, dot, numbers = piece.strip().rpartition(".")
        if dot and stack not in ("encoder", "decoder"):
            raise UserError(
                f"Cannot read layers {text!r}: expected numbers and ranges like 0-5,9, or of an "
                "encoder-decoder encoder.0-3,decoder.2."
            )
        found += [f"{stack}.{n}" if dot else n for n in _numbers(numbers, "layers")]
    return found


def _positions(text: str) -> str | list[int]:
    """Positions from ``-3,-1``; ``all`` as it is."""
    if text.strip() == "all":
        return "all"
    try:
        return [int(piece) for piece in text.split(",")]
    except ValueError as error:
        raise UserError(
            f"Cannot read positions {text!r}: expected negative numbers such as -1 or -3,-2,-1, "
            "counted from the end of the prompt, or all."
        ) from error


def _bytes(text: str | None) -> int | None:
    if text is None:
        return None
    from pydantic import ByteSize, TypeAdapter, ValidationError

    try:
        return int(TypeAdapter(ByteSize).validate_python(text))
    except ValidationError as error:
        raise UserError(
            f"Cannot read the memory budget {text!r}: expected a size such as 2GiB or 500MB."
        ) from error


def _tell_work(work: dict[str, float], each: str) -> None:
    """How much less was done than one forward for each pair of change and request."""
    if work["token_passes"]:
        ratio = work["brute_force_token_passes"] / work["token_passes"]
        _say(
            f"Work: {ratio:.1f} times fewer token-passes through a layer than one forward per "
            f"{each}; {work['seconds']:.0f} s in sweeps."
        )
    if "brute_force_seconds" in work:
        faster = work["brute_force_seconds"] / work["seconds"]
        _say(
            f"That was some {faster:.0f} times faster than one plain hooked forward per {each}, "
            f"which would have taken about {work['brute_force_seconds']:,.0f} s, as timed on a few."
        )


def _show(result: Result, out: Path | None) -> None:
    """A result's compact table, what was planned and what it took, and where its data lie."""
    from rich.console import Console
    from rich.table import Table

    table = result.summary_rows()
    shown = Table(title=_text(repr(result)), title_justify="left")
    for column in table.columns:
        shown.add_column(_text(column), overflow="fold")
    for row in table.itertuples(index=False):
        shown.add_row(*(_text("" if value is None else value) for value in row))
    # What is not read on a terminal is not cut to its width.
    console = Console(width=None if sys.stdout.isatty() else WIDE)
    console.print(shown if len(table) else _text(f"{result!r}\n{result.if_empty}"))
    _tell_planned(result)
    if out is not None:
        _say(f"Tables: {out}")


def _text(value: object) -> Any:
    """A cell as ``Text``, for rich would read square brackets in names as its own markup."""
    from rich.text import Text

    return Text(printable(str(value), lines=True))


def _tell_planned(result: Result) -> None:
    """What was planned and what it took, in one line."""
    from layerwise.runs.records import planned_and_actual

    line = planned_and_actual(result.facts.work)
    if line is not None:
        _say(line)


def _show_warning(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, *more: Any
) -> None:  # fmt: skip
    """Print this package's warnings as one line; those of others as Python does."""
    if category in (MadeAgainWarning, UnusedSettingsWarning):
        _say(f"layerwise: {message}", err=True)
    else:
        sys.stderr.write(warnings.formatwarning(message, category, filename, lineno))


def main() -> None:
    """Run the command line; a user's mistake is one sentence and exit code 2."""
    collect_rarely()
    work_beside()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("always", MadeAgainWarning)
            warnings.simplefilter("always", UnusedSettingsWarning)
            warnings.showwarning = _show_warning
            app()
    except UserError as error:
        _say(f"layerwise: {error}", err=True)
        sys.exit(2)
