"""Pruning: write a model without some of its layers, and see whether it does what was predicted.

Predicted is what the intact model does with these layers skipped; measured is what the written
model does once it is loaded back. The files are written in ``models.files``.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Unpack

import pandas as pd

from layerwise.analyses.ablation.job import ITEMS_AT_ONCE
from layerwise.analyses.arguments import Protocols, Tasks, check_arguments
from layerwise.analyses.execute import execute
from layerwise.analyses.shared.written_model import TABLES as TABLES
from layerwise.analyses.shared.written_model import (
    refuse_occupied_folder,
    remove_model,
    write_model,
)
from layerwise.errors import UserError
from layerwise.ground.argument_types import Layers
from layerwise.ground.layer_names import spans, stack_name
from layerwise.models import weights_hash
from layerwise.models.arguments import LoadedModel
from layerwise.models.conversion.parity import ABSURD, TOLERANCE
from layerwise.models.files.written_folder import write_pruned_folder
from layerwise.models.huggingface.folder import read_config
from layerwise.models.huggingface.parity_text import token_ids
from layerwise.models.instance.exclusive import exclusive
from layerwise.models.instance.kinds import Model, is_seq2seq, n_encoder_layers
from layerwise.models.libraries.quiet import quiet
from layerwise.models.own_files import load_like, model_folder, stored_stacks
from layerwise.runs.checkpoints import CheckpointStore, table_rows
from layerwise.runs.controls import item_requests
from layerwise.runs.folder import RunFolder
from layerwise.runs.options import PromptOptions
from layerwise.runs.pieces import joined_work
from layerwise.runs.progress import Meter
from layerwise.runs.records import record_rows, work_entry
from layerwise.runs.setup import Setup, check_layers, prepare
from layerwise.storage.parquet import conform, frame
from layerwise.storage.places import OutputFolder
from layerwise.sweep import Intervention, LogLikelihood, Scored, intact, skip_layers, sweep
from layerwise.sweep.checks.rounding import distance, measure_rounding
from layerwise.tasks import Task
from layerwise.tasks.items import Item

from .result import PruningResult


@check_arguments()
@exclusive
def prune_model(
    model: LoadedModel,
    remove: Layers,
    out: OutputFolder,
    tasks: Tasks = "all",
    protocols: Protocols = ("letter", "continuation", "generate"),
    **prompts: Unpack[PromptOptions],
) -> PruningResult:
    """Write a model without some layers, load it back, and compare it with the prediction.

    It is written as a Hugging Face folder, which has the original's weights as they are stored
    there, with layers numbered anew, a configuration with fewer layers, and the tokenizer. It is
    loaded back, compared with its own Hugging Face model as every model at load, and with the
    intact model that skips these layers: on a fixed text, where they must agree, and on the
    tasks' items.

    Args:
        model: a model from ``load_model``, with the weights that it was loaded with.
        remove: the layers to leave out, from 0, or of an encoder-decoder their addresses, such
            as ``encoder.3``; not all, of neither stack.
        out: the folder to write; it must not exist or be empty, or be that of the same call,
            which goes on there after an interruption. The comparison goes into its folder
            ``compared``.
        tasks: task names, capabilities, JSONL files, or ``Task`` values to try it on.

    Returns:
        One row per task, protocol and item: the intact model, the prediction, the written model.

    Raises:
        UserError: if there are no files to write from, the layers are not some of the model's,
            the folder cannot be written, or the written model is not what was predicted; then
            nothing is left in ``out``.
    """
    out = Path(out)
    removed = _removable(model, remove)
    source = model_folder(model)
    refuse_occupied_folder(out)
    setup = prepare(model, tasks, protocols, out=out / TABLES, **prompts)
    settings = setup.settings(analysis="pruning", removed=list(removed))
    files: dict[str, str] = {}

    def make(run: CheckpointStore, _: Meter) -> list[PruningResult]:
        assert isinstance(run, RunFolder)
        written, of_model = _write_and_check(model, source, removed, out, setup, run)
        files.update(of_model)
        facts = settings | {"written_hash": weights_hash(written)}
        return [_compare_models(setup, facts, removed, written, run)]

    (result,) = execute(
        make, (PruningResult,), out / TABLES, settings, setup.refuse_changed, False, beside=files
    )  # fmt: skip
    return result


def _removable(model: Model, remove: Sequence[int | str]) -> tuple[int, ...]:
    n_encoder, removed = n_encoder_layers(model), tuple(sorted(check_layers(remove, model)))
    for first, last in spans(n_encoder, model.cfg.n_layers):
        if set(range(first, last + 1)) <= set(removed):
            of = f" of the {stack_name(first, n_encoder)}" if n_encoder else ""
            raise UserError(
                f"All {last + 1 - first} layers{of} would be removed: expected that at least one "
                "stays; name fewer."
            )
    return removed


def _write_and_check(
    model: Model, source: Path, removed: Sequence[int], out: Path, setup: Setup, run: RunFolder
) -> tuple[Model, dict[str, str]]:
    """The written model, loaded back and tried, and its files' SHA-256; nothing if it fails."""

    def write(place: Path) -> None:
        with quiet():
            config = read_config(source)
        write_pruned_folder(source, config, removed, place, stored_stacks(model))

    files: dict[str, str] = {}
    try:
        files = write_model(run, out, write)
        written = load_like(out, model)
        _refuse_other_model(model, written, removed, setup)
    except UserError:
        remove_model(out, files)
        raise
    return written, files


