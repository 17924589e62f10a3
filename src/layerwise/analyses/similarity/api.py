"""Similarity of layers: how much each turns the residual stream, and which are alike."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Unpack

import numpy as np
import pandas as pd

from layerwise.analyses.arguments import Protocols, Tasks, check_arguments, generate_refusal
from layerwise.analyses.execute import execute_job
from layerwise.ground.layer_names import DECODER, ENCODER
from layerwise.models.arguments import LoadedModel
from layerwise.models.instance.exclusive import exclusive
from layerwise.runs.checkpoints import CheckpointStore
from layerwise.runs.dry_sweeps import cost_of_prompts
from layerwise.runs.options import RunOptions
from layerwise.runs.pieces import Made, run_resumable
from layerwise.runs.progress import Meter
from layerwise.runs.setup import Setup, prepare
from layerwise.storage.parquet import conform, frame
from layerwise.sweep.activations.streams import Streams, read_streams
from layerwise.sweep.plans.cost import Cost
from layerwise.sweep.requests import Tokens
from layerwise.tasks import Task
from layerwise.tasks.items import Item

from .measures import angular_distances, linear_cka, unbiased_cka
from .result import SimilarityResult

refuse_generate = generate_refusal("Similarity is read on the prompts")


@check_arguments(refuse_generate)
@exclusive
def similarity(
    model: LoadedModel,
    tasks: Tasks = "all",
    protocols: Protocols = ("letter", "continuation"),
    **run: Unpack[RunOptions],
) -> SimilarityResult:
    """Compare the residual streams that enter and leave layers, on the tasks' prompts.

    Angular distance at the prompt's last position, of what enters a layer and what enters the
    n-th layer after it, for every n (Gromov et al. 2024, arXiv:2403.17887); block influence, over
    all positions (Men et al. 2024, arXiv:2403.03853); linear CKA at the last position, over
    prompts (Kornblith et al. 2019, arXiv:1905.00414). ``docs/similarity.md`` has the formulas.

    The stacks of an encoder-decoder are read apart: the encoder's stream is averaged over its
    positions, the decoder's is read where the answer begins.

    Args:
        protocols: ``letter`` or ``continuation``: whose prompts are read. The prompt of
            ``generate`` is that of ``continuation``.

    Raises:
        UserError: for anything unknown, out of range or contradictory, before work begins.
    """
    setup = prepare(model, tasks, protocols, **run)
    return execute_job(Similarity(setup), SimilarityResult, "similarity", run)


@dataclass(frozen=True)
class Similarity:
    """A planned comparison; one piece per task and protocol."""

    setup: Setup

    def settings(self) -> dict[str, Any]:
        """Settings that make it this comparison: nothing but its set-up."""
        return {}

    def __post_init__(self) -> None:
        refuse_generate(self.setup.protocols)
        for task, protocol in self.setup.pieces():  # bad input is refused before any work is done
            prompts(self.setup, task, task.items, protocol)

    def run(
        self, parts: CheckpointStore, settings: dict[str, Any], progress: Meter
    ) -> SimilarityResult:
        """Make the pieces that are missing, and join all of them."""
        work, (items, cka) = run_resumable(
            self.setup.executor, parts, progress, "comparing layers", self.setup.pieces(),
            ("similarity", "cka"), self.expected_cost, self._piece,
        )  # fmt: skip
        return SimilarityResult(items, cka, self.setup.facts(settings, work))

    def _piece(self, task: Task, protocol: str) -> Made:
        started = time.perf_counter()
        stacks = prompt_streams(self.setup, task, task.items, protocol)
        key = {"task": task.name, "capability": task.capability, "protocol": protocol}
        names = (ENCODER, DECODER) if len(stacks) > 1 else (None,)
        items, cka, before = [], [], 0
        for name, streams in zip(names, stacks, strict=True):
            read, n_layers = streams.read.numpy(), len(streams.influence)
            angular = angular_distances(read)
            items += [
                {
                    **key,
                    "item": item.id,
                    "layer": before + layer,
                    "influence": float(streams.influence[layer, i]),
                    "angular": angular[i, layer, layer + 1 :].tolist(),
                }
                for i, item in enumerate(task.items)
                for layer in range(n_layers)
            ]
            # every pair of depths of a stack, the shallower one first
            pair = np.triu_indices(len(read))
            values = {"cka": linear_cka(read)[pair], "cka_unbiased": unbiased_cka(read)[pair]}
            table = pd.DataFrame({"layer": before + pair[0], "other": before + pair[1], **values})
            cka.append(table.assign(**key, stack=name, n_items=read.shape[1]))
            before += n_layers
        entry = {
            "analysis": "similarity",
            "task": task.name,
            "protocol": protocol,
            "seconds": time.perf_counter() - started,
        }
        tables = {"similarity": frame("similarity", items), "cka": conform("cka", pd.concat(cka))}
        return entry, tables

    def expected_cost(self, task: Task, *protocols: str) -> Cost:
        """Expected cost of reading a task's prompts."""
        setup = self.setup
        read = (prompts(setup, task, task.items, protocol) for protocol in protocols)
        return sum((cost_of_prompts(setup, task, one) for one in read), start=Cost())


def prompts(setup: Setup, task: Task, items: Sequence[Item], protocol: str) -> list[Tokens]:
    """The tokens of the items' prompts; ``generate`` has those of ``continuation``."""
    contexts = []
    for item in items:
        plain = protocol == "continuation" and not item.choices
        requests = setup.requests(task, item, "generate" if plain else protocol)
        contexts.append(next(request for request in requests if request.gold).request.context)
    return contexts


def prompt_streams(
    setup: Setup, task: Task, items: Sequence[Item], protocol: str
) -> tuple[Streams, ...]:
    """The residual streams of the items' prompts, of each stack."""
    contexts = prompts(setup, task, items, protocol)
    return read_streams(setup.model, contexts, memory_budget=setup.memory_budget)
