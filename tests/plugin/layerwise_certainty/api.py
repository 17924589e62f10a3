"""The public function, and the job that it carries out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Unpack

from layerwise.analyses.arguments import Protocols, Tasks, check_arguments
from layerwise.analyses.execute import execute_job
from layerwise.analyses.logit_lens.job import Lens
from layerwise.models.arguments import LoadedModel
from layerwise.models.instance.exclusive import exclusive
from layerwise.runs.checkpoints import CheckpointStore
from layerwise.runs.options import RunOptions
from layerwise.runs.progress import Meter
from layerwise.runs.setup import Setup, prepare
from layerwise.sweep.plans.cost import Cost
from layerwise.tasks import Task

from .result import CertaintyResult


@check_arguments()
@exclusive
def certainty(
    model: LoadedModel,
    tasks: Tasks = "all",
    protocols: Protocols = ("letter", "continuation"),
    **run: Unpack[RunOptions],
) -> CertaintyResult:
    """Measure how sure the logit lens is after each layer.

    Args:
        protocols: ``letter`` or ``continuation``: whose prompt is read.

    Returns:
        One row per task, protocol, item and layer.
    """
    return execute_job(
        Certainty(Lens(prepare(model, tasks, protocols, **run))), CertaintyResult, "certainty", run
    )


@dataclass(frozen=True)
class Certainty:
    """Entropies of the logit lens."""

    lens: Lens
    shared: bool = False  # whether a profile has read these pieces already

    @property
    def setup(self) -> Setup:
        return self.lens.setup

    def settings(self) -> dict[str, Any]:
        return {}

    def expected_cost(self, task: Task, /, *protocols: str) -> Cost:
        return Cost() if self.shared else self.lens.expected_cost(task, *protocols)

    def run(
        self, parts: CheckpointStore, settings: dict[str, Any], progress: Meter
    ) -> CertaintyResult:
        read = self.lens.run(parts, settings, progress)
        work = () if self.shared else read.facts.work
        columns = ["task", "capability", "item", "protocol", "layer", "entropy"]
        last = read.lens.loc[read.lens["pos"] == -1, columns]
        return CertaintyResult(last, read.facts.model_copy(update={"work": work}))