def _refuse_other_model(model: Model, written: Model, removed: Sequence[int], setup: Setup) -> None:
    """Accept only a written model that says what was predicted, on a fixed text."""
    requests, single = [_fixed_text(model, setup)], setup.loaded.dtype == "float32"

    def score_change(model: Model, change: Intervention) -> Scored:
        ((outcome,),) = sweep(
            model, [change], requests, tokenizer=setup.tokenizer,
            memory_budget=setup.memory_budget,
        ).outcomes  # fmt: skip
        assert isinstance(outcome, Scored)
        return outcome

    predicted, measured = score_change(model, skip_layers(removed)), score_change(written, intact())
    apart, limit = distance(predicted, measured), TOLERANCE if single else ABSURD
    if apart > limit and single:
        # Without some layers small differences grow.
        rounding = measure_rounding(written, intact(), requests)
        limit = max(limit, rounding.error_bound)
        apart = max(rounding.error([logits]) for logits in (predicted, measured))
    if not apart <= limit:
        raise UserError(
            "The written model is not the original without these layers: log-probabilities differ "
            f"by up to {apart:.3g} nats, expected at most {limit:.3g}, rounding "
            "allowed for; so these layers cannot be left out of this model's files."
        )


def _fixed_text(model: Model, setup: Setup) -> LogLikelihood:
    """All of a text to a decoder but its first token; half of it where there is an encoder."""
    ids = token_ids(setup.tokenizer, model.cfg.n_ctx)
    if not is_seq2seq(model):
        return LogLikelihood((ids[0],), tuple(ids[1:]))
    half = len(ids) // 2
    # A decoder may have fewer words than the encoder.
    continuation = [index % model.cfg.d_vocab for index in ids[half:]]
    return LogLikelihood(tuple(ids[:half]), tuple(continuation))


def _compare_models(
    setup: Setup, settings: dict[str, Any], removed: Sequence[int], written: Model, run: RunFolder
) -> PruningResult:
    """The tasks' items put to the intact model, to it without the layers, and to the written."""
    names = []
    for task in setup.tasks:
        for start in range(0, len(task.items), ITEMS_AT_ONCE):
            items = task.items[start : start + ITEMS_AT_ONCE]
            names.append(f"{task.name} {items[0].id}")
            if not run.has_part(f"pruning {names[-1]}", f"pruning work {names[-1]}"):
                table, work = _measure_items(setup, task, items, removed, written)
                run.write_part(f"pruning work {names[-1]}", pd.DataFrame(work))
                run.write_part(f"pruning {names[-1]}", table)
    work = joined_work([run.read_part(f"pruning work {name}") for name in names])
    table = table_rows(run, "pruning", [f"pruning {name}" for name in names])
    return PruningResult(table, setup.facts(settings, work))


def _measure_items(
    setup: Setup, task: Task, items: Sequence[Item], removed: Sequence[int], written: Model
) -> tuple[pd.DataFrame, list[dict[str, Any]]]:
    """Some items under the three models, and what that cost."""
    task_requests = item_requests(setup, task, items, setup.protocols)
    requests = [request.request for request in task_requests]
    changes = [intact(), skip_layers(removed)]
    swept = setup.sweep(changes, requests)
    again = sweep(
        written, [intact()], requests, tokenizer=setup.tokenizer,
        memory_budget=setup.memory_budget, tokens_at_once=setup.tokens_at_once,
    )  # fmt: skip
    before = frame("records", list(record_rows(task, items, task_requests, changes, swept)))
    after = frame("records", list(record_rows(task, items, task_requests, [intact()], again)))
    work = [work_entry("pruning", task.name, request.stats) for request in (swept, again)]
    skipped, key = before["kind"] == "skip", ["task", "capability", "item", "protocol"]
    parts = {"intact": before.loc[~skipped], "predicted": before.loc[skipped], "measured": after}
    plain, predicted, measured = (
        part.set_index(key)[["correct", "gold_logprob", "generated"]].add_prefix(f"{name}_")
        for name, part in parts.items()
    )
    return conform("pruning", plain.join(predicted).join(measured).reset_index()), work
