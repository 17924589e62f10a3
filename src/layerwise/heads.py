"""Which heads attend as induction heads do, on random tokens that are repeated.

After the second occurrence of a token an induction head attends to what followed the first
(Olsson et al. 2022, arXiv:2209.11895). Definitions are in ``docs/heads.md``; no task is asked.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from transformer_lens import HookedTransformer

from layerwise import stats
from layerwise._carry_out import carry_out
from layerwise._direct import direct, read_differences
from layerwise._facts import Facts, ModelFacts
from layerwise._parts import Parts
from layerwise._progress import Meter
from layerwise._setup import refuse_two_stacks
from layerwise._tables import conform
from layerwise.errors import UserError
from layerwise.models import LoadedFacts, model_facts, original_tokenizer
from layerwise.models.kinds import Model
from layerwise.models.originals import refuse_nonfinite
from layerwise.results import HeadsResult
from layerwise.sweep.blocks import attention_in_use
from layerwise.sweep.last_sites import LastSites
from layerwise.sweep.readout import uncapped_logits_of

SEQUENCES, LENGTH, THRESHOLD = 20, 50, 0.4
SHORTEST = 2
Scores = Float[np.ndarray, "layer head"]


def head_scores(
    model: Model,
    *,
    sequences: int = SEQUENCES,
    length: int | None = None,
    threshold: float = THRESHOLD,
    seed: int = 0,
    out: str | Path | None = None,
    progress: bool = True,
) -> HeadsResult:
    """Score every head's attention on random tokens that are repeated once.

    Args:
        model: the model.
        sequences: how many sequences are tried.
        length: tokens of each before it is repeated, all different; 50 if None, or fewer where
            the model takes no more.
        threshold: a head is called an induction head if the 95 % interval of its prefix-matching
            score lies above this.
        seed: decides the tokens and all bootstraps.
        out: folder for ``heads.parquet`` and ``run.json``; None keeps all in memory.
        progress: show a progress bar on a terminal.

    Returns:
        One row per sequence and head.

    Raises:
        UserError: for anything out of range, or a model whose vocabulary or context is too small.
    """
    refuse_two_stacks(model)
    assert isinstance(model, HookedTransformer), "all others were refused"
    loaded = model_facts(model)
    refuse_nonfinite(loaded.name, model)
    job = (
        fitting_heads(model, loaded, threshold, seed, sequences)
        if length is None
        else Heads(model, loaded, sequences, length, threshold, seed)
    )
    settings = job.settings()
    (result,) = carry_out(
        lambda parts, told: [job.run(parts, settings, told)], out, settings, progress
    )
    return result


def fitting_heads(
    model: HookedTransformer,
    loaded: LoadedFacts,
    threshold: float,
    seed: int,
    sequences: int = SEQUENCES,
) -> Heads:
    """Planned scores on sequences of the usual length, or the longest that the model takes."""
    tried = Heads(model, loaded, sequences, SHORTEST, threshold, seed)
    return replace(tried, length=min(LENGTH, tried.longest()))


@dataclass(frozen=True)
class Heads:
    """Planned scores; all sequences are one piece."""

    model: HookedTransformer
    loaded: LoadedFacts
    sequences: int
    length: int
    threshold: float
    seed: int

    def __post_init__(self) -> None:
        if self.sequences < 1:
            raise UserError(
                f"{self.sequences} sequences were asked for; expected at least 1, so ask for more."
            )
        if self.length < SHORTEST:
            raise UserError(
                f"Sequences of length {self.length} were asked for; expected at least {SHORTEST} "
                "tokens to repeat, so ask for more."
            )
        if not 0 <= self.threshold < 1:
            raise UserError(f"The threshold is {self.threshold}; expected 0 or more, below 1.")
        if self.seed < 0:
            raise UserError(f"The seed is {self.seed}; expected 0 or a positive whole number.")
        needed, room = len(self._start()) + 2 * self.length, self.model.cfg.n_ctx
        if needed > room:
            raise UserError(
                f"Sequences of {self.length} tokens need {needed} when they are repeated, but the "
                f"model takes {room}; choose a length of {self.longest()} at most."
            )
        if len(self._tokens()) < self.length:
            raise UserError(
                f"Sequences of {self.length} different tokens were asked for, but the vocabulary "
                f"has {len(self._tokens())}; choose a length of {self.longest()} at most."
            )

    def longest(self) -> int:
        """The longest sequence that can be repeated within the context, of different tokens."""
        room = self.model.cfg.n_ctx - len(self._start())
        return min(room // 2, len(self._tokens()))

    def settings(self) -> dict[str, Any]:
        """Everything that a run must agree in to be the same run, as plain JSON values."""
        return {
            "analysis": "head scores",
            "model": self.loaded.name,
            "model_hash": self.loaded.hash,
            "dtype": self.loaded.dtype,
            "device": self.loaded.device,
            "sequences": self.sequences,
            "length": self.length,
            "threshold": self.threshold,
            "seed": self.seed,
        }

    def run(self, parts: Parts, settings: dict[str, Any], told: Meter) -> HeadsResult:
        """Score all sequences, unless that was done before."""
        told.expect(float(self.sequences))
        told.doing("head scores")
        if not parts.has_part("heads"):
            started, tables = time.perf_counter(), []
            for number, tokens in enumerate(self.drawn()):
                tables.append(self._rows(number, tokens))
                told.done(1.0)
            took = {"analysis": "head scores", "seconds": time.perf_counter() - started}
            parts.write_part("heads work", pd.DataFrame([took]))
            parts.write_part("heads", conform("heads", pd.concat(tables, ignore_index=True)))
        work = parts.read_part("heads work").to_dict("records")
        facts = self._facts(self.settings() | settings, work)
        return HeadsResult(parts.read_part("heads"), facts)

    def _facts(self, settings: dict[str, Any], work: list[dict[Any, Any]]) -> Facts:
        names = [name for name in ModelFacts.model_fields if name != "attention"]
        fields = {name: getattr(self.loaded, name) for name in names}
        return Facts(
            model=ModelFacts(attention=attention_in_use(self.model), **fields),
            tasks=(), protocols=(), seed=self.seed, settings=settings, work=tuple(work),
        )  # fmt: skip

    def drawn(self) -> list[tuple[int, ...]]:
        """The sequences: what the tokenizer begins with, random tokens, and these once more."""
        rng = stats.generator(self.seed, "head scores")
        found = []
        for _ in range(self.sequences):
            once = rng.choice(self._tokens(), self.length, replace=False).tolist()
            found.append((*self._start(), *once, *once))
        return found

    def _start(self) -> tuple[int, ...]:
        return tuple(original_tokenizer(self.model)("").input_ids)

    def _tokens(self) -> list[int]:
        tokenizer = original_tokenizer(self.model)
        known = min(len(tokenizer), self.model.cfg.d_vocab)
        return sorted(set(range(known)) - set(tokenizer.all_special_ids))

    def _rows(self, number: int, tokens: tuple[int, ...]) -> pd.DataFrame:
        found = scores_of(self.model, tokens, self.length)
        layer, head = np.indices(found["prefix_matching"].shape)
        columns = {name: values.ravel() for name, values in found.items()}
        return pd.DataFrame(
            {"sequence": number, "layer": layer.ravel(), "head": head.ravel(), **columns}
        )


@torch.inference_mode()
def scores_of(model: HookedTransformer, tokens: Sequence[int], length: int) -> dict[str, Scores]:
    """The scores of every head on one sequence that ends in ``length`` tokens given twice.

    Read at the repeated tokens, but for the last, whose successor is not given: mean attention to
    the successor of the first occurrence (``prefix_matching``), to the first occurrence
    (``duplicate_token``); at all tokens but the first, to the one before (``previous_token``); and
    what the head adds directly to the logit of the right next token, against the mean over the
    sequence's tokens, in nats (``induction``).
    """
    cfg, first = model.cfg, len(tokens) - 2 * length
    queries = torch.arange(first + length, len(tokens) - 1, device=model.W_E.device)
    every = torch.arange(first + 1, len(tokens), device=queries.device)
    places = {
        "prefix_matching": (queries, queries - length + 1),
        "duplicate_token": (queries, queries - length),
        "previous_token": (every, every - 1),
    }
    found = {name: np.zeros((cfg.n_layers, cfg.n_heads)) for name in places}
    sites = _no_sites(model, len(queries))

    def attended(pattern: torch.Tensor, hook: Any) -> None:
        for name, (at, to) in places.items():
            found[name][hook.layer()] = pattern[0, :, at, to].double().mean(-1).cpu().numpy()

    def wrote(z: torch.Tensor, hook: Any) -> None:
        sites.z[hook.layer()] = z[0, queries]

    def left(resid: torch.Tensor, hook: Any) -> None:
        sites.final[:] = resid[0, queries]

    hooks: list[Any] = [
        (lambda name: name.endswith("attn.hook_pattern"), attended),
        (lambda name: name.endswith("attn.hook_z"), wrote),
        (f"blocks.{cfg.n_layers - 1}.hook_resid_post", left),
    ]
    asked = torch.tensor([list(tokens)], device=queries.device)
    model.run_with_hooks(asked, fwd_hooks=hooks, stop_at_layer=cfg.n_layers)
    logits = uncapped_logits_of(model, sites.final).double()
    weights = torch.zeros_like(logits)
    weights[:, asked[0, -length:]] = 1 / length
    reading = read_differences(model, logits, asked[0, queries + 1], weights[:, None])
    heads = direct(model, sites, reading).heads[:, 0]
    return found | {"induction": heads.mean(0).cpu().numpy()}


def _no_sites(model: HookedTransformer, count: int) -> LastSites:
    cfg, zeros = model.cfg, model.W_E.new_zeros
    wide = zeros(cfg.n_layers, count, cfg.d_model)
    z = zeros(cfg.n_layers, count, cfg.n_heads, cfg.d_head)
    return LastSites(zeros(count, cfg.d_model), z, wide, wide, zeros(count, cfg.d_model))
