"""Attention scores of each head on repeated random tokens (induction heads).

After the second occurrence of a token an induction head attends to what followed the first
(Olsson et al. 2022, arXiv:2209.11895). Definitions are in ``docs/heads.md``; no task is asked.
What heads attend to is read in ``scoring``.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any, Unpack

import numpy as np
import pandas as pd

from layerwise.analyses.arguments import check_arguments
from layerwise.analyses.execute import execute
from layerwise.errors import UserError
from layerwise.ground.argument_types import Seed
from layerwise.models import LoadedFacts, model_facts
from layerwise.models.arguments import LoadedModel
from layerwise.models.huggingface.originals import refuse_nonfinite
from layerwise.models.instance.exclusive import exclusive
from layerwise.models.instance.facts import refuse_changed_weights
from layerwise.models.instance.kinds import Model
from layerwise.runs.checkpoints import CheckpointStore, table_rows
from layerwise.runs.executors import LOCAL, Executor, WorkUnit, make_missing
from layerwise.runs.options import WorkOptions
from layerwise.runs.progress import Meter
from layerwise.runs.setup import run_model_facts
from layerwise.storage.parquet import conform, refuse_too_many_rows
from layerwise.storage.provenance import Facts
from layerwise.storage.schemas import SCHEMAS
from layerwise.sweep.checks.faithful import check_faithful, refuse_states

from .result import HeadsResult
from .scoring import SHORTEST, RepeatedSequence, RepeatedTokens, head_scores_of_sequence

SEQUENCES, LENGTH, THRESHOLD = 20, 50, 0.4


def refuse_scores(sequences: int, threshold: float) -> None:
    """Refuse scores on no sequence, and a threshold that is no share of attention."""
    if sequences < 1:
        raise UserError(
            f"{sequences} sequences were asked for; expected at least 1, so ask for more."
        )
    if not 0 <= threshold < 1:
        raise UserError(f"The threshold is {threshold}; expected 0 or more, below 1.")


@check_arguments(refuse_scores)
@exclusive
def head_scores(
    model: LoadedModel,
    *,
    sequences: int = 20,
    length: int | None = None,
    threshold: float = 0.4,
    seed: Seed = 0,
    **run: Unpack[WorkOptions],
) -> HeadsResult:
    """Find induction heads: where each head attends on repeated random tokens.

    Every head's attention is scored on random tokens that are repeated once. In an
    encoder-decoder three kinds of attention are scored, each where a sequence stands twice: the
    encoder's, twice in its input; the decoder's self-attention, twice in what the decoder is
    given, of which nothing is in the input; and cross-attention, once in each.

    Args:
        sequences: number of random sequences.
        length: tokens of each sequence before it is repeated, all different; 50 if None, or fewer
            if the model takes no more.
        threshold: a head of self-attention is an induction head if the 95 % interval of its
            prefix-matching score lies above this.

    Returns:
        One row per sequence, kind of attention and head.

    Raises:
        UserError: for anything out of range, or a model whose vocabulary or context is too small.
    """
    refuse_states(model)
    loaded = model_facts(model)
    refuse_nonfinite(loaded.name, model)
    check_faithful(model)
    maker = run["executor"] or LOCAL
    maker.admit(model)
    job = fitting_heads(model, loaded, threshold, seed, sequences, length, maker)
    settings = job.settings()
    (result,) = execute(
        lambda parts, progress: [job.run(parts, settings, progress)],
        (HeadsResult,), run["out"], settings, partial(refuse_changed_weights, loaded, model),
        run["progress"],
    )  # fmt: skip
    return result


def fitting_heads(
    model: Model,
    loaded: LoadedFacts,
    threshold: float,
    seed: int,
    sequences: int = SEQUENCES,
    length: int | None = None,
    executor: Executor = LOCAL,
) -> Heads:
    """Planned scores; on sequences of the usual length, or the longest that fits, if it is None."""
    first = SHORTEST if length is None else length
    job = Heads(model, loaded, sequences, first, threshold, seed, executor)
    return replace(job, length=min(LENGTH, job.token_format.longest)) if length is None else job


@dataclass(frozen=True)
class Heads:
    """Planned scores; all sequences are one piece."""

    model: Model
    loaded: LoadedFacts
    sequences: int
    length: int
    threshold: float
    seed: int
    executor: Executor = field(default=LOCAL, repr=False, compare=False)

    def __post_init__(self) -> None:
        refuse_scores(self.sequences, self.threshold)
        cfg = self.model.cfg
        what = f"{self.sequences:,} sequences of every head"
        refuse_too_many_rows("heads", self.sequences * cfg.n_layers * cfg.n_heads, what)
        self.token_format.refuse(self.length)

    @cached_property
    def token_format(self) -> RepeatedTokens:
        """Format in which tokens are put to the model."""
        return RepeatedTokens.for_model(self.model)

    def settings(self) -> dict[str, Any]:
        """Everything that a run must agree in to be the same run, as plain JSON values."""
        return {
            "analysis": "head scores",
            "model": self.loaded.name,
            "model_hash": self.loaded.hash,
            "source_hash": self.loaded.source_hash,
            "dtype": self.loaded.dtype,
            "device": self.loaded.device,
            "sequences": self.sequences,
            "length": self.length,
            "threshold": self.threshold,
            "seed": self.seed,
        }

    def run(self, parts: CheckpointStore, settings: dict[str, Any], progress: Meter) -> HeadsResult:
        """Score all sequences, unless that was done before."""
        each, names = self._amount(), ("heads work", "heads")
        work = WorkUnit(names, "scoring heads", each * self.sequences, (), reports=True)
        make_missing(self.executor, parts, progress, [work], partial(self._tables, progress))
        work = parts.read_part("heads work").to_dict("records")
        facts = Facts(
            model=run_model_facts(self.loaded, self.model), tasks=(), protocols=(), seed=self.seed,
            settings=self.settings() | settings, work=tuple(work),
        )  # fmt: skip
        return HeadsResult(table_rows(parts, "heads", ["heads"]), facts)

    def _amount(self) -> float:
        """Operations of a sequence and its repetition: two for each parameter and token."""
        return float(2 * self.loaded.n_parameters * 2 * self.length)

    def _tables(self, progress: Meter) -> dict[str, pd.DataFrame]:
        """The scores on all sequences, and what they took."""
        started, tables = time.perf_counter(), []
        for number, drawn in enumerate(self.drawn_sequences()):
            for one in head_scores_of_sequence(self.model, self.token_format, drawn):
                layer, head = np.indices(one.scores["prefix_matching"].shape)
                columns = {name: values.ravel() for name, values in one.scores.items()}
                place = {"layer": one.first + layer.ravel(), "head": head.ravel()}
                named = {"sequence": number, "site": one.site}
                tables.append(pd.DataFrame({**named, **place, **columns}))
            progress.add_work(self._amount())
        took = {"analysis": "head scores", "seconds": time.perf_counter() - started}
        # scores that a kind of attention does not have are null
        scores = pd.concat(tables, ignore_index=True).reindex(columns=SCHEMAS["heads"].names)
        scores = conform("heads", scores)
        return {"heads work": pd.DataFrame([took]), "heads": scores}

    def drawn_sequences(self) -> list[RepeatedSequence]:
        """The sequences, before they are repeated."""
        return self.token_format.draw_sequences(self.sequences, self.length, self.seed)
