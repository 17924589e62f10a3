"""Direct logit attribution: what each layer, sublayer and head adds to the answer's logit.

The final residual stream is the sum of what all parts wrote, and the logits are read from it;
what each part wrote is read the same way (Elhage et al. 2021, "A Mathematical Framework for
Transformer Circuits"). Of an encoder-decoder the decoder is read in this way, and what it reads of
the encoder by cross-attention too. Formulas, and what this cannot say, are in
``docs/attribution.md``.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated, Any, Unpack

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float

from layerwise.analyses.arguments import Protocols, Tasks, check_arguments, generate_refusal
from layerwise.analyses.execute import execute_job
from layerwise.analyses.shared.decompose.decoder import Direct, Values, direct, read_differences
from layerwise.analyses.shared.decompose.seq2seq import direct_seq2seq
from layerwise.analyses.shared.left_out import exclusion_entry
from layerwise.errors import UserError
from layerwise.ground.argument_types import known_name_validator
from layerwise.models.arguments import LoadedModel
from layerwise.models.instance.exclusive import exclusive
from layerwise.models.instance.kinds import Model, is_seq2seq, logit_cap
from layerwise.runs.checkpoints import CheckpointStore
from layerwise.runs.controls import with_another_question
from layerwise.runs.dry_sweeps import Sweeper, cost_of_prompts, cost_of_sweeps
from layerwise.runs.options import RunOptions
from layerwise.runs.pieces import Made, run_resumable
from layerwise.runs.progress import Meter
from layerwise.runs.records import with_clusters
from layerwise.runs.setup import Setup, prepare
from layerwise.storage.parquet import conform, frame
from layerwise.sweep import LogLikelihood, Scored, intact
from layerwise.sweep.activations.sites import last_sites, seq2seq_sites
from layerwise.sweep.plans.cost import Cost
from layerwise.sweep.plans.plan import DEFAULT_MEMORY_BUDGET
from layerwise.sweep.requests import Tokens
from layerwise.sweep.walk.readout import uncapped_logits
from layerwise.tasks import Task
from layerwise.tasks.items import Item

from .result import ANALYSIS, AttributionResult

AGAINST = ("mean", "best")
# Prompts that are read together at most.
_AT_ONCE = 64
METRICS = ("logit_diff", "logprob")
_BY_LAYER = (
    "attn_out", "mlp_out", "attn_bias", "z", "layer_norm_bias", "cross_attn_out",
    "cross_attn_bias", "cross_v_bias", "cross_z",
)  # fmt: skip


@dataclass(frozen=True)
class Question:
    """An item's prompt, its answer's first token and the distinct ones of the other choices."""

    item: str
    context: Tokens
    answer: int
    distractors: tuple[int, ...]


refuse_generate = generate_refusal("Attribution reads the prompt")


@dataclass(frozen=True)
class Attribution:
    """A planned attribution; one piece per task and protocol."""

    setup: Setup
    against: str = "mean"
    strict: bool = True

    def __post_init__(self) -> None:
        refuse_generate(self.setup.protocols)
        for task, protocol in self.setup.pieces():
            questions = self.questions(task, protocol)  # bad input is told before any work is done
            if self.strict and not questions:
                raise UserError(
                    f"Attribution reads an answer's first token, but in task {task.name!r} under "
                    f"protocol {protocol!r} every answer begins with the same token as another of "
                    "its choices; use choices that differ in their first token, or another "
                    "protocol."
                )

    def settings(self) -> dict[str, Any]:
        """Settings that make it this attribution and no other."""
        return {"against": self.against}

    def questions(self, task: Task, protocol: str) -> list[Question]:
        """The items whose answer can be told from the other choices by its first token."""
        every = [self._question(task, item, protocol) for item in task.items]
        return [question for question in every if question.answer not in question.distractors]

    def _question(self, task: Task, item: Item, protocol: str) -> Question:
        if not item.choices and protocol == "continuation":
            item = replace(item, choices=(item.answer,))
        first: dict[bool, list[int]] = {True: [], False: []}
        context: Tokens = ()
        for request in self.setup.requests(task, item, protocol):
            assert isinstance(request.request, LogLikelihood)
            context = request.request.context
            first[request.gold].append(request.request.continuation[0])
        return Question(item.id, context, first[True][0], tuple(dict.fromkeys(first[False])))

    def _blind(self, task: Task, protocol: str, by: Sweeper) -> dict[str, bool]:
        """True where the answer's first token is right when another question is asked, by item."""
        there = {question.item for question in self.questions(task, protocol)}
        items = [item for item in task.items if item.id in there]
        questions = []
        for item, other in with_another_question(self.setup, task, items).items():
            with contextlib.suppress(UserError):  # one that cannot be asked
                questions.append(replace(self._question(task, other, protocol), item=item))
        if not questions:
            return {}
        requests = [
            [LogLikelihood(each.context, (token,)) for token in (each.answer, *each.distractors)]
            for each in questions
        ]
        (outcomes,) = by.sweep([intact()], [r for of in requests for r in of]).outcomes
        scored = iter([outcome for outcome in outcomes if isinstance(outcome, Scored)])
        right = {}
        for question, scores in zip(questions, requests, strict=True):
            answer, *others = [next(scored) for _ in scores]
            above = all(answer.logprob > other.logprob for other in others)
            right[question.item] = above if others else answer.greedy
        return right

    def run(
        self, parts: CheckpointStore, settings: dict[str, Any], progress: Meter
    ) -> AttributionResult:
        """Make the pieces that are missing, and join all of them."""
        pieces = [(t, p) for t, p in self.setup.pieces() if self.questions(t, p)]
        kinds = ("attribution",)
        work, (table,) = run_resumable(
            self.setup.executor, parts, progress, "attributing answers", pieces, kinds,
            self.expected_cost, self._piece,
        )  # fmt: skip
        unread = [self._entry(t, p) for t, p in self.setup.pieces() if (t, p) not in pieces]
        facts = self.setup.facts(settings, [*work, *unread])
        return AttributionResult(table if pieces else frame("attribution", []), facts)

    def expected_cost(self, task: Task, *protocols: str) -> Cost:
        """Expected cost of a task: the intact model once per prompt."""
        total = Cost()
        for protocol in protocols:
            for some in self._batches(task, protocol):
                total += cost_of_prompts(self.setup, task, [question.context for question in some])
            total += cost_of_sweeps(self.setup, task, partial(self._blind, task, protocol))
        return total

    def _batches(self, task: Task, protocol: str) -> list[list[Question]]:
        """Questions in groups that are read together, for a quarter of the memory budget."""
        questions = self.questions(task, protocol)
        cfg, itemsize = self.setup.model.cfg, self.setup.model.W_E.element_size()
        sites = 2 * cfg.d_model + cfg.n_heads * cfg.d_head
        # Logits, probabilities, slopes and pulls, in float64 and by metric.
        each = cfg.n_layers * sites * itemsize + 10 * 8 * cfg.d_vocab
        if is_seq2seq(self.setup.model):
            # The encoder is kept at all positions; the directions there, in float64 and by metric,
            # and, behind every norm of a post-norm model, the stream.
            heads = 2 * 8 * 3 * max(cfg.d_model, cfg.n_heads * cfg.d_head)
            looked = cfg.n_decoder_layers * cfg.decoder_heads * itemsize
            streams = 2 * cfg.d_model * cfg.post_norm
            token = cfg.n_encoder_layers * (sites + streams) * itemsize + looked + heads
            each += max((len(question.context) for question in questions), default=0) * token
        at_once = max(1, min(_AT_ONCE, self.setup.memory_budget // 4 // each))
        return [questions[start : start + at_once] for start in range(0, len(questions), at_once)]

    def _piece(self, task: Task, protocol: str) -> Made:
        started = time.perf_counter()
        together = self._batches(task, protocol)
        read = [
            read_parts(self.setup.model, some, self.against, self.setup.memory_budget)
            for some in together
        ]
        tables, gaps = zip(*read, strict=True)
        named = {"task": task.name, "capability": task.capability, "protocol": protocol}
        table = with_clusters(pd.concat(tables, ignore_index=True).assign(**named), [task])
        right = self._blind(task, protocol, self.setup)
        blind = pd.array([right.get(str(item)) for item in table["item"]], dtype="boolean")
        entry = {
            **self._entry(task, protocol),
            "largest_gap": max(gaps),
            "seconds": time.perf_counter() - started,
        }
        return entry, {"attribution": conform("attribution", table.assign(blind=blind))}

    def _entry(self, task: Task, protocol: str) -> dict[str, Any]:
        """Name of the work on a task, and which of its items are not read."""
        read = {one.item for one in self.questions(task, protocol)}
        unread = [item.id for item in task.items if item.id not in read]
        why = "the answer and another choice begin with the same token"
        named = {"analysis": ANALYSIS, "task": task.name, "protocol": protocol}
        return {**named, **exclusion_entry(unread, why)}


@torch.inference_mode()
def read_parts(
    model: Model,
    questions: Sequence[Question],
    against: str = "mean",
    memory_budget: int = DEFAULT_MEMORY_BUDGET,
) -> tuple[pd.DataFrame, float]:
    """The parts of some questions, and by how much their sum misses the total at most."""
    contexts = [q.context for q in questions]
    read_sites, take_apart = (
        (seq2seq_sites, direct_seq2seq) if is_seq2seq(model) else (last_sites, direct)
    )
    sites: Any = read_sites(model, contexts, memory_budget=memory_budget // 2)  # type: ignore[arg-type]
    uncapped, cap = uncapped_logits(model, sites.final).double(), logit_cap(model)
    logits = uncapped if cap is None else cap * torch.tanh(uncapped / cap)
    answers = torch.tensor([q.answer for q in questions], device=uncapped.device)
    logprobs = torch.log_softmax(logits, dim=-1)
    distractors = torch.zeros_like(logits)  # that the answer's logit is compared with
    for row, question in enumerate(questions):
        tokens = list(question.distractors)
        if against == "best" and tokens:
            tokens = [max(tokens, key=lambda token, row=row: float(logits[row, token]))]
        distractors[row, tokens] = 1 / max(1, len(tokens))
    weights = torch.stack([distractors, logprobs.exp()], dim=1)
    entropy = -(logprobs.exp() * logprobs).sum(-1)
    reading = read_differences(model, uncapped, answers, weights)
    parts = take_apart(model, sites, reading)  # type: ignore[arg-type]
    table = as_table([q.item for q in questions], reading.value, parts, entropy)
    right, chance = _right(questions, logits)
    # Without distractors there is no difference, and a difference has no entropy.
    compared = table["item"].isin([q.item for q in questions if q.distractors])
    keep = (table["metric"] == "logprob") | (compared & (table["component"] != "entropy"))
    seen = pd.DataFrame({"item": [q.item for q in questions], "correct": right, "chance": chance})
    return table.loc[keep].merge(seen, on="item"), parts.gap(reading.value)


def _right(
    questions: Sequence[Question], logits: Float[torch.Tensor, "item d_vocab"]
) -> tuple[Bool[np.ndarray, " item"], Float[np.ndarray, " item"]]:
    """True where the answer's first token is above those of the other choices; chance of that."""
    right, chance = [], []
    for row, question in zip(logits, questions, strict=True):
        others = row[list(question.distractors)] if question.distractors else row
        above = others >= row[question.answer]
        # Without choices the answer itself is among all tokens.
        right.append(int(above.sum()) == (0 if question.distractors else 1))
        chance.append(1 / (len(question.distractors) + 1 if question.distractors else len(row)))
    return np.array(right), np.array(chance)


def as_table(
    items: Sequence[str],
    value: Values,
    parts: Direct,
    entropy: Float[torch.Tensor, " item"],
) -> pd.DataFrame:
    """One row per item, metric and part; the total is the last of each."""
    less = torch.stack([torch.zeros_like(entropy), -entropy], dim=1)
    # what parts are called, and their first layer, the encoder's before others
    n_encoder = parts.encoder["attn_out"].shape[2] if parts.encoder else 0
    stacks = (("encoder_", 0, parts.encoder), ("", n_encoder, parts.own))
    listed = [
        (component.removeprefix("layer_"), first, stack[component])
        for component in _BY_LAYER for _, first, stack in stacks if component in stack
    ]  # fmt: skip
    listed += [
        (f"{prefix}{component}", 0, stack[component])
        for prefix, _, stack in stacks
        for component in ("embedding", "norm_bias", "unembed_bias") if component in stack
    ]  # fmt: skip
    names, values = [], []
    for component, first, part in (*listed, ("entropy", 0, less), ("total", 0, value + less)):
        for layer, head in ((*place, None, None)[:2] for place in np.ndindex(*part.shape[2:])):
            names.append((component, None if layer is None else first + layer, head))
        values.append(part.reshape(*part.shape[:2], -1))
    index = pd.MultiIndex.from_product([items, METRICS, range(len(names))])
    item, metric, part = (index.get_level_values(level) for level in range(3))
    named = pd.DataFrame(names, columns=["component", "layer", "head"])
    named = named.astype({"layer": "Int64", "head": "Int64"})
    table = named.iloc[part].reset_index(drop=True)
    values = torch.cat(values, dim=2).cpu().numpy()
    return table.assign(item=item, metric=metric, value=values.ravel())


@check_arguments(refuse_generate)
@exclusive
def attribution(
    model: LoadedModel,
    tasks: Tasks = "all",
    protocols: Protocols = ("letter", "continuation"),
    *,
    against: Annotated[str, known_name_validator("distractor to compare with", AGAINST)] = "mean",
    **run: Unpack[RunOptions],
) -> AttributionResult:
    """Decompose the answer's logit difference and log-probability by layer and head.

    Read at the prompt's last position, of the answer's first token. Only what a part writes
    directly is counted, not what later layers make of it. Of an encoder-decoder the decoder is read
    where it begins to answer, and what it reads there of the encoder is taken apart by the
    encoder's parts, with the patterns of cross-attention held.

    Args:
        protocols: ``letter`` or ``continuation``: whose prompt is read. The prompt of
            ``generate`` is that of ``continuation``.
        against: the answer's logit minus the ``mean`` of the distractors', or minus that of the
            ``best`` one.

    Returns:
        One row per item, metric and part, values in nats. Layers are numbered in the order of
        computation. The parts that sum to the total of the item and metric are told in
        ``docs/attribution.md``.

    Raises:
        UserError: for anything unknown, a model with a norm of unknown kind, or a task of which
            no item can be read because the answer begins with the same token as a distractor.
    """
    setup = prepare(model, tasks, protocols, **run)
    job = Attribution(setup, against)
    return execute_job(job, AttributionResult, "direct logit attribution", run)
