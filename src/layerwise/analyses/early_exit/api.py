"""Early exit: which layers after the last one needed for an answer could be left out, unchanged.

The logit lens (nostalgebraist 2020) reads each exit; losses are tested from the last layer down, as
CALM does with thresholds (Schuster et al. 2022, arXiv:2207.07061).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Unpack

from layerwise.analyses.arguments import Protocols, Tasks, check_arguments
from layerwise.analyses.execute import execute_job
from layerwise.analyses.logit_lens.job import Lens, refuse_protocols
from layerwise.analyses.logit_lens.result import answer_rows
from layerwise.models.arguments import LoadedModel
from layerwise.models.instance.exclusive import exclusive
from layerwise.runs.checkpoints import CheckpointStore
from layerwise.runs.options import RunOptions
from layerwise.runs.progress import Meter
from layerwise.runs.setup import Setup, prepare
from layerwise.stats.share_tests.equivalence import SmallestEffects, check_smallest_effects
from layerwise.storage.parquet import conform
from layerwise.sweep.plans.cost import Cost
from layerwise.tasks import Task

from .result import EarlyExitResult


def refuse_generate(protocols: Sequence[str]) -> None:
    """Refuse the protocol that has no prompts of its own."""
    refuse_protocols("prompt", protocols)


@check_arguments(refuse_generate, check_smallest_effects)
@exclusive
def early_exit(
    model: LoadedModel,
    tasks: Tasks = "all",
    protocols: Protocols = ("letter", "continuation"),
    *,
    smallest_loss: float = 0.05,
    **run: Unpack[RunOptions],
) -> EarlyExitResult:
    """Find from which layer on the model could stop, and what stopping there costs.

    The final norm and the unembedding read the residual stream after each layer, at the prompt's
    last position. An exit is right where the answer's first token is on top of the whole
    vocabulary. Of an encoder-decoder the whole decoder also reads the encoder after each layer.

    Args:
        protocols: ``letter`` or ``continuation``: whose prompt is read. The prompt of
            ``generate`` is that of ``continuation``.
        smallest_loss: loss of accuracy, 0 to 1, below which an exit is safe.

    Returns:
        One row per task, protocol, item and exit. ``exits()`` has accuracy, nats and tests of each
        exit, ``earliest()`` the first safe one.

    Raises:
        UserError: for anything unknown, or a task of which no item can be read because the
            answer begins with the same token as a distractor.

    Example:
        >>> import layerwise as lw
        >>> model = lw.load_model("wired-decoder")
        >>> found = lw.early_exit(
        ...     model, "wired-lookup", "continuation", limit=60, progress=False
        ... )
        >>> found.earliest()[["task", "protocol", "layer", "acc"]]
                   task      protocol  layer  acc
        0  wired-lookup  continuation      8  1.0
    """
    check_smallest_effects(smallest_loss)
    setup = prepare(model, tasks, protocols, interest=SmallestEffects(loss=smallest_loss), **run)
    return execute_job(EarlyExit(Lens(setup)), EarlyExitResult, "early exit", run)


@dataclass(frozen=True)
class EarlyExit:
    """Exits from a model, read by the logit lens."""

    lens: Lens
    shared: bool = False  # whether the run has read these pieces already, for the lens itself

    @property
    def setup(self) -> Setup:
        """Setup that it starts from."""
        return self.lens.setup

    def settings(self) -> dict[str, Any]:
        """Settings that make it this one and no other, beside its set-up."""
        return {}

    def expected_cost(self, task: Task, /, *protocols: str) -> Cost:
        """Expected cost of a task: nothing where the lens is read anyway."""
        return Cost() if self.shared else self.lens.expected_cost(task, *protocols)

    def run(
        self, parts: CheckpointStore, settings: dict[str, Any], progress: Meter
    ) -> EarlyExitResult:
        """Read what is missing, and join all of it."""
        read = self.lens.run(parts, settings, progress)
        work = () if self.shared else read.facts.work
        facts = read.facts.model_copy(update={"work": work})
        return EarlyExitResult(conform("early_exit", answer_rows(read.lens)), facts)
