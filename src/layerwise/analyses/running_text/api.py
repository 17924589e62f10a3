"""Likelihood of running text under every change of layers, and next tokens that stay the same."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Unpack

import pandas as pd

from layerwise.analyses.arguments import check_arguments
from layerwise.analyses.execute import execute_job
from layerwise.analyses.shared.texts import read_texts
from layerwise.errors import UserError
from layerwise.ground.argument_types import MemoryBudget, Names, Seed, known_name_validator
from layerwise.ground.readers import AnyPath
from layerwise.models.arguments import LoadedModel
from layerwise.models.instance.exclusive import exclusive
from layerwise.models.instance.kinds import Model, is_seq2seq
from layerwise.runs.checkpoints import CheckpointStore, table_rows
from layerwise.runs.executors import WorkUnit, make_missing
from layerwise.runs.options import WorkOptions
from layerwise.runs.pieces import joined_work
from layerwise.runs.progress import Meter
from layerwise.runs.records import planned_work, work_entry
from layerwise.runs.setup import Setup, prepare_model
from layerwise.storage.parquet import frame
from layerwise.sweep import Intervention, LogLikelihood, intact, skip, swap_layers
from layerwise.sweep.plans.cost import Cost
from layerwise.sweep.requests import Generated, Scored

from .pieces import BUILT_IN, Piece, pieces_hash, read_pieces
from .result import CHANGES, SKIP, SWAP, TextLossResult

PIECES = 100
ChangeNames = Annotated[Names, known_name_validator("change", CHANGES)]
"""Names of changes: ``skip``, ``swap``."""


def refuse_text(
    text: AnyPath | None = None, pieces: int = PIECES, changes: ChangeNames = CHANGES
) -> None:
    """Refuse no change, a file without texts, and too few pieces to see how much they differ."""
    if not changes:
        raise UserError(
            f"Argument 'changes' is empty: expected {' or '.join(CHANGES)}; name at least one."
        )
    if pieces < 2:
        raise UserError(
            f"{pieces} pieces of text were asked for; expected 2 at least, as intervals are over "
            "pieces: ask for more."
        )
    if text is not None:
        read_texts(Path(text))


@check_arguments(refuse_text)
@exclusive
def text_loss(
    model: LoadedModel,
    *,
    text: AnyPath | None = None,
    changes: ChangeNames = CHANGES,
    pieces: int = PIECES,
    seed: Seed = 0,
    memory_budget: MemoryBudget | None = None,
    **run: Unpack[WorkOptions],
) -> TextLossResult:
    """Measure what running text loses without each layer, and with neighbouring layers swapped.

    For each piece of text and each change: the bits lost per byte, and the share of positions at
    which the most likely next token stays the same (Lad et al. 2024, arXiv:2406.19384). No task is
    asked. ``docs/running_text.md`` has the formulas.

    Args:
        text: a ``.txt`` file with a blank line between texts, or a ``.jsonl`` file with a field
            ``text``; English prose that comes with the package if None.
        changes: ``skip``, to leave each layer out, and ``swap``, to exchange each with the next.
        pieces: at most so many pieces of 128 tokens at most; drawn by the seed if there are more.

    Returns:
        One row per piece and change: ``text_loss``; means over pieces: ``effects()``.

    Raises:
        UserError: for an encoder-decoder, a text that is too short, layers of which no two can be
            swapped, and anything unknown or out of range, before work begins.

    Example:
        >>> result = layerwise.text_loss(model)  # doctest: +SKIP
        >>> result.effects()[["kind", "layer", "bits", "low", "high", "agree"]]  # doctest: +SKIP
    """
    refuse_text(text, pieces, changes)
    setup = prepare_model(model, seed=seed, memory_budget=memory_budget, **run)
    job = TextLoss.for_setup(setup, None if text is None else Path(text), tuple(changes), pieces)
    return execute_job(job, TextLossResult, "text loss", run)


@dataclass(frozen=True)
class TextLoss:
    """A planned reading of text under changes; a work unit for each piece."""

    setup: Setup
    kinds: tuple[str, ...]
    pieces: tuple[Piece, ...]
    source: str
    # Layers that cannot change places with the next one, and why.
    not_swapped: Mapping[int, str]

    @classmethod
    def for_setup(
        cls, setup: Setup, text: Path | None, kinds: tuple[str, ...], most: int = PIECES
    ) -> TextLoss:
        """Of a setup, whose tasks are not asked."""
        if is_seq2seq(setup.model):
            raise UserError(
                "Running text is read by a model that goes on with it, and this one is an "
                "encoder-decoder: expected a decoder-only model; name another model."
            )
        refused = refused_swaps(setup.model) if SWAP in kinds else {}
        if SWAP in kinds and len(refused) == setup.model.cfg.n_layers - 1:
            first = next(iter(refused.values()), "The model has one layer, and nothing to swap.")
            raise UserError(f"{first} Changes of kind 'skip' alone are possible.")
        pieces = read_pieces(setup, text, most)
        source = BUILT_IN if text is None else text.name
        return cls(setup, kinds, pieces, source, refused)

    def settings(self) -> dict[str, Any]:
        """Settings that make it this reading and no other, beside its set-up."""
        return {
            "text": self.source,
            "text_hash": pieces_hash(self.pieces),
            "pieces": len(self.pieces),
            "changes": list(self.kinds),
            "not_swapped": list(self.not_swapped),
        }

    def run(
        self, parts: CheckpointStore, settings: dict[str, Any], progress: Meter
    ) -> TextLossResult:
        """Read the pieces that are missing, and join all of them."""
        works = []
        for piece, cost in zip(self.pieces, self._costs, strict=True):
            names = (f"text work {piece.name}", f"text {piece.name}")
            works.append(WorkUnit(names, "reading text", cost.amount, (piece, cost)))
        make_missing(self.setup.executor, parts, progress, works, self._tables)
        work = joined_work([parts.read_part(unit.names[0]) for unit in works])
        table = table_rows(parts, "text_loss", [unit.names[1] for unit in works])
        return TextLossResult(table, self.setup.facts(settings, work))

    def amount(self) -> float:
        """The work of all pieces."""
        return sum((cost.amount for cost in self._costs), start=0.0)

    def _changes(self) -> list[Intervention]:
        """The intact model, then all changes."""
        model, layers = self.setup.model, range(self.setup.model.cfg.n_layers)
        changes = [intact()]
        if SKIP in self.kinds:
            changes += [skip(layer) for layer in layers]
        if SWAP in self.kinds:
            changes += [swap_layers(model, at) for at in layers[:-1] if at not in self.not_swapped]
        return changes

    @cached_property
    def _costs(self) -> tuple[Cost, ...]:
        """Expected cost of each piece: that of the intact model alone, and of all changes."""
        # The positions at which a token is asked for are those at which the piece is scored.
        cost, changes = self.setup.cost, self._changes()
        return tuple(
            cost(None, [intact()], piece.next_tokens()) + cost(None, changes, [piece.likelihood()])
            for piece in self.pieces
        )

    def _tables(self, piece: Piece, cost: Cost) -> dict[str, pd.DataFrame]:
        """The rows of a piece, and what they took."""
        started = time.perf_counter()
        alone = self.setup.sweep([intact()], piece.next_tokens())
        likely = [outcome.tokens for outcome in alone.outcomes[0] if isinstance(outcome, Generated)]
        # Where the intact model would end the text there is no next token.
        asked = [
            LogLikelihood(prefix, tokens)
            for prefix, tokens in zip(piece.prefixes(), likely, strict=True)
            if tokens
        ]
        changes = self._changes()
        swept = self.setup.sweep(changes, [piece.likelihood(), *asked])
        rows = [
            _row(piece, change, outcomes[0], outcomes[1:])
            for change, outcomes in zip(changes, swept.outcomes, strict=True)
        ]
        entry = work_entry("text loss", "running text", alone.stats + swept.stats)
        entry["seconds"] = time.perf_counter() - started
        work = pd.DataFrame([entry | planned_work(cost)])
        return {f"text work {piece.name}": work, f"text {piece.name}": frame("text_loss", rows)}


def refused_swaps(model: Model) -> dict[int, str]:
    """Reasons why layers cannot change places with the next one, by the first of the two."""
    refused = {}
    for layer in range(model.cfg.n_layers - 1):
        try:
            swap_layers(model, layer)
        except UserError as error:
            refused[layer] = str(error)
    return refused


def _row(
    piece: Piece, change: Intervention, scored: Any, next_tokens: Sequence[Any]
) -> dict[str, Any]:
    """One piece under one change."""
    assert isinstance(scored, Scored)
    same = [outcome.greedy for outcome in next_tokens]
    return {
        "intervention": change.id,
        "kind": change.kind,
        "layer": change.layer,
        "piece": piece.number,
        "cluster": piece.cluster,
        "n_bytes": piece.n_bytes,
        "n_tokens": len(piece.scored),
        "nats": -scored.logprob,
        "n_positions": len(same),
        "agree": sum(same) / len(same) if same else None,
    }
