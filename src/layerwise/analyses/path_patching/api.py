"""Path patching: which components act on a receiver directly, not by way of others.

The receiver is the query, key or value of a head, an MLP, or the logits.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, Unpack

import torch

from layerwise.analyses.arguments import Tasks, check_arguments
from layerwise.analyses.execute import execute_job
from layerwise.analyses.patching.pairs import Measured, PairJob, SolvedPair, cost_of_passes
from layerwise.analyses.patching.tables import DIRECTIONS, order_runs
from layerwise.errors import UserError
from layerwise.ground.argument_types import SomeNames, known_name_validator
from layerwise.models.arguments import LoadedModel
from layerwise.models.instance.exclusive import exclusive
from layerwise.models.instance.kinds import (
    Model,
    decoder_prefix,
    has_norms_after,
    n_encoder_layers,
    token_passes,
)
from layerwise.runs.options import PairOptions
from layerwise.runs.setup import prepare
from layerwise.sweep import SweepStats
from layerwise.sweep.plans.cost import Cost
from layerwise.sweep.requests import Tokens
from layerwise.tasks import PatchingPrompts, Task

from .paths import Receiver, model_senders, parse_receiver, receiver_logprobs, sender_outputs
from .result import PathPatchingResult


@check_arguments()
@exclusive
def patch_paths(
    model: LoadedModel,
    tasks: Tasks | None = None,
    receivers: SomeNames = "logits",
    *,
    direction: Annotated[str, known_name_validator("direction", DIRECTIONS)] = "noising",
    pairs: int = 16,
    **run: Unpack[PairOptions],
) -> PathPatchingResult:
    """Find which heads and MLPs act on a receiver directly (path patching).

    The sender's output, at all positions, is taken from the other prompt's run, but reaches only
    the receiver: all else that it might act through is held as it was. Senders are all heads and
    MLPs that write before the receiver into the stream that it reads, and the embedding. Into the
    logits this takes three forwards a pair, into other receivers one or two more a sender.

    In an encoder-decoder the streams of the two stacks meet in cross-attention alone: its keys
    and values read the encoder's output, so that they hear what is in the encoder; its queries,
    and all else in the decoder, hear what is in the decoder. Norms that a stream passes on the
    way (the encoder's final norm; in a post-norm model those of the sums) are computed anew, as
    the receiver's own is.

    Args:
        model: the model; its sublayers must add to the stream without a norm of their own after.
        tasks: task names, capabilities, or ``Task`` values whose items have corruptions; if None
            ``kv-words`` and ``facts``, or all suites of the toy language that the model speaks.
        receivers: ``logits``, ``mlp:LAYER``, or ``q:LAYER.HEAD``, ``k:...``, ``v:...``.
            Encoder-decoders have addresses for layers, such as ``mlp:encoder.3``, and
            ``cross_q:decoder.3.1``, ``cross_k:...``, ``cross_v:...``.
        direction: ``noising``: the clean run is patched; ``denoising``: the corrupted one.

    Returns:
        One row per pair, receiver and sender.

    Raises:
        UserError: for anything unknown, a task without pairs, or a model whose sublayers'
            outputs are normed before they are added.
    """
    setup = prepare(model, tasks, ("continuation",), paired=True, **run)
    job = PathPatching(setup, pairs, tuple(receivers), direction)
    return execute_job(job, PathPatchingResult, "path patching", run)


@dataclass(frozen=True)
class PathPatching(PairJob):
    """A planned path patching."""

    table = "path_patching"
    analysis = "path patching"
    result = PathPatchingResult

    receivers: tuple[str, ...]
    direction: str

    def __post_init__(self) -> None:
        self._receivers()
        cfg: Any = self.setup.model.cfg
        refuse_post_norms(cfg)
        super().__post_init__()

    def _receivers(self) -> list[Receiver]:
        return [parse_receiver(name, self.setup.model) for name in self.receivers]

    def settings(self) -> dict[str, Any]:
        """Settings that make it this path patching and no other."""
        return {
            "receivers": list(self.receivers),
            "direction": self.direction,
            "pairs": self.pairs,
        }

    def cost(self, task: Task, some: Sequence[PatchingPrompts]) -> Cost:
        """Expected cost of the paths of some pairs."""
        passes = sum(self._work_of_pair(prompts).token_passes for prompts in some)
        return cost_of_passes(self.setup.model, passes)

    def _work_of_pair(self, prompts: PatchingPrompts) -> SweepStats:
        """Work of the paths of a pair: its two runs, and those into each receiver."""
        model = self.setup.model
        tokens, _ = order_runs(prompts.clean, prompts.corrupted, self.direction)
        senders, parallel = model_senders(model), model.cfg.parallel_attn_mlp
        work = _work(2, model.cfg.n_layers, token_passes(model, len(tokens)))
        for receiver in self._receivers():
            n_heard = sum(receiver.hears(sender, parallel) for sender in senders)
            work = work + _receiver_work(model, tokens, receiver, n_heard)
        return work

    def measure(self, task: Task, pairs: Sequence[SolvedPair]) -> Measured:
        """A row for every receiver and sender of each pair, and what they cost."""
        rows, stats = zip(*map(self._paths, pairs), strict=True)
        return [row for of_pair in rows for row in of_pair], sum(stats, start=SweepStats())

    def _paths(self, pair: SolvedPair) -> Measured:
        """A row for every receiver and sender of one pair."""
        model, prompts = self.setup.model, pair.prompts
        tokens, source = pair.runs(self.direction)
        started, parallel = time.perf_counter(), model.cfg.parallel_attn_mlp
        senders = model_senders(model)
        runs = sender_outputs(model, source, senders), sender_outputs(model, tokens, senders)
        flows = [clean - corrupted for clean, corrupted in zip(*runs, strict=True)]
        rows = []
        for receiver in self._receivers():
            chosen = [i for i, sender in enumerate(senders) if receiver.hears(sender, parallel)]
            heard, flowing = [senders[i] for i in chosen], torch.stack([flows[i] for i in chosen])
            logprobs = receiver_logprobs(model, tokens, receiver, heard, flowing)
            values = (
                logprobs[:, prompts.clean_answer] - logprobs[:, prompts.corrupted_answer]
            ).tolist()
            base, aim = pair.diffs(self.direction)
            rows += [
                {
                    **pair.row(self.direction),
                    "receiver": receiver.name,
                    "sender": sender.name,
                    "site": sender.site,
                    "layer": sender.layer,
                    "head": sender.head,
                    "patched_diff": patched,
                    "recovered": (patched - base) / (aim - base),
                }
                for sender, patched in zip(heard, values, strict=True)
            ]
        seconds = time.perf_counter() - started
        return rows, replace(self._work_of_pair(prompts), seconds=seconds)


def _work(n: int, blocks: int, tokens: int) -> SweepStats:
    """Of n forwards, each of so many blocks and so many passes of a token through one."""
    return SweepStats(n * blocks, n * blocks, n * tokens, n * tokens)


def _receiver_work(model: Model, tokens: Tokens, receiver: Receiver, n_senders: int) -> SweepStats:
    """Work of ``receiver_logprobs``."""
    whole = model.cfg.n_layers, token_passes(model, len(tokens))
    work = _work(1, *whole)
    if receiver.layer is None:
        return work
    n_encoder = n_encoder_layers(model)
    if not n_encoder:
        return work + _work(2 * n_senders, *whole)
    if receiver.layer < n_encoder:
        return work + _work(n_senders, *whole)
    n_decoder = model.cfg.n_layers - n_encoder
    return work + _work(n_senders, n_decoder, n_decoder * len(decoder_prefix(model)))


def refuse_post_norms(cfg: Any) -> None:
    """Refuse a model in which what a head adds to the stream is no term of a sum."""
    if has_norms_after(cfg):
        raise UserError(
            "The model's sublayers are normed before they add to the stream, so that no head "
            "has a term of its own there; expected another model: path patching cannot be exact."
        )
